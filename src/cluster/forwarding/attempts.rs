//! Attempts to connect to the leader: when the next one is due, and what is told of those that
//! fail.

use std::time::Duration;

use tokio::time::Instant;

use super::link::NoLink;
use crate::cluster::seldom::Seldom;
use crate::cluster::status::{NodeRole, NodeStatus};

/// The pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The attempts to connect to one leader.
#[derive(Debug)]
pub(super) struct ConnectAttempts {
    /// No attempt is made before.
    pub(super) next: Instant,
    pause: Duration,
    /// Why the last attempt failed; `None` if it did not.
    failed: Option<NoLink>,
    /// A leader that cannot be reached is told seldom.
    warning: Seldom,
}

impl ConnectAttempts {
    pub(super) fn new() -> Self {
        let warning = Seldom::default();
        Self { next: Instant::now(), pause: FIRST_PAUSE, failed: None, warning }
    }

    /// Another node leads: the next attempt is due at once.
    pub(super) fn begin_anew(&mut self) {
        (self.next, self.pause, self.failed) = (Instant::now(), FIRST_PAUSE, None);
    }

    /// There is a connection.
    pub(super) fn take_success(&mut self) {
        self.failed = None;
    }

    /// The leader has carried something out: it is well.
    pub(super) fn shorten_pause(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// No connection came to be.
    pub(super) fn take_failure(&mut self, no_link: NoLink) {
        let problem = &no_link.problem;
        match self.warning.is_due(std::time::Instant::now()) {
            true => tracing::warn!(problem, "cannot reach the fleet's leader"),
            false => tracing::debug!(problem, "cannot reach the fleet's leader"),
        }
        self.failed = Some(no_link);
        self.wait();
    }

    /// The next attempt is made after a pause.
    pub(super) fn wait(&mut self) {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Whether waiting is of no use to callers, as far as the attempts and the status of this node
    /// say. After a pause another attempt is made for those who come then.
    pub(super) fn are_in_vain(&self, status: &NodeStatus, knows_leader: bool) -> bool {
        let is_refused = self.failed.as_ref().is_some_and(|no_link| no_link.is_refused);
        let hears_no_leader = status.role == NodeRole::Stopped || status.is_among_strangers;
        is_refused && Instant::now() < self.next || hears_no_leader && !knows_leader
    }

    /// Returns why nobody can be asked, for people; `None` if there is just no leader.
    pub(super) fn why_nobody_is_asked(&self, status: &NodeStatus) -> Option<String> {
        if status.role == NodeRole::Stopped {
            let problem = status.problem.as_deref().unwrap_or("it is closed");
            return Some(format!("this node takes no part in its fleet: {problem}"));
        }
        if let Some(NoLink { problem, .. }) = &self.failed {
            return Some(format!("the leader cannot be reached: {problem}"));
        }
        let problem = status.peers_problem.as_ref().filter(|_| status.is_among_strangers);
        problem.or(status.engine_problem.as_ref()).cloned()
    }
}
