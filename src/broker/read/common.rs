//! The part that readers of one topic and of many have in common, and the steps that both take.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::behind::Holder;
use super::filter::Filter;
use super::gaps::UntoldGaps;
use crate::broker::shared::Shared;
use crate::broker::tail::run::Run;
use crate::cursor::{Epoch, OnGap};

/// The terms of a reader, and what it holds whatever it reads.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) shared: Arc<Shared>,
    /// The reaction to a gap.
    pub(super) on_gap: OnGap,
    /// Picks the events of the reader; all of them without one.
    pub(super) filter: Option<Arc<Filter>>,
    /// The gaps that were found and not told yet.
    pub(super) gaps: UntoldGaps,
    /// Counts the reader among those that are behind, as long as it holds blocks of the log.
    pub(super) holder: Option<Holder>,
}

impl Common {
    pub(super) fn new(shared: Arc<Shared>, on_gap: OnGap) -> Self {
        Self { shared, on_gap, filter: None, gaps: UntoldGaps::default(), holder: None }
    }

    /// Returns the incarnation of the log that is read.
    pub(super) fn epoch(&self) -> Epoch {
        self.shared.log.epoch()
    }

    /// Returns whether the broker is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        self.shared.is_stopping.load(Ordering::SeqCst)
    }
}

/// The outcome of a look at what comes next, without the log.
pub(super) enum Step {
    /// The next events.
    Events(Run),
    /// A gap was found, and is to be told first.
    Gap,
    /// The events that were looked through are not for this reader; there may be more.
    Passed,
    /// A step that takes a while comes first.
    Slow(SlowStep),
    /// Everything that is known was delivered.
    Idle,
}

/// A step that takes a while, after which there is more to look at.
#[derive(Debug, Clone, Copy)]
pub(super) enum SlowStep {
    /// Events that come next are read from the log.
    Read,
    /// Topics that come next are listed.
    List,
    /// Topics with something new are looked for.
    Find,
    /// Many topics were looked at: other tasks have their turn.
    Pause,
}
