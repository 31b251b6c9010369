//! The part that readers of one topic and of many have in common, and the steps that both take.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::behind::Holder;
use super::gaps::UntoldGaps;
use crate::broker::filter::Conditions;
use crate::broker::shared::Shared;
use crate::broker::tail::run::Run;
use crate::cursor::{Epoch, OnGap};

/// The terms of a reader, and the parts that it has for one topic and for many.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) shared: Arc<Shared>,
    /// The reaction to a gap.
    pub(super) on_gap: OnGap,
    /// The filter that picks the reader's events; `None` if all events are for it.
    pub(super) filter: Option<Arc<Conditions>>,
    /// The gaps that were found and are not told yet.
    pub(super) gaps: UntoldGaps,
    /// Counts the reader among those that are behind. `None` once the reader holds no blocks that
    /// were read from the log.
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

/// The outcome of a look at what comes next, without a read of the log.
pub(super) enum Step {
    /// The next events.
    Events(Run),
    /// A gap was found. It must be told before anything else.
    Gap,
    /// The events that were looked through are not for this reader; there may be more.
    Passed,
    /// A step that takes a while must be taken first.
    Slow(SlowStep),
    /// Everything that is known was delivered.
    Idle,
}

/// A step that takes a while. After it, the reader looks again.
#[derive(Debug, Clone, Copy)]
pub(super) enum SlowStep {
    /// Read the next events from the log.
    Read,
    /// List the next topics: some of the topics that have not been looked at.
    List,
    /// Find topics with something new.
    Find,
    /// Let other tasks have their turn, because many topics were looked at.
    Pause,
}
