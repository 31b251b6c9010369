//! One topic, as all parts of the broker share it: its state, and a field for each of the parts.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::chunks::TopicChunks;
use super::counts::Counts;
use super::ephemeral::EphemeralQueue;
use super::members::TopicMembers;
use super::signal::Signal;
use super::state::{PackedState, TopicState};
use super::upkeep::Upkeep;
use crate::broker::dedup::Recall;
use crate::broker::filter::Conditions;
use crate::broker::tail::block::SharedBlock;
use crate::broker::tail::newest::Tail;
use crate::broker::tail::run::Run;
use crate::cursor::Sequence;
use crate::error::Result;
use crate::log::Ages;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// The counts and the chunks of all topics. Each topic keeps them up to date.
#[derive(Debug)]
pub(super) struct Roll {
    pub(super) counts: Counts,
    pub(super) chunks: TopicChunks<Topic>,
}

/// One topic. A topic that somebody uses may not exist in the log yet.
///
/// # Why
///
/// There may be hundreds of thousands of topics, nearly all idle. The parts that only some topics
/// need (followed ones, ones with their own settings or members) are allocated when they are
/// needed.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    pub(crate) tail: Arc<Tail>,
    /// Whether the dedup window knows the topic's ids from before the start.
    pub(crate) recall: Recall,
    pub(crate) upkeep: Upkeep,
    /// The topic's default settings, for those that it does not have itself.
    defaults: Arc<TopicConfig>,
    roll: Arc<Roll>,
    state: Mutex<PackedState>,
    /// The signal that tells followers that there is something new. It is made for the first
    /// follower: few of a hundred thousand topics are followed, and it takes more memory than the
    /// rest of the topic.
    pub(crate) signal: OnceLock<Box<Signal>>,
    /// The ephemeral events of the topic.
    pub(crate) ephemeral: EphemeralQueue,
    /// The members of the topic.
    pub(crate) members: TopicMembers,
    /// The number of times that blocks of the topic were rewritten.
    pub(crate) rewrites: AtomicU64,
    /// Whether the waker knows already that there is something new.
    pub(crate) is_due: AtomicBool,
    /// The number of [`TopicRef`](super::topics::TopicRef)s to the topic.
    pub(super) refs: AtomicUsize,
}

impl Topic {
    pub(super) fn new(
        name: TopicName,
        state: TopicState,
        defaults: Arc<TopicConfig>,
        roll: &Arc<Roll>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            tail: Arc::new(Tail::after(state.extent.last_position)),
            recall: Recall::of(&state.extent),
            upkeep: Upkeep::of(&state.extent),
            defaults,
            roll: roll.clone(),
            state: Mutex::new(state.into()),
            signal: OnceLock::new(),
            ephemeral: EphemeralQueue::default(),
            members: TopicMembers::default(),
            rewrites: AtomicU64::new(0),
            is_due: AtomicBool::new(false),
            refs: AtomicUsize::new(0),
        })
    }

    /// Returns the settings that hold for the topic.
    pub(crate) fn effective_config(&self) -> TopicConfig {
        self.state().config.over(*self.defaults)
    }

    /// Returns the topic's state at this moment.
    pub(crate) fn state(&self) -> TopicState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).state()
    }

    /// Follows the topic: the returned receiver is told after each change of the topic's state from
    /// now on.
    pub(crate) fn follow(&self) -> watch::Receiver<()> {
        self.signal.get_or_init(Box::default).follow()
    }

    /// Returns the number of readers that follow this topic alone.
    pub(crate) fn followers(&self) -> usize {
        self.signal.get().map_or(0, |signal| signal.followers())
    }

    /// Sets the topic's state. Only the committer calls this, and wakes the followers afterwards.
    pub(crate) fn set_state(self: &Arc<Self>, state: TopicState) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.roll.counts.add(&state);
        let before = current.state();
        self.roll.counts.remove(&before);
        *current = state.into();
        drop(current);
        match state.id {
            Some(id) if before.id.is_none() => self.roll.chunks.add(self, id, &state.extent),
            Some(id) if state.extent.dropped_position() > before.extent.dropped_position() => {
                self.roll.chunks.raise_dropped(id, &state.extent);
            }
            _ => {}
        }
    }

    /// Returns the events of `shared`, one of the topic's blocks, as a reader gets them; `None` if
    /// the reader gets none of them.
    pub(crate) fn run(
        &self,
        shared: Arc<SharedBlock>,
        sequences: Range<Sequence>,
        ages: Ages,
        filter: Option<&Arc<Conditions>>,
    ) -> Option<Run> {
        let has_ttl = shared.block().has_ttl();
        let deletes_keys = has_ttl && self.effective_config().key_limit().is_some();
        Run::new(&self.name, deletes_keys, shared, sequences, ages, filter)
    }

    /// Refuses to create the topic, if with `more` others that are being created there would be too
    /// many topics. The broker's own topics are never too many.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(crate) fn check_existing(&self, more: isize) -> Result<()> {
        if self.name.is_own() { Ok(()) } else { self.roll.counts.check_existing(more) }
    }

    /// Refuses to delete the topic, if with `more` others that are being deleted there would be too
    /// many deleted topics.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(crate) fn check_deleted(&self, more: isize) -> Result<()> {
        self.roll.counts.check_deleted(more)
    }
}
