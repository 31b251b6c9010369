//! Tests of the forms that serde gives to the types of the API.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::broker::*;
use crate::cursor::{GapReason, Place};
use crate::event::{Durability, Timestamp};

/// Checks that `value` has this form, and is read back from it.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, form: Value) {
    let written = serde_json::to_string(value).unwrap();
    assert_eq!(written.parse::<Value>().unwrap(), form, "{value:?}");
    assert_eq!(serde_json::from_str::<T>(&written).unwrap(), *value, "{written}");
}

/// Checks that each text is the form of the value that it says.
fn check_texts<T>(texts: &[&str])
where
    T: Serialize + DeserializeOwned + PartialEq + Debug + std::str::FromStr<Err: Debug>,
{
    for text in texts {
        check(&text.parse::<T>().unwrap(), json!(text));
    }
}

/// Goal: a host stores a value and reads it back, in the form that clients know from the wire.
#[test]
fn each_serde_form_is_that_of_the_wire_and_reads_back() {
    check_texts::<Cursor>(&["42-9f3c2a1b", "@1042-0000000a", "@10~17-9f3c2a1b", "7", "@7"]);
    check_texts::<StartPoint>(&["earliest", "latest", "last:100", "42-9f3c2a1b"]);
    check_texts::<StartPoint>(&["time:2026-01-31T00:00:00.000Z"]);
    check(&StartPoint::Unknown, json!("unknown"));
    check_texts::<OnGap>(&["resume", "earliest", "latest", "fail"]);
    check_texts::<Timestamp>(&["2026-01-31T00:00:00.250Z", "1970-01-01T00:00:00.000Z"]);
    check_texts::<Epoch>(&["9f3c2a1b", "0000000a"]);
    check_texts::<Durability>(&["memory", "process", "fsync", "replicated"]);
    check_texts::<TopicName>(&["orders.new"]);
    check_texts::<TopicPattern>(&["orders.*", ">"]);
    check(&Sequence::new(42), json!(42));
    check(&Position::new(42), json!(42));
    check(&GapReason::Tombstones, json!("tombstones"));
    check(&TrimReason::Purged, json!("purged"));
    check(&TopicConfig::with(|config| config.max_events = Some(9)), json!({"max_events": 9}));
    check(
        &Filter::default().of_type("a").with_header("b", "c"),
        json!({
            "types": ["a"], "keys": [], "key_prefixes": [], "headers": {"b": "c"},
        }),
    );
    let member = Member::new("bob").with("name", "Bob").with("tags", json!(["a", 1]));
    check(&member, json!({"id": "bob", "info": {"name": "Bob", "tags": ["a", 1]}}));
    let time = Timestamp::from_ms(1_769_817_600_000);
    let receipt = Receipt { sequence: Sequence::new(2), position: Position::new(3), time };
    let form = json!({"sequence": 2, "position": 3, "time": "2026-01-31T00:00:00.000Z"});
    check(&receipt, form.clone());
    let duplicates = vec![Duplicate { index: 1, receipt }];
    let (first_appended, durability) = (Some(receipt), Durability::Fsync);
    check(
        &Ack { count: 2, first_appended, duplicates, durability },
        json!({
            "count": 2,
            "first_appended": form,
            "duplicates": [{"index": 1, "receipt": form}],
            "durability": "fsync",
        }),
    );
    check(&OpenConfig::default(), serde_json::to_value(OpenConfig::default()).unwrap());
}

/// Goal: reports are serialized as clients get them.
#[test]
fn reports_have_the_form_of_the_http_interface() {
    let mut report = MaintenanceReport { topics: 2, ..MaintenanceReport::default() };
    report.expired = Dropped { events: 3, bytes: 40 };
    let none = json!({"events": 0, "bytes": 0});
    let expected = json!({
        "topics": 2,
        "dropped": {
            "retention": none,
            "expired": {"events": 3, "bytes": 40},
            "compacted": none,
            "purged": none,
        },
        "merged_blocks": 0,
        "reclaimed_bytes": 0,
    });
    assert_eq!(serde_json::to_value(report).unwrap(), expected);
    let (config, extent) = (TopicConfig::default(), Extent::EMPTY);
    let name = "a".parse().unwrap();
    let info = TopicInfo { name, extent, config, effective_config: config };
    let expected = json!({
        "name": "a",
        "earliest": 1,
        "tail": 1,
        "events": 0,
        "last_position": 0,
        "last_time": "1970-01-01T00:00:00.000Z",
        "size_bytes": 0,
        "config": {},
        "effective_config": {},
    });
    assert_eq!(serde_json::to_value(info).unwrap(), expected);
    assert_eq!(serde_json::to_value(Place::Position(Position::new(7))).unwrap(), json!(7));
}
