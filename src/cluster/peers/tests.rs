//! Tests of the list of nodes, with times as numbers.

use std::time::Duration;

use super::super::record::FleetLeader;
use super::super::status::{NodeRole, NodeStatus};
use super::super::stream::StreamSequence;
use super::list::Peers;
use super::*;

const LEASE: Duration = Duration::from_secs(3);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn node(name: &str, incarnation: u64) -> FleetLeader {
    let address = format!("http://{name}:4280");
    FleetLeader { node: name.to_owned(), incarnation, address }
}

fn says(name: &str, incarnation: u64, synced: u64) -> PeerStatus {
    PeerStatus::of_program(&node(name, incarnation)).with(&NodeStatus::default(), synced)
}

fn live(peers: &Peers, now: Duration) -> Vec<String> {
    peers.live_others(now).into_iter().map(|status| status.name).collect()
}

#[test]
fn a_status_reads_back_and_what_cannot_be_one_is_skipped() {
    let status = NodeStatus {
        role: NodeRole::Leading,
        term: 7,
        read: StreamSequence::new(90),
        applied: StreamSequence::new(88),
        tail: StreamSequence::new(100),
        problem: Some("ü".repeat(2_000)),
        ..NodeStatus::default()
    };
    let told = PeerStatus::of_program(&node("n1", u64::MAX - 1)).with(&status, 80);
    assert_eq!((told.lag, told.synced, told.applied), (0, Some(80), 88));
    let following = NodeStatus { role: NodeRole::Following, ..status.clone() };
    assert_eq!(told.clone().with(&following, 80).lag, 10, "a leader alone has read all");
    assert_eq!(told.problem, Some("ü".repeat(256)));
    assert_eq!(PeerStatus::decode(&told.encode()).as_ref(), Some(&told));
    let stopped = NodeStatus { role: NodeRole::Stopped, ..status };
    assert_eq!(told.clone().with(&stopped, 80).synced, None, "it needs nothing");
    // A later version may tell more, and an earlier one less.
    let other = br#"{"name":"n2","incarnation":"00000000000000ff","weight":3,"role":"leading"}"#;
    let other = PeerStatus::decode(other).unwrap();
    assert_eq!((other.incarnation, other.role, other.synced), (255, NodeRole::Leading, None));
    // What a later version does may have no name here: the node counts all the same.
    let later = br#"{"name":"n3","role":"pruning","synced":7}"#;
    let later = PeerStatus::decode(later).unwrap();
    assert_eq!((later.role, later.synced), (NodeRole::Unknown, Some(7)));
    assert_eq!(serde_json::json!(later)["role"], "unknown");
    let long = PeerStatus { name: "n".repeat(129), ..told.clone() };
    let far = PeerStatus { address: "n".repeat(513), ..told.clone() };
    let large = PeerStatus { version: "n".repeat(9 << 10), ..told };
    for bad in [long.encode(), far.encode(), large.encode(), "{}".into(), "no".into()] {
        assert_eq!(PeerStatus::decode(&bad), None);
    }
}

#[test]
fn a_leader_is_known_by_what_it_said_a_moment_ago_of_the_same_term() {
    let mut peers = Peers::new("n1", 1, LEASE);
    let leading = NodeStatus { role: NodeRole::Leading, term: 7, ..NodeStatus::default() };
    for (name, incarnation) in [("n1", 1), ("n2", 2)] {
        let says_so = says(name, incarnation, 10).with(&leading, 10);
        peers.hear(says_so, at(5));
    }
    peers.hear(says("n3", 3, 10), at(6));
    assert_eq!(peers.leader_in(7, at(7)), Some(node("n2", 2)), "it is another node");
    assert_eq!(peers.leader_in(7, at(8)), None, "it has said nothing since");
    assert_eq!(peers.leader_in(8, at(6)), None, "its term is over");
    peers.hear(says("n2", 2, 10), at(6));
    assert_eq!(peers.leader_in(7, at(6)), None, "it leads no longer");
}

#[test]
fn a_node_that_is_silent_for_ten_leases_is_not_live_and_its_last_words_are_kept() {
    let mut peers = Peers::new("n1", 1, LEASE);
    peers.hear(says("n2", 2, 20), at(0));
    for second in 0..40 {
        peers.hear(says("n1", 1, 10), at(second));
        peers.hear(says("n3", 3, 30), at(second));
        let expected: &[&str] = if second < 30 { &["n2", "n3"] } else { &["n3"] };
        assert_eq!(live(&peers, at(second)), expected, "at {second}");
        // Nothing is known before a silence has passed.
        let synced = (second >= 30).then_some(30);
        assert_eq!(peers.live_synced(at(second)), synced, "at {second}");
        assert_eq!(peers.problem(at(0), at(second)), None);
    }
    let report = peers.report(says("n1", 1, 11), at(39));
    let nodes: Vec<_> = report.nodes.iter().collect();
    let told = |seen: &&SeenPeer| (seen.status.name.clone(), seen.is_live, seen.heard_ms_ago);
    let expected =
        [("n1".to_owned(), true, 0), ("n2".to_owned(), false, 39_000), ("n3".to_owned(), true, 0)];
    assert_eq!(nodes.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(
        (nodes[0].is_self, nodes[0].status.synced, report.is_cut_off),
        (true, Some(11), false)
    );
}

/// Goal: while a node does not hear itself, it does not take the others for absent, and says so.
#[test]
fn a_node_that_does_not_hear_itself_knows_nothing_of_the_others() {
    let mut peers = Peers::new("n1", 1, LEASE);
    assert_eq!(peers.problem(at(0), at(5)), None);
    assert!(
        peers.problem(at(0), at(6)).unwrap().text.contains("messages between nodes do not pass")
    );
    (0..40).for_each(|second| peers.hear(says("n1", 1, 10), at(second)));
    assert_eq!(peers.live_synced(at(40)), Some(u64::MAX), "it is alone");
    assert_eq!(peers.live_synced(at(45)), None);
    assert!(peers.problem(at(0), at(45)).is_some());
    // The time begins anew.
    for second in 50..90 {
        peers.hear(says("n1", 1, 10), at(second));
        assert_eq!(peers.live_synced(at(second)).is_some(), second >= 80, "at {second}");
    }
}

/// Goal: a node that hears messages with another secret, and no node with its own, is among
/// strangers, until they are silent. A node that hears another one is not.
#[test]
fn who_hears_strangers_alone_is_told_so_until_they_are_silent() {
    let mut peers = Peers::new("n1", 1, LEASE);
    let mut among = |others: &[u64], stranger: bool, second| {
        peers.hear(says("n1", 1, 10), at(second));
        others.iter().for_each(|other| peers.hear(says("n2", *other, 10), at(second)));
        if stranger {
            peers.hear_stranger("not signed: why?", at(second));
        }
        let problem = peers.problem(at(0), at(second))?;
        assert!(problem.text.contains("not signed: why?"), "{problem:?}");
        Some(problem.is_among_strangers)
    };
    assert_eq!(among(&[], false, 0), None);
    assert_eq!(among(&[], true, 1), Some(true));
    assert_eq!(among(&[], false, 6), Some(true), "a message may be lost");
    assert_eq!(among(&[], false, 7), None);
    assert_eq!(among(&[2], true, 8), None, "another node has the same secret");
    assert_eq!(among(&[], true, 37), None);
    assert_eq!(among(&[], true, 38), Some(true), "it is gone");
    // Messages do not pass for a while: the strangers may still be there.
    assert_eq!(among(&[], false, 60), Some(true));
    assert_eq!(among(&[], false, 65), Some(true));
    assert_eq!(among(&[], false, 66), None);
    assert_eq!(among(&[], false, 90), None, "they were gone before");
}

#[test]
fn a_restarted_node_replaces_its_former_process_and_two_at_once_are_told() {
    let mut peers = Peers::new("n1", 1, LEASE);
    let mut hear = |name, incarnation, second| {
        peers.hear(says("n1", 1, 10), at(second));
        peers.hear(says(name, incarnation, 20), at(second));
        (live(&peers, at(second)).len(), peers.problem(at(0), at(second)))
    };
    for second in 0..5 {
        assert_eq!(hear("n2", 9, second), (1, None));
    }
    for second in 5..10 {
        assert_eq!(hear("n2", 4, second), (1, None), "restarted");
    }
    let (count, problem) = hear("n2", 9, 10);
    let problem = problem.expect("both run").text;
    assert_eq!(count, 2);
    for part in ["\"n2\"", "http://n2:4280", "0000000000000009", "0000000000000004"] {
        assert!(problem.contains(part), "{problem}");
    }
    for second in 11..39 {
        assert!(hear("n2", 4, second).1.is_some(), "at {second}");
    }
    assert_eq!(hear("n2", 4, 40), (1, None), "the other one was stopped");
    // Its own name.
    assert_eq!(hear("n1", 7, 41), (2, None));
    assert!(hear("n1", 7, 44).1.is_some());
}

/// Goal: of a node that was restarted, the last process alone is listed, also when it is gone.
#[test]
fn a_former_process_is_not_listed_beside_the_later_one() {
    let mut peers = Peers::new("n1", 1, LEASE);
    peers.hear(says("n2", 9, 20), at(0));
    peers.hear(says("n2", 4, 20), at(5));
    for (second, is_live) in [(6, true), (60, false)] {
        let nodes = peers.report(says("n1", 1, 10), at(second)).nodes;
        let listed: Vec<_> = nodes.iter().filter(|seen| !seen.is_self).collect();
        assert_eq!(listed.len(), 1, "at {second}");
        assert_eq!((listed[0].status.incarnation, listed[0].is_live), (4, is_live));
    }
}

#[test]
fn the_list_has_bounded_room_which_live_nodes_have_first() {
    let mut peers = Peers::new("n0", 0, LEASE);
    let name = |number: usize| format!("n{number}");
    let hear = |peers: &mut Peers, numbers: std::ops::Range<usize>, second| {
        numbers.for_each(|number| peers.hear(says(&name(number), number as u64, 5), at(second)));
    };
    (0..40).for_each(|second| hear(&mut peers, 0..MAX_PEERS, second));
    assert_eq!(peers.live_synced(at(40)), Some(5));
    hear(&mut peers, MAX_PEERS..MAX_PEERS + 1, 40);
    let report = peers.report(says("n0", 0, 5), at(40));
    assert!(report.is_cut_off && report.nodes.len() == MAX_PEERS);
    assert_eq!(peers.live_synced(at(40)), None, "one is not known");
    assert!(peers.problem(at(0), at(40)).unwrap().text.contains("more than 64 nodes"));
    // One goes silent, and makes room.
    (41..80).for_each(|second| hear(&mut peers, 0..MAX_PEERS - 1, second));
    hear(&mut peers, MAX_PEERS..MAX_PEERS + 1, 80);
    let report = peers.report(says("n0", 0, 5), at(80));
    assert!(!report.is_cut_off && report.nodes.iter().any(|seen| seen.status.name == name(64)));
}
