//! How a node of a fleet is, as plain data.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lag::FleetLag;
use super::record::FleetLeader;
use super::stream::StreamSequence;
use crate::log::{AsideLog, AsideNote};

/// What a node does at the moment. In JSON: `following`, `leading`, `joining`, `stopped`,
/// `unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// It applies what the leader decides, and serves readers. It stores nothing of its own.
    #[default]
    Following,
    /// It decides what is stored.
    Leading,
    /// It loads a backup of another node, and serves nobody.
    Joining,
    /// It takes no part in the fleet any more, until it is opened again. It still serves readers
    /// what it has. [`NodeStatus::problem`] says why; there is none if the node was closed.
    Stopped,
    /// It does what this version does not know: the node is of a later version.
    #[serde(other)]
    Unknown,
}

/// A damaged log that was replaced by a backup of another node, and is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedLog {
    /// The time of that, in milliseconds since 1970.
    pub at_ms: u64,
    /// What was damaged.
    pub why: String,
    /// The node whose backup was loaded; `None` if the log was made anew from the stream.
    pub from: Option<String>,
    /// The directory in which the damaged log is kept. It may be removed.
    pub kept_in: PathBuf,
    /// The size of its files, in bytes.
    pub kept_bytes: u64,
}

impl From<AsideLog> for RepairedLog {
    fn from(aside: AsideLog) -> Self {
        let AsideLog { note: AsideNote { at_ms, why, peer }, directory, size_bytes } = aside;
        Self { at_ms, why, from: peer, kept_in: directory, kept_bytes: size_bytes }
    }
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeStatus {
    /// What the node does.
    pub role: NodeRole,
    /// The term of the last record that the node has read; 0 before the first leader.
    pub term: u64,
    /// The node that leads, as far as this one knows; `None` if nobody seems to.
    pub leader: Option<FleetLeader>,
    /// The last term whose leader has resigned, as the node has read; 0 before the first one.
    pub resigned: u64,
    /// The last record that the node has read.
    pub read: StreamSequence,
    /// The record up to which the node's log has applied the stream. Records that change no log may
    /// follow: it moves over them every few seconds.
    pub applied: StreamSequence,
    /// The record up to which all groups are applied: what comes after it is not visible yet.
    pub reached: StreamSequence,
    /// The last record of the stream, as the node knows it: the engine is asked now and then.
    pub tail: StreamSequence,
    /// Whether the engine has told the tail since the node was opened.
    pub is_tail_told: bool,
    /// Since when the engine tells a tail that the node is beyond; `None` if it does not.
    pub(super) ends_early_since: Option<Duration>,
    /// Whether the node, since it was opened, has once reached a tail that the engine told.
    pub has_caught_up: bool,
    /// How often the node has announced itself since it was opened.
    pub announcements: u64,
    /// The terms that the node has seen begin since it was opened, its own included.
    pub terms: u64,
    /// What went wrong last in following or leading, until it is over.
    pub problem: Option<String>,
    /// Whether the node has stopped because the stream does not have the records any more that it
    /// needs. Opened again with [`open_in`](super::open_in), it loads a backup of another node.
    pub fell_behind: bool,
    /// The record at which the node has stopped, because that does not follow what the node has, or
    /// because the node's log cannot apply the group that ends there. If other nodes have gone on
    /// beyond it, the log of this one is wrong. Opened again with [`open_in`](super::open_in) after
    /// that was noted ([`FleetNode::repairable`]), it loads a backup of another node.
    ///
    /// [`FleetNode::repairable`]: super::FleetNode::repairable
    pub breaks_at: Option<StreamSequence>,
    /// Whether the node has stopped, and may go on once it is opened again: its log takes nothing
    /// more until then, because writing has failed.
    pub needs_opening: bool,
    /// Why the engine does not answer; `None` if it does.
    pub engine_problem: Option<String>,
    /// What is wrong with the nodes as this one hears them: two processes with one name, messages
    /// that do not pass.
    pub peers_problem: Option<String>,
    /// Whether the node hears nodes that do not have its secret, and no other ones. It does not
    /// begin to lead then.
    pub(super) is_among_strangers: bool,
    /// How the log of the node is damaged; `None` if no damage was found. Opened again with
    /// [`open_in`](super::open_in), the node loads a backup of another one, if the fleet has a
    /// secret.
    pub damage: Option<String>,
    /// Why the process of the node does not end, though its next start could repair the node: it
    /// has ended for that not long ago, or its end cannot be noted. `None` if nothing keeps it.
    pub restart_problem: Option<String>,
    /// The damaged log that was replaced last, as long as it is kept.
    pub repaired: Option<RepairedLog>,
    /// For how long the node is behind.
    pub(super) lag: FleetLag,
}

impl NodeStatus {
    /// Returns the records that the node has not applied, as far as it knows. A leader has applied
    /// all.
    pub fn lag_records(&self) -> u64 {
        match self.role {
            NodeRole::Leading => 0,
            _ => self.tail.get().saturating_sub(self.reached.get()),
        }
    }

    /// Returns what is wrong with the node, which its next start may repair; `None` if nothing is.
    pub(super) fn repairable_problem(&self) -> Option<String> {
        let problem = self.problem.as_deref().unwrap_or("it has stopped");
        if let Some(damage) = &self.damage {
            return Some(format!("its log is damaged: {damage}"));
        }
        let is_stopped = self.fell_behind || self.breaks_at.is_some() || self.needs_opening;
        is_stopped.then(|| problem.to_owned())
    }

    /// Returns [`Self::restart_problem`] as the end of a sentence; nothing if there is none.
    pub(super) fn restart_problem_in_words(&self) -> String {
        self.restart_problem.as_deref().map(|why| format!("; {why}")).unwrap_or_default()
    }

    /// Says that the node has applied everything up to this record.
    pub(super) fn move_to(&mut self, at: StreamSequence) {
        (self.read, self.applied, self.reached) = (at, at, at);
    }

    /// Notes the tail that the engine tells at the time `now`. When it was asked, this node had
    /// `reached` so much.
    pub(super) fn note_tail(
        &mut self,
        tail: StreamSequence,
        reached: StreamSequence,
        now: Duration,
    ) {
        self.ends_early_since = (tail < reached).then(|| self.ends_early_since.unwrap_or(now));
        (self.tail, self.is_tail_told) = (self.tail.max(tail), true);
    }

    /// Notes that the engine does not tell the tail.
    pub(super) fn note_no_tail(&mut self, engine_problem: String) {
        (self.engine_problem, self.ends_early_since) = (Some(engine_problem), None);
    }

    /// Notes at the time `now` how far the node is.
    pub(super) fn note_progress(&mut self, now: Duration) {
        let tail = if self.role == NodeRole::Leading { self.reached } else { self.tail };
        self.lag.note(self.reached, tail, now);
        self.has_caught_up |= self.is_tail_told && self.reached >= tail;
    }

    /// Checks that the node serves what the fleet has: it has caught up, and goes on. `patience` is
    /// the time for which a node may be behind and make no progress.
    ///
    /// # Errors
    ///
    /// Why it is not ready, for people.
    pub(super) fn check_ready(&self, now: Duration, patience: Duration) -> Result<(), String> {
        let (reached, tail) = (self.reached, self.tail);
        match self.role {
            NodeRole::Stopped => {
                let problem = self.problem.as_deref().unwrap_or("it is closed");
                let kept = self.restart_problem_in_words();
                Err(format!("this node takes no part in its fleet: {problem}{kept}"))
            }
            NodeRole::Following if !self.is_tail_told => {
                let problem = self.engine_problem.as_deref().unwrap_or("it was just opened");
                Err(format!("this node does not know yet what it misses: {problem}"))
            }
            NodeRole::Following if !self.has_caught_up => Err(format!(
                "this node has not caught up yet: it has applied record {reached} of {tail}"
            )),
            NodeRole::Following if self.is_stuck(now, patience) => Err(format!(
                "this node does not go on: it has been at record {reached} of {tail} for {} ms",
                self.lag.still(now).as_millis()
            )),
            NodeRole::Following if self.ends_early(now, patience) => Err(format!(
                "this node does not fit the stream: the stream ends before record {reached}, which \
                 this node has applied; NATS has lost records, or fleet.name is that of another \
                 fleet"
            )),
            NodeRole::Following if self.is_among_strangers => Err(format!(
                "this node has no part in its fleet: {}",
                self.peers_problem.as_deref().unwrap_or("its secret is not that of the others")
            )),
            NodeRole::Joining => Err("this node loads a backup of another one".to_owned()),
            NodeRole::Leading | NodeRole::Following | NodeRole::Unknown => Ok(()),
        }
    }

    /// Whether the engine has not had what this node has for so long. A server of it that is behind
    /// may tell an old tail for a moment.
    fn ends_early(&self, now: Duration, patience: Duration) -> bool {
        self.ends_early_since.is_some_and(|since| now.saturating_sub(since) > patience)
    }

    fn is_stuck(&self, now: Duration, patience: Duration) -> bool {
        self.lag.behind(now) > patience && self.lag.still(now) > patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(9);

    fn at(reached: u64, tail: u64, seconds: u64, mut status: NodeStatus) -> NodeStatus {
        status.reached = StreamSequence::new(reached);
        status.tail = StreamSequence::new(tail);
        status.note_progress(Duration::from_secs(seconds));
        status
    }

    fn refused(status: &NodeStatus, seconds: u64) -> String {
        status.check_ready(Duration::from_secs(seconds), PATIENCE).unwrap_err()
    }

    #[test]
    fn a_node_is_ready_once_it_has_caught_up_and_as_long_as_it_goes_on() {
        let ready = |status: &NodeStatus, seconds| {
            status.check_ready(Duration::from_secs(seconds), PATIENCE).unwrap();
        };
        let status = at(4, 4, 0, NodeStatus::default());
        assert!(refused(&status, 0).contains("does not know yet"), "no tail was told");
        let away = NodeStatus { engine_problem: Some("no answer".to_owned()), ..status.clone() };
        assert!(refused(&away, 0).ends_with("no answer"));
        let told = NodeStatus { is_tail_told: true, ..status };
        let behind = at(5, 9, 1, told);
        assert_eq!(
            refused(&behind, 1),
            "this node has not caught up yet: it has applied record 5 of 9"
        );
        let caught_up = at(9, 9, 2, behind);
        ready(&caught_up, 3_600); // Nothing comes, and nothing is missing.
        let behind = at(9, 20, 3_600, caught_up);
        assert_eq!(behind.lag_records(), 11);
        ready(&behind, 3_609);
        assert!(refused(&behind, 3_610).contains("record 9 of 20 for "));
        let going_on = at(10, 900, 3_620, behind);
        ready(&going_on, 3_629); // It is far behind, and moves.
        assert!(refused(&going_on, 3_630).contains("record 10 of 900"));
    }

    #[test]
    fn a_node_that_is_beyond_the_stream_for_long_is_not_ready() {
        let told_after = |status: &mut NodeStatus, reached, tail, seconds| {
            let now = Duration::from_secs(seconds);
            status.note_tail(StreamSequence::new(tail), StreamSequence::new(reached), now);
        };
        let told = |status: &mut NodeStatus, tail, seconds| told_after(status, 9, tail, seconds);
        let mut status = at(9, 9, 0, NodeStatus { is_tail_told: true, ..NodeStatus::default() });
        told(&mut status, 4, 10);
        status.check_ready(Duration::from_secs(19), PATIENCE).unwrap();
        assert!(refused(&status, 20).contains("fleet.name"));
        told(&mut status, 3, 21);
        assert!(refused(&status, 21).contains("before record 9"), "as long as it is so");
        told(&mut status, 9, 22);
        status.check_ready(Duration::from_secs(60), PATIENCE).unwrap();
        // The node has gone on while the engine was asked.
        told_after(&mut status, 8, 8, 61);
        status.check_ready(Duration::from_secs(90), PATIENCE).unwrap();
        // While the engine is away, nobody knows what it has.
        told(&mut status, 4, 91);
        status.note_no_tail("no answer".to_owned());
        status.check_ready(Duration::from_secs(120), PATIENCE).unwrap();
    }

    #[test]
    fn a_leader_is_ready_and_a_node_that_has_stopped_says_why_it_is_not() {
        let leading = NodeStatus { role: NodeRole::Leading, ..NodeStatus::default() };
        let leading = at(3, 5, 0, leading); // Its own heartbeats are in the stream.
        leading.check_ready(Duration::from_secs(60), PATIENCE).unwrap();
        assert_eq!(leading.lag_records(), 0);
        let problem = Some("the chain is broken".to_owned());
        let stopped = NodeStatus { role: NodeRole::Stopped, problem, ..leading };
        assert!(refused(&stopped, 0).ends_with("its fleet: the chain is broken"));
    }
}
