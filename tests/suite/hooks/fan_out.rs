//! A publish that names many topics: the caller must be allowed to publish to each, and each topic
//! has its own stamp and its own say of the interceptor.

use leftoff::TopicConfig;
use leftoff::edge::hooks::PUBLISHER_HEADER;
use leftoff::edge::proto::{NewEvent, PublishRequest};
use leftoff::permission::Action;
use serde_json::json;

use super::{Host, by, call};
use crate::common::{grpc, name, send};
use crate::websocket::Client;

/// Publishes an event of this type to topics on each way. Returns the status as over HTTP.
async fn publish_on_each_way(host: &Host, topics: &[&str], event_type: &str) -> Vec<u64> {
    let event = json!({"type": event_type, "data": "x"});
    let body = json!({"topics": topics, "event": event}).to_string();
    let answer = send(by("publisher", host, "POST", "/v1/publish"), body).await;
    let mut statuses = vec![u64::from(answer.status.as_u16())];
    let request = PublishRequest {
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        events: vec![NewEvent { r#type: event_type.to_owned(), ..NewEvent::default() }],
        ..PublishRequest::default()
    };
    let answer = grpc(host.address).await.publish(call("publisher", request)).await;
    statuses.push(match answer {
        Ok(_) => 201,
        Err(status) if status.code() == tonic::Code::PermissionDenied => 403,
        Err(status) => panic!("{status}"),
    });
    let mut socket = Client::connect_as(host.address, "publisher").await;
    socket.say(json!({"type": "publish", "topics": topics, "event": event})).await;
    statuses.push(socket.hear().await["error"]["status"].as_u64().unwrap_or(201));
    statuses
}

/// Goal: one topic that the caller may not publish to refuses the publish on each way, and the
/// answer is the same for a topic that does not exist. The interceptor sees each topic. Events are
/// stamped in the topics that say so, and in no other.
#[tokio::test]
async fn each_topic_is_checked_stamped_and_intercepted_by_itself() {
    let host = Host::start().await;
    host.grant_one("publisher", Action::Publish, "users.>");
    let stamped = TopicConfig::with(|config| config.stamp_publisher = Some(true));
    host.broker.set_topic(&name("users.b"), stamped).await.unwrap();
    host.publish("secret.one", "x").await;
    let before = host.broker.last_position();
    for denied in ["secret.one", "secret.never"] {
        let statuses = publish_on_each_way(&host, &["users.a", denied, "users.b"], "note").await;
        assert_eq!(statuses, [403; 3], "{denied}");
    }
    let statuses = publish_on_each_way(&host, &["users.a", "users.b"], "bad").await;
    assert_eq!(statuses, [403; 3], "the interceptor refuses it");
    assert_eq!(host.broker.last_position(), before, "nothing was stored");
    host.decisions.told();

    let statuses = publish_on_each_way(&host, &["users.a", "users.b", "users.a"], "note").await;
    assert_eq!(statuses, [201; 3]);
    let told = host.decisions.told();
    for topic in ["users.a", "users.b"] {
        let acknowledged = format!("acknowledged {topic} 1");
        assert_eq!(told.iter().filter(|line| **line == acknowledged).count(), 3, "{told:?}");
        let page = host.broker.read(&name(topic), Default::default()).await.unwrap();
        let events: Vec<_> = page.runs.iter().flat_map(leftoff::broker::Run::to_events).collect();
        assert_eq!(events.len(), 3, "{topic}");
        for event in events {
            let headers = &event.content.headers;
            assert_eq!(headers["by"], format!("publisher to {topic}"));
            let stamp = headers.get(PUBLISHER_HEADER).map(String::as_str);
            assert_eq!(stamp, (topic == "users.b").then_some("publisher"), "{topic}");
        }
    }
    host.stop().await;
}
