//! Leases, outcomes and the state of shared work as JSON.

use serde_json::{Map, Value, json};

use crate::consumers::{Leased, SettleOutcome, Settled, WorkStatus};
use crate::cursor::{Cursor, Epoch};
use crate::edge::json;

/// Appends a lease with its event: `{"lease":"…","tries":1,"until":"…","event":{…}}`.
pub(in crate::edge) fn write_lease(leased: &Leased, bytes: &mut Vec<u8>) {
    let Leased { lease, topic, event, tries, until, .. } = leased;
    let head = format!(r#"{{"lease":"{lease}","tries":{tries},"until":"{until}","event":"#);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(&json::event(topic, event));
    bytes.push(b'}');
}

/// Returns the outcomes of a settlement, each list in the order of the request.
pub(in crate::edge) fn settled(settled: &Settled) -> Map<String, Value> {
    let outcome = |outcome: &SettleOutcome| match outcome {
        SettleOutcome::Extended(until) => json!({"outcome": outcome.as_str(), "until": until}),
        _ => json!({"outcome": outcome.as_str()}),
    };
    let lists = [
        ("ack", &settled.ack),
        ("nack", &settled.nack),
        ("extend", &settled.extend),
        ("release", &settled.release),
    ];
    let named = lists.into_iter().filter(|(_, outcomes)| !outcomes.is_empty());
    let list = |outcomes: &Vec<SettleOutcome>| outcomes.iter().map(outcome).collect::<Value>();
    named.map(|(name, outcomes)| (name.to_owned(), list(outcomes))).collect()
}

/// Returns how shared work stands.
pub(in crate::edge) fn status(status: &WorkStatus, epoch: Epoch) -> Value {
    let checkpoint = status.checkpoint.map(|cursor| Cursor { epoch: Some(epoch), ..cursor });
    let workers = status.workers.iter();
    let workers = workers.map(|(worker, leases)| json!({"worker": worker, "in_flight": leases}));
    json!({
        "checkpoint": checkpoint,
        "in_flight": status.in_flight,
        "delayed": status.delayed,
        "dying": status.dying,
        "waiting": status.waiting,
        "finished": status.totals.finished,
        "dead": status.totals.dead,
        "lost": status.totals.lost,
        "problem": status.problem,
        "workers": workers.collect::<Value>(),
    })
}
