//! When the process of a node is to end, so that its next start repairs the node.
//!
//! A node that cannot go on as it is serves what it has, until another node can help it: then it is
//! to be closed and opened again ([`open_in`](super::open_in)), which repairs it.
//!
//! | the node | its next start | before that, another node |
//! |---|---|---|
//! | has a damaged log | loads a backup | can give one |
//! | is behind the stream's limits | loads a backup | can give one |
//! | does not fit the next record | loads a backup | can give one, and has applied that record |
//! | has a log that takes nothing more | opens the log | serves |
//!
//! # Why
//!
//! A log cannot be replaced under its readers, and opening a node is one path that is tested well.
//! So there is no second one that repairs a node while it runs.
//!
//! A repair may not help: the disk may be broken, and damage the next log, too. Each repair costs
//! another node a backup, and this one its clients. So the process notes in its data directory that
//! it ends, and does not end again within [`REST`]. What cannot be noted, because the disk is full,
//! does not happen: a start without any space would not serve at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::choosing::{Failures, choose};
use super::damage_note::DamageNote;
use super::peers::PeerStatus;
use super::status::{NodeRole, NodeStatus};
use super::stream::{Stream, StreamSequence};
use super::view::FleetView;
use crate::error::{Error, Result, with_causes};
use crate::event::Timestamp;
use crate::log::{NotedEnd, note_end, noted_end};

/// The least time between two ends of a node's process for a repair.
const REST: Duration = Duration::from_secs(6 * 60 * 60);

/// The longest time, in leases, for which a node leaves others their turn before it ends.
const TURNS: u32 = 4;

/// The least time after which a node that was opened with a damaged log looks for a backup once
/// more.
const REPAIR_AGAIN: Duration = Duration::from_secs(5 * 60);

/// Looks whether a node is to be closed and opened again.
pub(super) struct RestartWatch {
    pub(super) view: FleetView,
    pub(super) stream: Arc<dyn Stream>,
    pub(super) status: Arc<watch::Sender<NodeStatus>>,
    pub(super) damage_note: DamageNote,
}

impl RestartWatch {
    /// Waits until the node is to be closed and opened again. Returns why, for people.
    ///
    /// # Cancel safety
    ///
    /// The end may be noted already.
    pub(super) async fn run(self) -> String {
        let (clock, lease) = (self.view.clock.clone(), self.view.lease);
        // A node that was just opened on a damaged log has tried to load a backup.
        let tried_at = self.view.status().damage.map(|_| clock.now());
        let again = REPAIR_AGAIN.max(lease * 20);
        loop {
            clock.sleep_until(clock.now() + lease).await;
            let status = self.view.status();
            let Some(why) = status.repairable_problem() else { continue };
            if tried_at.is_some_and(|tried_at| clock.now() < tried_at + again) {
                continue;
            }
            if self.helper_in_time(&status).await.is_none() {
                continue;
            }
            // Nodes that have found the same at once must not all end at once.
            clock.sleep_until(clock.now() + (lease * TURNS).mul_f64(rand::random())).await;
            let Some(helper) = self.helper_in_time(&status).await else { continue };
            match self.note(&status, &why).await {
                Ok(None) => {
                    return format!(
                        "this node ends, because it cannot go on as it is: {why}; {helper} can \
                         help it: start this node again, and it repairs itself"
                    );
                }
                Ok(Some(rest)) => self.show_restart_problem(&why, rest),
                Err(error) => {
                    let problem = format!("its end cannot be noted: {}", with_causes(&error));
                    self.show_restart_problem(&why, problem);
                }
            }
        }
    }

    async fn helper_in_time(&self, status: &NodeStatus) -> Option<String> {
        let asked = tokio::time::timeout(self.view.lease * 2, self.helper(status)).await;
        asked.ok().flatten()
    }

    /// Returns the name of a node that can help this one; `None` while another one is being
    /// repaired, too.
    async fn helper(&self, status: &NodeStatus) -> Option<String> {
        let live = self.view.peers.live_others();
        if live.iter().any(|peer| peer.role == NodeRole::Joining) {
            return None;
        }
        let is_log_wrong =
            status.damage.is_some() || status.fell_behind || status.breaks_at.is_some();
        if !is_log_wrong {
            return live.into_iter().find(PeerStatus::serves).map(|peer| peer.name);
        }
        if !self.view.has_secret() {
            return None; // Without one, nobody gives a backup.
        }
        let (first, tail) = (self.stream.first().await.ok()?, self.stream.tail().await.ok()?);
        if tail < status.applied {
            return None; // The stream has lost records, which this log may still have.
        }
        helper_of(&live, &self.view.peers.own(), status.breaks_at, first)
    }

    /// Notes that the process ends, unless it has ended for a repair a short time ago: then returns
    /// that, for people.
    async fn note(&self, status: &NodeStatus, why: &str) -> Result<Option<String>> {
        let misfit = status.breaks_at.map(|_| why.to_owned());
        let (damage_note, why) = (self.damage_note.clone(), why.to_owned());
        let at_ms = Timestamp::now().as_ms();
        let noting = move || {
            let directory = &damage_note.directory;
            if let Some(last) = noted_end(directory)?
                && let Some(rest) = rest_after(&last, at_ms)
            {
                return Ok(Some(rest));
            }
            damage_note.write(misfit)?;
            note_end(directory, &NotedEnd { at_ms, why })?;
            Ok(None)
        };
        tokio::task::spawn_blocking(noting).await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// Says that the process does not end, though it should for the reason `why`.
    fn show_restart_problem(&self, why: &str, problem: String) {
        self.status.send_if_modified(|status| {
            let is_new = status.restart_problem.as_ref() != Some(&problem);
            if is_new {
                tracing::error!(
                    why,
                    problem,
                    "this node cannot go on as it is, and does not end by itself for its next \
                     start to repair it"
                );
                status.restart_problem = Some(problem);
            }
            is_new
        });
    }
}

/// Returns the node that can give a backup, and has applied the record at which this one breaks.
/// `first` is the first record that the stream still has.
fn helper_of(
    live: &[PeerStatus],
    own: &PeerStatus,
    breaks_at: Option<StreamSequence>,
    first: StreamSequence,
) -> Option<String> {
    let next = breaks_at.map_or(first, |at| first.max(at.next()));
    choose(live, own, &Failures::new(), next).map(|peer| peer.name.clone())
}

/// Returns why a process does not end now, `now_ms` after 1970; `None` if it may. A clock that was
/// put back counts like one that was put on.
fn rest_after(last: &NotedEnd, now_ms: u64) -> Option<String> {
    let ago = Duration::from_millis(now_ms.abs_diff(last.at_ms));
    let hours = REST.as_secs() / 3_600;
    (ago < REST).then(|| {
        format!(
            "it has ended for a repair ({}) within the last {hours} hours, and does not end again \
             so soon: look at its disk, and start it yourself",
            last.why
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::FleetLeader;
    use super::*;

    fn peer(name: &str, applied: u64) -> PeerStatus {
        let (node, address) = (name.to_owned(), format!("http://{name}"));
        let known = PeerStatus::of_program(&FleetLeader { node, incarnation: applied, address });
        PeerStatus { applied, ..known }
    }

    #[test]
    fn a_process_ends_for_a_repair_once_in_six_hours_whatever_the_clock_does() {
        let hour = 3_600_000;
        let last = NotedEnd { at_ms: 100 * hour, why: "a page".to_owned() };
        for now in [94, 106, 200] {
            assert_eq!(rest_after(&last, now * hour), None, "{now}");
        }
        for now in [100, 105, 95] {
            let rest = rest_after(&last, now * hour).unwrap();
            assert!(rest.contains("ended for a repair (a page) within the last 6 hours"), "{rest}");
        }
    }

    #[test]
    fn where_the_stream_breaks_only_a_node_that_has_gone_on_helps() {
        let (own, first) = (peer("n0", 8), StreamSequence::new(3));
        let live = [peer("n1", 8), peer("n2", 9)];
        let helper = |breaks_at: Option<u64>| {
            helper_of(&live, &own, breaks_at.map(StreamSequence::new), first)
        };
        assert_eq!(helper(None).as_deref(), Some("n2"), "it has most");
        assert_eq!(helper(Some(9)).as_deref(), Some("n2"));
        assert_eq!(helper(Some(10)), None);
        let damaged = [PeerStatus { damaged: true, ..peer("n1", 20) }];
        assert_eq!(helper_of(&damaged, &own, None, first), None);
    }
}
