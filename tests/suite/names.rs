//! Names of topics: how many topics there may be, and how deleted topics, and topics that only
//! readers name, count.

use leftoff::cursor::{OnGap, StartPoint};
use leftoff::log::contract::{Group, StoredTopic};
use leftoff::log::{Log as _, LogConfig, SledLog};
use leftoff::{Broker, Config, Error, NewEvent, OpenConfig, Publish, TopicConfig, TopicName};

use crate::common::{Server, Sse, get, name, post, send, soon, text, to};

/// Publishes one event. Returns its sequence, or the message of the refusal.
async fn try_publish(broker: &Broker, topic: &str) -> Result<u64, String> {
    let events = vec![NewEvent::new("x")];
    let publish = Publish::new(name(topic), events);
    let ack = broker.publish(publish).await.map_err(|error| error.to_string())?;
    Ok(ack.last().sequence.get())
}

/// Goal: topic names that only readers use, by following them or by being present in them, do not
/// stop publishers from creating topics. Their number has a limit, and they cost nothing once their
/// readers are gone.
#[tokio::test]
async fn what_readers_merely_name_does_not_use_up_the_topics_of_publishers() {
    let mut config = leftoff::Config::default();
    config.limits.max_topics = 2;
    config.limits.max_unborn_topics = 997;
    let server = Server::with(config).await;
    let topics: Vec<_> = (0..997).map(|number| format!("nobody.{number}")).collect();
    let body = serde_json::json!({"topics": topics, "member": {"id": "ann"}}).to_string();
    let request = to(server.address, "POST", "/v1/events");
    let request = request.header("content-type", "application/json");
    let mut sse = Sse::open_with(request, body).await.unwrap();
    assert_eq!(sse.status, 200);
    assert!(soon(sse.next()).await.is_some(), "the stream has not begun");
    let present = get(server.address, "/v1/topics/nobody.996/presence").await;
    assert!(text(&present.body).contains("ann"), "{}", text(&present.body));

    for topic in ["a", "nobody.7"] {
        assert_eq!(try_publish(&server.broker, topic).await, Ok(1));
    }
    for topic in ["b", "nobody.8"] {
        let answer = post(server.address, &format!("/v1/topics/{topic}/events"), "x").await;
        let said = text(&answer.body);
        assert_eq!(answer.status, 413, "{said}");
        assert!(said.contains("topics: 3 is over the limit of 2"), "{said}");
    }
    // One of the names is a topic by now, so one more name fits.
    let follow = |topic: &'static str| async {
        server.broker.subscribe(&name(topic), StartPoint::Latest, OnGap::Resume).await
    };
    let last = follow("c").await.unwrap();
    let Err(Error::OverLimit { name: what, value, limit }) = follow("d").await else {
        panic!("a name over the limit was accepted");
    };
    assert_eq!((value, limit), (998, 997));
    assert_eq!(what, "topics that do not exist yet and are followed");
    drop((last, sse));
    soon(async {
        while follow("d").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Goal: topics can be created and deleted under new names, up to the limit on deleted names, also
/// after a restart. A deleted name that is used again continues its sequences.
#[tokio::test]
async fn deleted_topics_do_not_use_up_the_topics_and_go_on_where_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = OpenConfig::default();
    config.limits.max_topics = 2;
    config.limits.max_deleted_topics = 3;
    let open = || Broker::open(directory.path(), &config).unwrap();
    let delete = |broker: Broker, topic: &'static str| async move {
        broker.delete_topic(&name(topic)).await.map_err(|error| error.to_string())
    };
    let broker = open();
    for topic in ["x", "y", "z"] {
        assert_eq!(try_publish(&broker, topic).await, Ok(1));
        delete(broker.clone(), topic).await.unwrap();
    }
    for topic in ["a", "b"] {
        assert_eq!(try_publish(&broker, topic).await, Ok(1));
    }
    broker.close().await;
    drop(broker);

    let broker = open();
    let over_topics = "topics: 3 is over the limit of 2";
    for topic in ["c", "x"] {
        let refused = try_publish(&broker, topic).await.unwrap_err();
        assert!(refused.contains(over_topics), "{topic}: {refused}");
        let created = broker.create_topic(&name(topic), TopicConfig::default()).await;
        let refused = created.unwrap_err().to_string();
        assert!(refused.contains(over_topics), "{topic}: {refused}");
    }
    let refused = delete(broker.clone(), "a").await.unwrap_err();
    assert!(refused.contains("deleted topics: 4 is over the limit of 3"), "{refused}");
    assert_eq!(try_publish(&broker, "a").await, Ok(2), "the topic was changed");
    broker.close().await;
    drop(broker);

    config.limits.max_topics = 3;
    let broker = Broker::open(directory.path(), &config).unwrap();
    assert_eq!(try_publish(&broker, "x").await, Ok(2), "a sequence was given twice");
    delete(broker.clone(), "a").await.unwrap();
    assert_eq!(try_publish(&broker, "c").await, Ok(1));
    let names: Vec<TopicName> = broker.topics(None, 10).into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["b", "c", "x"].map(name));
    broker.close().await;
}

/// Names that look like others, plain and as in a path: one with U+200B, and one that is not in
/// NFC.
const UNSEEN: [(&str, &str); 2] = [("old\u{200b}", "old%E2%80%8B"), ("e\u{301}te", "e%CC%81te")];

/// Goal: a new name that looks like another one is refused, over each request.
#[tokio::test]
async fn a_new_name_that_is_not_seen_as_what_it_is_is_refused_in_every_way() {
    let server = Server::start().await;
    for (name, path) in UNSEEN {
        let lasting = format!("/v1/topics/{path}/events");
        let posted = to(server.address, "POST", "/v1/events");
        let body = serde_json::json!({"topics": [format!("{name}.*")]}).to_string();
        let answers = [
            post(server.address, &lasting, "x").await,
            post(server.address, &format!("{lasting}?ephemeral=true"), "x").await,
            send(to(server.address, "PUT", &format!("/v1/topics/{path}")), "").await,
            get(server.address, &format!("/v1/events?topic={path}.*")).await,
            get(server.address, &format!("/v1/events?topic=*.{path}")).await,
            send(posted, body).await,
        ];
        for (at, answer) in answers.iter().enumerate() {
            let said = text(&answer.body);
            assert_eq!(answer.status, 400, "{path} {at}: {said}");
            assert!(said.contains("U+200B") || said.contains("normal form C"), "{said}");
        }
    }
    assert_eq!(get(server.address, "/v1/topics").await.json()["topics"], serde_json::json!([]));
    server.stop().await;
    // Settings for invalid names would apply to no topic.
    for (name, _) in UNSEEN {
        let mut config = Config::default();
        config.topics.set(format!("{name}.>").parse().unwrap(), TopicConfig::default());
        let refused = config.validate().unwrap_err().to_string();
        assert!(refused.contains("U+200B") || refused.contains("normal form C"), "{refused}");
    }
}

/// Goal: an existing topic with such a name, from before this rule, is read, published to and
/// deleted as any other.
#[tokio::test]
async fn topics_that_have_such_names_from_before_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let config = OpenConfig::default();
    let open = || Broker::open(directory.path(), &config).unwrap();
    let broker = open();
    for topic in ["a", "b"] {
        assert_eq!(try_publish(&broker, topic).await, Ok(1));
    }
    broker.close().await;
    drop(broker);
    let log = SledLog::open(directory.path(), &LogConfig::default()).unwrap();
    for (topic, (unseen, _)) in log.topics().unwrap().into_iter().zip(UNSEEN) {
        log.commit(&Group::noting(StoredTopic { name: name(unseen), ..topic })).unwrap();
    }
    drop(log);
    let broker = open();
    for (topic, _) in UNSEEN {
        assert_eq!(try_publish(&broker, topic).await, Ok(2));
        let heard = vec![NewEvent::new("x")];
        assert_eq!(broker.publish_ephemeral(&name(topic), heard).unwrap(), 0);
        let pattern = vec![topic.parse().unwrap()];
        broker.feed(pattern, StartPoint::Earliest, OnGap::Fail).await.unwrap();
        let mut reader =
            broker.subscribe(&name(topic), StartPoint::Earliest, OnGap::Fail).await.unwrap();
        soon(reader.next()).await.unwrap();
        broker.delete_topic(&name(topic)).await.unwrap();
    }
    broker.close().await;
}
