//! A log for tests that fails as a test tells it to. It keeps events in memory; a test says which
//! append fails in which way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::block::Block;
use super::contract::Log;
use super::group::Group;
use super::log_around::LogAround;
use super::memory_log::MemoryLog;
use crate::cursor::Sequence;
use crate::error::{Cause, Error, Result};
use crate::topic::TopicId;

/// A way in which an append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The append is refused before anything was written: [`Error::NotWritten`].
    NotWritten,
    /// The disk is full, which is found before anything was written: [`Error::DiskFull`].
    DiskFull,
    /// The write failed. Nothing was written, but the caller cannot know that:
    /// [`Error::OutcomeUnknown`]. Later appends fail with [`Error::ReadOnly`].
    WriteFails,
    /// The sync failed. All was written, but the caller cannot know that: the same errors as of
    /// [`Fault::WriteFails`]. A broker that is opened on the log again finds the events.
    SyncFails,
    /// The log panics, and the committer's thread ends: [`Error::OutcomeUnknown`] for the publishes
    /// of that append, and [`Error::ReadOnly`] after them.
    Panics,
    /// The append waits as long as the test holds the gate ([`FaultyLog::hold`]), and then
    /// succeeds.
    Waits,
}

/// A [`MemoryLog`] that fails on demand.
///
/// An append is one group of publishes. Publishes that wait for each other are groups of their own;
/// publishes that come together may share one.
///
/// ```
/// use std::sync::Arc;
///
/// use leftoff::testing::{Builder, Fault, FaultyLog};
/// use leftoff::{Error, NewEvent, Publish};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let log = Arc::new(FaultyLog::default());
/// let broker = Builder::default().log(log.clone()).open()?;
/// let publish = |payload: &'static str| {
///     let (topic, events) = ("a".parse().expect("a name"), vec![NewEvent::new(payload)]);
///     broker.publish(Publish::new(topic, events))
/// };
/// log.fail(2, Fault::DiskFull);
/// publish("stored").await?;
/// assert!(matches!(publish("refused").await, Err(Error::DiskFull { .. })));
/// assert_eq!(publish("stored again").await?.last().sequence.get(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct FaultyLog {
    inner: MemoryLog,
    state: Mutex<State>,
    gate: Gate,
    reads_gate: Gate,
}

/// A gate at which the log waits while it is closed: for appends with [`Fault::Waits`], or for
/// reads.
#[derive(Debug, Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn is_closed(&self) -> MutexGuard<'_, bool> {
        self.is_closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self) -> HeldGate<'_> {
        *self.is_closed() = true;
        HeldGate(self)
    }

    fn pass(&self) {
        let opened = self.opened.wait_while(self.is_closed(), |closed| *closed);
        drop(opened.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A guard that keeps the gate closed for as long as it lives.
#[derive(Debug)]
pub struct HeldGate<'a>(&'a Gate);

impl Drop for HeldGate<'_> {
    fn drop(&mut self) {
        *self.0.is_closed() = false;
        self.0.opened.notify_all();
    }
}

#[derive(Debug, Default)]
struct State {
    commits: u64,
    appends: u64,
    reads: u64,
    faults: BTreeMap<u64, Fault>,
    failed: bool,
    /// The first sequences of blocks that cannot be read.
    damaged: BTreeSet<Sequence>,
}

impl FaultyLog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the `nth` append fail, counted from 1.
    pub fn fail(&self, nth: u64, fault: Fault) {
        self.state().faults.insert(nth, fault);
    }

    /// Makes the blocks of all topics unreadable that begin at this sequence.
    pub fn damage(&self, first: Sequence) {
        self.state().damaged.insert(first);
    }

    /// Returns the number of appends that were asked for, without those that an earlier failure
    /// refused.
    pub fn appends(&self) -> u64 {
        self.state().appends
    }

    /// Returns the number of commits that were asked for, with and without events.
    pub fn commits(&self) -> u64 {
        self.state().commits
    }

    /// Returns the number of reads of blocks that were asked for.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// Ends the failure, as reopening the log does: appends are taken again.
    pub fn repair(&self) {
        self.state().failed = false;
    }

    /// Keeps appends with [`Fault::Waits`] waiting for as long as the guard lives. Closing the
    /// broker waits for such an append.
    pub fn hold(&self) -> HeldGate<'_> {
        self.gate.hold()
    }

    /// Keeps the reads of blocks waiting for as long as the guard lives. What the broker has in
    /// memory is read all the same.
    pub fn hold_reads(&self) -> HeldGate<'_> {
        self.reads_gate.hold()
    }

    fn cause() -> Cause {
        io::Error::other("injected").into()
    }
}

impl LogAround for FaultyLog {
    fn inside(&self) -> &dyn Log {
        &self.inner
    }

    fn commit(&self, group: &Group) -> Result<()> {
        self.state().commits += 1;
        if group.appended.is_empty() {
            return self.inner.commit(group);
        }
        let fault = {
            let mut state = self.state();
            if state.failed {
                return Err(Error::ReadOnly(Self::cause()));
            }
            state.appends += 1;
            let nth = state.appends;
            let fault = state.faults.get(&nth).copied();
            state.failed = matches!(fault, Some(Fault::WriteFails | Fault::SyncFails));
            fault
        };
        match fault {
            Some(Fault::NotWritten) => Err(Error::NotWritten(Self::cause())),
            Some(Fault::DiskFull) => Err(Error::DiskFull { free_bytes: 1, needed_bytes: 2 }),
            Some(Fault::WriteFails) => Err(Error::OutcomeUnknown(Self::cause())),
            Some(Fault::SyncFails) => {
                self.inner.commit(group)?;
                Err(Error::OutcomeUnknown(Self::cause()))
            }
            Some(Fault::Panics) => panic!("injected"),
            Some(Fault::Waits) => {
                self.gate.pass();
                self.inner.commit(group)
            }
            None => self.inner.commit(group),
        }
    }

    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        self.reads_gate.pass();
        let mut blocks = self.inner.read(topic, from, below, max_bytes)?;
        let mut state = self.state();
        state.reads += 1;
        let is_damaged = |block: &Block| state.damaged.contains(&block.first_sequence());
        let found = blocks.iter().position(is_damaged);
        let Some(found) = found else { return Ok(blocks) };
        if found > 0 {
            blocks.truncate(found);
            return Ok(blocks);
        }
        let block = &blocks[0];
        let topics = self.topics()?;
        let name = topics.iter().find(|stored| stored.id == topic).expect("a topic").name.clone();
        let (first, last) = (block.first_sequence(), Some(block.last_sequence()));
        Err(Error::Damaged { topic: name, first, last, problem: "injected".to_owned() })
    }
}
