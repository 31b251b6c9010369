//! Grants on `POST /v1/follow`: what is cut, and what ends with a revocation.

use leftoff::edge::hooks::{Grant, Revoker};
use leftoff::permission::{Action, Permission};
use serde_json::{Value, json};

use super::{CANARY, Host, Way, by};
use crate::common::{Answer, send, soon};
use crate::follow::Stream;

async fn poll(host: &Host, wait: &str, subscriptions: &[Value]) -> Answer {
    let path = format!("/v1/follow?wait={wait}");
    let request = by("guest", host, "POST", &path).header("accept", "application/json");
    send(request, json!({"subscriptions": subscriptions}).to_string()).await
}

/// Goal: a revocation ends a stream and a poll with `expired` as the last message, and no event
/// after it is told.
#[tokio::test]
async fn a_stream_and_a_poll_say_that_the_permission_is_over() {
    for way in [Way::Mounted, Way::Served] {
        let host = Host::by(way).await;
        let revoker = Revoker::default();
        let permission = Permission::default().with(Action::Subscribe, ["t"]).unwrap();
        let grant = Grant::new("guest", permission).revoked_by(revoker.clone());
        host.decisions.grant(grant.without_renewal());
        let asked = [
            json!({"subscription": "s", "topic": "t"}),
            json!({"subscription": "m", "topics": ["t"]}),
        ];
        let mut stream = Stream::open(by("guest", &host, "POST", "/v1/follow"), &asked).await;
        stream.find("caught_up").await;
        stream.find("caught_up").await;
        host.publish("t", "before").await;
        let place = loop {
            let event = stream.find("event").await;
            if event["subscription"] == "m" {
                break event["cursor"].clone();
            }
        };
        host.decisions.told();
        // That a topic is refused tells the test that the poll is under way.
        let topics = json!(["t", "secret.one"]);
        let asked = [json!({"subscription": "m", "topics": topics, "from": place})];
        let (answer, ()) = tokio::join!(soon(poll(&host, "30s", &asked)), async {
            host.decisions.until_told("refused").await;
            revoker.revoke();
            host.publish("t", "after the revocation").await;
        });
        let told = answer.json();
        let messages = told["messages"].as_array().unwrap();
        assert_eq!(messages.last().unwrap()["type"], "expired", "{told}");
        assert_eq!(messages.last().unwrap()["error"]["status"], 401, "{told}");
        assert!(!told.to_string().contains("after the revocation"), "{told}");
        let mut told = Vec::new();
        while let Some(message) = stream.next().await {
            told.push(message);
        }
        let last = told.last().unwrap();
        assert_eq!((&last["type"], &last["error"]["status"]), (&json!("expired"), &json!(401)));
        assert!(!json!(told).to_string().contains("after the revocation"), "{told:?}");
        host.stop().await;
    }
}

/// Goal: a subscription has the part that its caller may read, and says what is missing; one of
/// which nothing is left, or that is strict, ends alone. What was told already is no reason to
/// answer a poll at once.
#[tokio::test]
async fn subscriptions_are_cut_to_what_the_caller_may_read() {
    let host = Host::start().await;
    host.publish("secret.one", CANARY).await;
    host.publish("other.one", "public").await;
    host.grant_one("guest", Action::Subscribe, "other.>");
    let mut asked = vec![
        json!({"subscription": "s", "topics": ["other.one", "secret.one"], "from": "earliest"}),
        json!({"subscription": "x", "topic": "secret.one", "from": "earliest"}),
        json!({"subscription": "strict", "topics": [">"], "from": "earliest", "strict": true}),
    ];
    let answer = poll(&host, "30s", &asked).await.json();
    let messages = answer["messages"].as_array().unwrap();
    let of = |name: &str| -> Vec<&str> {
        let its = messages.iter().filter(|message| message["subscription"] == name);
        its.map(|message| message["type"].as_str().unwrap()).collect()
    };
    assert_eq!(of("s"), ["subscribed", "denied", "event", "caught_up"], "{answer}");
    assert_eq!((of("x"), of("strict")), (vec!["ended"], vec!["ended"]), "{answer}");
    assert!(!answer.to_string().contains(CANARY), "{answer}");
    let denied = messages.iter().find(|message| message["type"] == "denied").unwrap();
    assert_eq!(denied["topics"], json!(["secret.one"]), "{denied}");

    asked.truncate(1);
    let place = messages.iter().filter(|message| message["subscription"] == "s");
    asked[0]["from"] =
        place.filter_map(|message| message.get("cursor")).next_back().unwrap().clone();
    let started = tokio::time::Instant::now();
    let again = poll(&host, "100ms", &asked).await.json();
    assert!(started.elapsed() >= std::time::Duration::from_millis(100), "{again}");
    assert!(again.to_string().contains("denied"), "{again}");
    host.stop().await;
}
