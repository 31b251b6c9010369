//! Promises of the audit.

use serde_json::{Value, json};

use super::*;
use crate::broker::{Delivery, OpenConfig, Reader};
use crate::cursor::{OnGap, StartPoint};
use crate::edge::hooks::{ActKind, Refusal};
use crate::permission::Permission;

/// The longest wait for an entry.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

async fn open(config: &OpenConfig) -> (Broker, Audit, Reader) {
    let broker = Broker::in_memory(config).unwrap();
    let audit = Audit::open(&broker).await.unwrap();
    let topic = TopicName::new(AUDIT_TOPIC).unwrap();
    let reader = broker.subscribe(&topic, StartPoint::Earliest, OnGap::Fail).await.unwrap();
    (broker, audit, reader)
}

/// Returns the types and the payloads of entries, until `is_enough`.
async fn entries(
    reader: &mut Reader,
    is_enough: impl Fn(&[(String, Value)]) -> bool,
) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let reading = async {
        while !is_enough(&found) {
            if let Some(Delivery::Events(run)) = reader.next().await.unwrap() {
                let entry = |it: crate::broker::EventRef<'_>| {
                    (it.event_type.to_owned(), serde_json::from_slice(it.payload).unwrap())
                };
                found.extend(run.events().map(entry));
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    found
}

fn address(last: u8) -> Option<PeerAddress> {
    Some(PeerAddress::Ip(([192, 0, 2, last], 49_152).into()))
}

#[tokio::test]
async fn acts_and_refusals_are_entries_that_say_who_and_what_and_from_where() {
    let (broker, audit, mut reader) = open(&OpenConfig::default()).await;
    let grant = Grant::new("ops", Permission::all());
    let topic = TopicName::new("orders").unwrap();
    let act = |outcome| AdminAct {
        kind: ActKind::PurgeTopic,
        topic: Some(&topic),
        webhook: None,
        address: address(7),
        outcome,
    };
    audit.administered(&grant, &act(ActOutcome::Done));
    let failure = crate::Error::UnknownTopic(topic.clone());
    audit.administered(&grant, &act(ActOutcome::Failed(&failure)));
    audit.administered(&grant, &act(ActOutcome::GivenUp));
    let refusal = Refusal::unauthenticated("the token is over");
    let path = Some("/v1/ws");
    audit.refused(&RefusalContext { refusal: &refusal, grant: None, address: None, path });
    let found = entries(&mut reader, |found| found.len() >= 4).await;
    let purge = |outcome, reason: Value| {
        let mut entry = json!({"who": "ops", "what": "topic.purge", "topic": "orders",
            "from": "192.0.2.7:49152", "outcome": outcome});
        if !reason.is_null() {
            entry["reason"] = reason;
        }
        ("admin.topic.purge".to_owned(), entry)
    };
    let refused = json!({"who": null, "what": "/v1/ws", "from": null, "outcome": "refused",
        "reason": "the token is over"});
    let expected = [
        purge("done", Value::Null),
        purge("failed", json!("there is no topic \"orders\"")),
        purge("unknown", json!("the client did not wait")),
        ("access.refused".to_owned(), refused),
    ];
    assert_eq!(found, expected);
    broker.close().await;
}

/// Goal: a flood of refusals is told by a few entries and by the number of the others, and does not
/// hide an act of administration.
#[tokio::test]
async fn a_flood_of_refusals_is_a_few_entries_and_a_number() {
    let (broker, audit, mut reader) = open(&OpenConfig::default()).await;
    let refusal = Refusal::denied("no");
    let grant = Grant::new("u", Permission::default());
    for _ in 0..10_000 {
        let grant = Some(&grant);
        audit.refused(&RefusalContext {
            refusal: &refusal,
            grant,
            address: address(1),
            path: None,
        });
    }
    let act = AdminAct {
        kind: ActKind::Backup,
        topic: None,
        webhook: None,
        address: address(1),
        outcome: ActOutcome::Done,
    };
    audit.administered(&grant, &act);
    let is_backup = |it: &(String, Value)| it.0 == "admin.backup";
    let found = entries(&mut reader, |found| found.iter().any(is_backup)).await;
    let told = found.len() - 1;
    assert!((10..=30).contains(&told), "{told}");
    let left_out: u64 = found.iter().filter_map(|(_, it)| it["left_out"].as_u64()).sum();
    assert_eq!(told as u64 + left_out, 10_000);
    broker.close().await;
}

/// Goal: what finds no room in the queue is counted, and the next entry tells the number.
#[tokio::test]
async fn what_finds_no_room_is_counted_and_told_by_the_next_entry() {
    let (broker, audit, mut reader) = open(&OpenConfig::default()).await;
    let grant = Grant::new("ops", Permission::all());
    let act = |kind| AdminAct {
        kind,
        topic: None,
        webhook: None,
        address: None,
        outcome: ActOutcome::Done,
    };
    // The task of the audit cannot run in between: this test has one thread, and does not wait.
    for _ in 0..MAX_WAITING + 500 {
        audit.administered(&grant, &act(ActKind::Maintain));
    }
    let told = |found: &[(String, Value)]| {
        found.iter().filter(|(event_type, _)| event_type == "admin.maintain").count()
    };
    let mut found = entries(&mut reader, |found| told(found) >= MAX_WAITING).await;
    audit.administered(&grant, &act(ActKind::Backup));
    let is_backup = |it: &(String, Value)| it.0 == "admin.backup";
    found.extend(entries(&mut reader, |found| found.iter().any(is_backup)).await);
    let left_out: u64 = found.iter().filter_map(|(_, it)| it["left_out"].as_u64()).sum();
    assert_eq!((told(&found), left_out), (MAX_WAITING, 500));
    let long = entry("access.refused", None, &"é".repeat(1_000), None);
    assert_eq!(long.what, "é".repeat(MAX_WHAT_BYTES / 2));
    broker.close().await;
}

/// Goal: the configuration says how long entries are kept; without it there is a limit all the
/// same.
#[tokio::test]
async fn entries_are_kept_as_the_configuration_says_or_for_thirty_days() {
    let config_of = async |config: &OpenConfig| {
        let (broker, audit, _reader) = open(config).await;
        let topic = TopicName::new(AUDIT_TOPIC).unwrap();
        let config = broker.topic(&topic).unwrap().effective_config;
        drop(audit);
        broker.close().await;
        (config.age_limit_ms(), config.byte_limit(), config.durability)
    };
    let mut config = OpenConfig::default();
    let everywhere = TopicConfig { max_age_ms: Some(1), ..TopicConfig::default() };
    config.topics.set(">".parse().unwrap(), everywhere);
    let fsync = Some(Durability::Fsync);
    assert_eq!(config_of(&config).await, (Some(MAX_AGE_MS), Some(MAX_BYTES), fsync));
    let own = TopicConfig { max_age_ms: Some(7), ..TopicConfig::default() };
    config.topics.set("$audit".parse().unwrap(), own);
    assert_eq!(config_of(&config).await, (Some(7), None, fsync));
}
