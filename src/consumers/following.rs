//! Who follows the state of a consumer, and the newest changes that they are told.
//!
//! # Why
//!
//! Nothing is kept of consumers that nobody follows. Whoever comes back knows the revision up to
//! which it was told: if that is the present one, nothing is missing, and if the changes since are
//! kept, it gets these. In any other case it gets the whole state, which is small.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

use super::changes::StateChange;
use super::requests::ConsumerState;
use crate::cursor::Position;
use crate::error::{Error, Result};

/// The consumers that are followed, by the texts of their identities.
#[derive(Debug)]
pub(super) struct StateFollowers {
    followed: Mutex<HashMap<Arc<str>, Weak<FollowedConsumer>>>,
    /// The most changes that are kept of each.
    max_kept: usize,
}

/// One consumer that is followed.
#[derive(Debug)]
struct FollowedConsumer {
    text: Arc<str>,
    followers: Weak<StateFollowers>,
    newest: Mutex<NewestChanges>,
    /// The revision of the newest change.
    signal: watch::Sender<u64>,
}

/// The newest changes of a consumer.
#[derive(Debug, Default)]
struct NewestChanges {
    /// The changes after this revision are kept, all of them.
    complete_after: u64,
    changes: VecDeque<Arc<StateChange>>,
}

/// What changed since a revision.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ChangesSince {
    These(Vec<Arc<StateChange>>),
    /// More than is kept.
    More,
}

impl StateFollowers {
    pub(super) fn new(max_kept: usize) -> Arc<Self> {
        Arc::new(Self { followed: Mutex::default(), max_kept })
    }

    /// Tells the followers of a consumer of changes that were stored together, which the view has
    /// already. They have one revision, so a follower is told all of them at once, or none.
    pub(super) fn tell(&self, text: &str, changes: Vec<StateChange>) {
        let find = || {
            let all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(text).and_then(Weak::upgrade)
        };
        // The lock is not held from here on: this may be the last handle, and its end takes it.
        let Some(followed) = find() else { return };
        let Some(revision) = changes.last().map(|change| change.revision.get()) else { return };
        {
            let mut newest = followed.newest();
            changes.into_iter().for_each(|it| newest.push(Arc::new(it), self.max_kept));
        }
        followed.signal.send_replace(revision);
    }

    /// Whether somebody follows a consumer.
    pub(super) fn follows(&self, text: &str) -> bool {
        let all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(text).is_some_and(|followed| followed.strong_count() > 0)
    }

    /// Has all followers of consumers that have changed read the whole state, because nobody knows
    /// the single changes. `revision` returns the present revision of a consumer, 0 for none, and
    /// `now` is the position of the newest event.
    pub(super) fn tell_anew(&self, revision: impl Fn(&str) -> u64, now: Position) {
        let followed: Vec<Arc<FollowedConsumer>> = {
            let all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            all.values().filter_map(Weak::upgrade).collect()
        };
        for followed in followed {
            let revision = revision(&followed.text);
            let known = *followed.signal.borrow();
            if revision == known {
                continue;
            }
            // A consumer that was deleted has none, and its followers have to be told so.
            let newest = if revision > known { revision } else { now.get().max(known + 1) };
            let (complete_after, changes) = (newest, VecDeque::new());
            *followed.newest() = NewestChanges { complete_after, changes };
            followed.signal.send_replace(newest);
        }
    }

    /// Returns the consumer with this identity as one that is followed. `revision` returns its
    /// present revision.
    fn follow(
        self: &Arc<Self>,
        text: Arc<str>,
        revision: impl FnOnce() -> u64,
    ) -> Arc<FollowedConsumer> {
        let mut all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(followed) = all.get(&text).and_then(Weak::upgrade) {
            return followed;
        }
        // A change comes into the view before its followers are looked for, under this lock. So
        // each change is in the revision, or is told, or both.
        let complete_after = revision();
        let newest = NewestChanges { complete_after, changes: VecDeque::new() };
        let followed = Arc::new(FollowedConsumer {
            text: text.clone(),
            followers: Arc::downgrade(self),
            newest: Mutex::new(newest),
            signal: watch::Sender::new(complete_after),
        });
        all.insert(text, Arc::downgrade(&followed));
        followed
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.followed.lock().unwrap().len()
    }
}

impl FollowedConsumer {
    fn newest(&self) -> std::sync::MutexGuard<'_, NewestChanges> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FollowedConsumer {
    fn drop(&mut self) {
        let Some(followers) = self.followers.upgrade() else { return };
        let mut all = followers.followed.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have begun to follow it anew in the meantime.
        if all.get(&self.text).is_some_and(|followed| followed.strong_count() == 0) {
            all.remove(&self.text);
        }
    }
}

impl NewestChanges {
    fn push(&mut self, change: Arc<StateChange>, max_kept: usize) {
        if self.changes.len() >= max_kept
            && let Some(dropped) = self.changes.pop_front()
        {
            self.complete_after = dropped.revision.get();
        }
        self.changes.push_back(change);
    }

    fn since(&self, revision: u64) -> ChangesSince {
        if revision < self.complete_after {
            return ChangesSince::More;
        }
        let is_newer = |change: &&Arc<StateChange>| change.revision.get() > revision;
        ChangesSince::These(self.changes.iter().filter(is_newer).cloned().collect())
    }
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StateChanges {
    /// What changed, in order. Empty if nothing did.
    These(Vec<Arc<StateChange>>),
    /// The whole state: more changed than is kept.
    Whole(ConsumerState),
}

/// A follower of the state of one consumer.
#[derive(Debug)]
pub struct StateFollower {
    followed: Arc<FollowedConsumer>,
    signal: watch::Receiver<u64>,
    /// The revision up to which the follower was told; `None` if it was told nothing.
    told: Option<u64>,
}

impl StateFollower {
    pub(super) fn new(
        followers: &Arc<StateFollowers>,
        text: Arc<str>,
        revision: impl FnOnce() -> u64,
    ) -> Self {
        let followed = followers.follow(text, revision);
        let signal = followed.signal.subscribe();
        Self { followed, signal, told: None }
    }

    /// Takes it that the follower knows the state at `revision`. Without this, the first changes
    /// that it is told are the whole state.
    pub fn knows(&mut self, revision: Position) {
        // A revision that is not there yet is one of another log.
        self.told = Some(revision.get()).filter(|told| *told <= *self.signal.borrow());
    }

    /// Waits until there are changes that the follower was not told.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: another call waits for the same.
    pub async fn changed(&mut self) -> Result<()> {
        let told = self.told;
        let is_news = |revision: &u64| told.is_none_or(|told| *revision > told);
        let waited = self.signal.wait_for(is_news).await;
        waited.map(drop).map_err(|_gone| Error::ShuttingDown)
    }

    /// Returns the changes that the follower was not told, and takes it that it is told them.
    /// `state` returns the present state.
    pub(super) fn take(&mut self, state: impl FnOnce() -> ConsumerState) -> StateChanges {
        self.signal.mark_unchanged();
        if let Some(told) = self.told
            && let ChangesSince::These(changes) = self.followed.newest().since(told)
        {
            self.told = changes.last().map_or(self.told, |last| Some(last.revision.get()));
            return StateChanges::These(changes);
        }
        StateChanges::Whole(self.take_whole(state))
    }

    /// Returns the present state, which `state` returns, and takes it that the follower is told it:
    /// no change that is in it is told afterwards.
    pub(super) fn take_whole(&mut self, state: impl FnOnce() -> ConsumerState) -> ConsumerState {
        let present = *self.signal.borrow_and_update();
        let state = state();
        self.told = Some(present.max(state.info.revision.get()));
        state
    }
}
