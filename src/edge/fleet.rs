//! The fleet that the broker is a node of, as it is told to those who operate it: one JSON object,
//! metrics, and whether the node is ready.

use std::fmt::Write as _;
use std::pin::Pin;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// The version of this program, which nodes of a fleet tell each other's operators.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A node of a fleet, as the edge shows it and a server stops it.
pub(crate) trait NodeOfFleet: Send + Sync {
    /// Returns how the node is.
    fn state(&self) -> FleetState;

    /// Checks that the node is ready for clients.
    ///
    /// # Errors
    ///
    /// Why it is not, for people.
    fn check_ready(&self) -> Result<(), String>;

    /// Returns the node's name.
    fn name(&self) -> &str;

    /// Whether the nodes know each other by a secret.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "there are no nodes"))]
    fn has_secret(&self) -> bool;

    /// Asks another node, by its name, a question about itself.
    ///
    /// # Errors
    ///
    /// Why there is no answer, for people.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed by a question.
    fn ask<'a>(
        &'a self,
        node: &'a str,
        kind: &'a str,
        question: Bytes,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + 'a>>;

    /// Has the node lead no longer, and not again. The future is ready when it does not lead.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the node hands over all the same.
    fn hand_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What a node of a fleet does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShownRole {
    Leading,
    Following,
    Joining,
    Stopped,
    /// What a later version does, and this one does not know.
    Unknown,
}

impl ShownRole {
    pub(crate) const ALL: [Self; 5] =
        [Self::Leading, Self::Following, Self::Joining, Self::Stopped, Self::Unknown];

    /// Returns the stable word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Following => "following",
            Self::Joining => "joining",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

impl Serialize for ShownRole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A node of a fleet, by its name and the URL at which others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownNode {
    pub(crate) node: String,
    pub(crate) address: String,
}

/// The commands of callers that a node has sent to leaders: those that were answered and the time
/// that these took, those that were sent again, and those of which nobody knows what has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ShownForwards {
    pub(crate) answered: u64,
    pub(crate) answered_us: u64,
    pub(crate) repeated: u64,
    pub(crate) unknown: u64,
}

/// The ephemeral events that went between a node and the others: those that were told, those that
/// could not be told, those that were heard, and those that were lost here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ShownRelays {
    pub(crate) told: u64,
    pub(crate) not_told: u64,
    pub(crate) heard: u64,
    pub(crate) lost: u64,
}

/// A node of a fleet as this one has heard of it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownPeer {
    #[serde(flatten)]
    pub(crate) node: ShownNode,
    pub(crate) version: String,
    pub(crate) role: ShownRole,
    pub(crate) term: u64,
    pub(crate) applied_record: u64,
    pub(crate) lag_records: u64,
    /// Whether it is the node that tells it, and whether it was heard lately.
    pub(crate) is_self: bool,
    pub(crate) is_live: bool,
    pub(crate) heard_ms_ago: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// A damaged log that was replaced by a backup of another node, and is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownRepair {
    pub(crate) at_ms: u64,
    pub(crate) why: String,
    /// Null if the log was made anew from the stream.
    pub(crate) from: Option<String>,
    pub(crate) kept_in: String,
    pub(crate) kept_bytes: u64,
}

/// How far a node has searched its log for damage since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct ShownSearch {
    pub(crate) passes: u64,
    /// Null before the log was read whole.
    pub(crate) last_at_ms: Option<u64>,
    pub(crate) read_bytes: u64,
}

/// How a node of a fleet is. Written as the answer of `/v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FleetState {
    pub(crate) fleet: String,
    #[serde(flatten)]
    pub(crate) node: ShownNode,
    pub(crate) role: ShownRole,
    pub(crate) term: u64,
    /// Null while nobody seems to lead.
    pub(crate) leader: Option<ShownNode>,
    /// The last record of the stream that the node has read, the one up to which it has applied
    /// all, and the last one that there is, as far as it knows.
    pub(crate) read_record: u64,
    pub(crate) applied_record: u64,
    pub(crate) last_record: u64,
    /// The records that are not applied, and for how long the oldest of them has been there.
    pub(crate) lag_records: u64,
    pub(crate) lag_ms: u64,
    /// How often the node has announced itself as the leader, and the terms that it has seen begin.
    pub(crate) announcements: u64,
    pub(crate) terms: u64,
    /// All nodes that were heard, this one included, and whether there are more.
    pub(crate) nodes: Vec<ShownPeer>,
    pub(crate) has_more_nodes: bool,
    #[serde(skip)]
    pub(crate) forwarded: ShownForwards,
    /// The messages that were not signed with the secret of the fleet, since the start.
    #[serde(skip)]
    pub(crate) refused_messages: u64,
    #[serde(skip)]
    pub(crate) relayed: ShownRelays,
    /// The members that are present at other nodes, and how often one was not shown, because there
    /// was no room.
    pub(crate) members_elsewhere: u64,
    pub(crate) members_cut: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// Why the engine does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) engine_problem: Option<String>,
    /// How the node's log is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) damage: Option<String>,
    /// The damaged log that was replaced last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repaired: Option<ShownRepair>,
    /// How far the node has searched its log for damage; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) searched: Option<ShownSearch>,
    /// What the node does before it serves: `step`, and how far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) joining: Option<Value>,
}

/// Returns the answer of `/v1/cluster`, for a broker that is alone, or a node of a fleet.
pub(super) fn told(fleet: Option<&dyn NodeOfFleet>) -> Value {
    let Some(fleet) = fleet else { return json!({ "alone": true, "version": VERSION }) };
    let mut told = json!(fleet.state());
    let ready = fleet.check_ready();
    (told["alone"], told["version"], told["ready"]) =
        (json!(false), json!(VERSION), json!(ready.is_ok()));
    if let Err(reason) = ready {
        told["not_ready"] = json!(reason);
    }
    told
}

/// Returns the metrics of a node of a fleet, in Prometheus' format.
pub(super) fn metrics(fleet: &dyn NodeOfFleet) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, samples: &[(String, u64)]| {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _infallible = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            let _infallible = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value| [(String::new(), value)];
    let state = fleet.state();
    let roles = ShownRole::ALL
        .map(|role| (format!("{{role=\"{}\"}}", role.name()), u64::from(role == state.role)));
    metric("leftoff_fleet_role", "1 for what the node does in its fleet, 0 for the rest.", &roles);
    let ready = fleet.check_ready().is_ok();
    metric("leftoff_fleet_ready", "1 if the node is ready for clients.", &plain(ready.into()));
    metric(
        "leftoff_fleet_term",
        "The term of the fleet, as the node knows it.",
        &plain(state.term),
    );
    let help = "Records of the stream that the node has not applied.";
    metric("leftoff_fleet_lag_records", help, &plain(state.lag_records));
    let help = "How long the oldest of these records has been there, in milliseconds.";
    metric("leftoff_fleet_lag_ms", help, &plain(state.lag_ms));
    let help = "How often the node has announced itself as the leader, since the start.";
    metric("leftoff_fleet_announcements_total", help, &plain(state.announcements));
    let help = "Terms that the node has seen begin, since the start.";
    metric("leftoff_fleet_terms_total", help, &plain(state.terms));
    let forwarded = state.forwarded;
    let help = "Commands that went to the leader and were answered, since the start.";
    metric("leftoff_fleet_forwarded_total", help, &plain(forwarded.answered));
    let help = "The time that these took together, in microseconds.";
    metric("leftoff_fleet_forwarded_us_total", help, &plain(forwarded.answered_us));
    let help = "Commands that were sent again after a leader was lost, since the start.";
    metric("leftoff_fleet_forwards_repeated_total", help, &plain(forwarded.repeated));
    let help = "Commands of which nobody knows what has become, since the start.";
    metric("leftoff_fleet_forwards_unknown_total", help, &plain(forwarded.unknown));
    let help = "Messages of others that were not rightly signed, or told again, since the start.";
    metric("leftoff_fleet_refused_messages_total", help, &plain(state.refused_messages));
    let relayed = [
        ("told", state.relayed.told),
        ("not_told", state.relayed.not_told),
        ("heard", state.relayed.heard),
        ("lost", state.relayed.lost),
    ];
    let relayed = relayed.map(|(what, count)| (format!("{{outcome=\"{what}\"}}"), count));
    let help = "Ephemeral events between this node and the others, since the start.";
    metric("leftoff_fleet_ephemeral_events_total", help, &relayed);
    let help = "Members that are present at other nodes, as this one shows them.";
    metric("leftoff_fleet_members_elsewhere", help, &plain(state.members_elsewhere));
    let help = "Members of other nodes that were not shown, for want of room, since the start.";
    metric("leftoff_fleet_members_cut_total", help, &plain(state.members_cut));
    let away = state.engine_problem.is_some();
    metric("leftoff_fleet_engine_away", "1 if the engine does not answer.", &plain(away.into()));
    let damaged = state.damage.is_some();
    metric("leftoff_fleet_damaged", "1 if the node's log is damaged.", &plain(damaged.into()));
    let searched = state.searched.map_or((0, 0), |it| (it.read_bytes, it.passes));
    let help = "Bytes of its log that the node has read to find damage, since the start.";
    metric("leftoff_fleet_searched_bytes_total", help, &plain(searched.0));
    let help = "How often the node has read its whole log for that, since the start.";
    metric("leftoff_fleet_searches_total", help, &plain(searched.1));
    let joining = state.joining.unwrap_or_default();
    let done_bytes = joining["done_bytes"].as_u64().unwrap_or(0);
    let help = "Bytes of a backup that a node has loaded, or reads again, before it serves.";
    metric("leftoff_fleet_joining_bytes", help, &plain(done_bytes));
    let all_bytes = joining["expected_bytes"].as_u64().or(joining["total_bytes"].as_u64());
    let help = "About how many bytes that will be.";
    metric("leftoff_fleet_joining_expected_bytes", help, &plain(all_bytes.unwrap_or(0)));
    let help =
        "The size of the damaged log that was replaced and is kept, in bytes; 0 without one.";
    let kept_bytes = state.repaired.map_or(0, |repaired| repaired.kept_bytes);
    metric("leftoff_fleet_repaired_kept_bytes", help, &plain(kept_bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Behind;

    impl NodeOfFleet for Behind {
        fn state(&self) -> FleetState {
            let node = |node: &str| ShownNode {
                node: node.to_owned(),
                address: format!("http://{node}:4280"),
            };
            FleetState {
                fleet: "orders".to_owned(),
                node: node("n2"),
                role: ShownRole::Following,
                term: 3,
                leader: Some(node("n1")),
                read_record: 9,
                applied_record: 7,
                last_record: 12,
                lag_records: 5,
                lag_ms: 40,
                announcements: 1,
                terms: 2,
                nodes: vec![ShownPeer {
                    node: node("n1"),
                    version: "1.2.3".to_owned(),
                    role: ShownRole::Leading,
                    term: 3,
                    applied_record: 12,
                    lag_records: 0,
                    is_self: false,
                    is_live: true,
                    heard_ms_ago: 20,
                    problem: None,
                }],
                has_more_nodes: false,
                forwarded: ShownForwards { answered: 6, answered_us: 900, repeated: 1, unknown: 0 },
                refused_messages: 4,
                relayed: ShownRelays { told: 5, not_told: 1, heard: 4, lost: 2 },
                members_elsewhere: 3,
                members_cut: 7,
                problem: None,
                engine_problem: Some("no answer".to_owned()),
                damage: Some("a page".to_owned()),
                repaired: Some(ShownRepair {
                    at_ms: 1_000,
                    why: "its end".to_owned(),
                    from: Some("n1".to_owned()),
                    kept_in: "/data/damaged-1000".to_owned(),
                    kept_bytes: 77,
                }),
                searched: Some(ShownSearch { passes: 2, last_at_ms: Some(5), read_bytes: 66 }),
                joining: Some(json!({ "step": "loading", "done_bytes": 4, "expected_bytes": 9 })),
            }
        }

        fn check_ready(&self) -> Result<(), String> {
            Err("it has not caught up".to_owned())
        }

        fn name(&self) -> &str {
            "n2"
        }

        fn has_secret(&self) -> bool {
            false
        }

        fn ask<'a>(
            &'a self,
            node: &'a str,
            _: &'a str,
            _: Bytes,
        ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + 'a>> {
            Box::pin(std::future::ready(Err(format!("{node} is away"))))
        }

        fn hand_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(std::future::ready(()))
        }
    }

    #[test]
    fn a_broker_that_is_alone_says_so_and_a_node_says_how_it_is() {
        assert_eq!(told(None), json!({ "alone": true, "version": VERSION }));
        let expected = json!({
            "alone": false,
            "version": VERSION,
            "fleet": "orders",
            "node": "n2",
            "address": "http://n2:4280",
            "role": "following",
            "term": 3,
            "leader": { "node": "n1", "address": "http://n1:4280" },
            "read_record": 9,
            "applied_record": 7,
            "last_record": 12,
            "lag_records": 5,
            "lag_ms": 40,
            "ready": false,
            "not_ready": "it has not caught up",
            "announcements": 1,
            "terms": 2,
            "nodes": [{
                "node": "n1",
                "address": "http://n1:4280",
                "version": "1.2.3",
                "role": "leading",
                "term": 3,
                "applied_record": 12,
                "lag_records": 0,
                "is_self": false,
                "is_live": true,
                "heard_ms_ago": 20,
            }],
            "has_more_nodes": false,
            "members_elsewhere": 3,
            "members_cut": 7,
            "engine_problem": "no answer",
            "damage": "a page",
            "repaired": {
                "at_ms": 1_000,
                "why": "its end",
                "from": "n1",
                "kept_in": "/data/damaged-1000",
                "kept_bytes": 77,
            },
            "searched": { "passes": 2, "last_at_ms": 5, "read_bytes": 66 },
            "joining": { "step": "loading", "done_bytes": 4, "expected_bytes": 9 },
        });
        assert_eq!(told(Some(&Behind)), expected);
    }

    #[test]
    fn each_metric_has_its_help_and_its_values() {
        let text = metrics(&Behind);
        for line in [
            "leftoff_fleet_role{role=\"leading\"} 0",
            "leftoff_fleet_role{role=\"following\"} 1",
            "leftoff_fleet_role{role=\"stopped\"} 0",
            "leftoff_fleet_ready 0",
            "leftoff_fleet_term 3",
            "leftoff_fleet_lag_records 5",
            "leftoff_fleet_lag_ms 40",
            "leftoff_fleet_announcements_total 1",
            "leftoff_fleet_terms_total 2",
            "leftoff_fleet_forwarded_total 6",
            "leftoff_fleet_forwarded_us_total 900",
            "leftoff_fleet_forwards_repeated_total 1",
            "leftoff_fleet_forwards_unknown_total 0",
            "leftoff_fleet_refused_messages_total 4",
            "leftoff_fleet_ephemeral_events_total{outcome=\"lost\"} 2",
            "leftoff_fleet_members_elsewhere 3",
            "leftoff_fleet_members_cut_total 7",
            "leftoff_fleet_engine_away 1",
            "leftoff_fleet_damaged 1",
            "leftoff_fleet_searched_bytes_total 66",
            "leftoff_fleet_searches_total 2",
            "leftoff_fleet_joining_bytes 4",
            "leftoff_fleet_joining_expected_bytes 9",
            "leftoff_fleet_repaired_kept_bytes 77",
            "# TYPE leftoff_fleet_terms_total counter",
            "# TYPE leftoff_fleet_lag_ms gauge",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }
}
