//! A log for tests that fails as a test tells it to. It keeps events in memory; a test says which
//! append fails in which way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Condvar, Mutex};

use super::block::Block;
use super::contract::Log;
use super::group::Group;
use super::memory_log::MemoryLog;
use super::stored_block::StoredBlock;
use super::stored_topic::StoredTopic;
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Cause, Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicId;

/// A way in which an append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The append is refused before anything was written.
    NotWritten,
    /// The disk is full, which is found before anything was written.
    DiskFull,
    /// The write failed. Nothing was written, but the caller cannot know that.
    WriteFails,
    /// The sync failed. All was written, but the caller cannot know that.
    SyncFails,
    /// The log panics.
    Panics,
    /// The append waits until the test lets it go on, and then succeeds.
    Waits,
}

/// A [`MemoryLog`] that fails on demand.
#[derive(Debug, Default)]
pub(crate) struct FaultyLog {
    inner: MemoryLog,
    state: Mutex<State>,
    gate: Gate,
}

/// The gate at which appends with [`Fault::Waits`] wait while it is closed.
#[derive(Debug, Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

/// A guard that keeps the gate closed for as long as it lives.
#[derive(Debug)]
pub(crate) struct HeldGate<'a>(&'a Gate);

impl Drop for HeldGate<'_> {
    fn drop(&mut self) {
        *self.0.is_closed.lock().unwrap() = false;
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
    /// Makes the `nth` append fail, counted from 1.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub(crate) fn fail(&self, nth: u64, fault: Fault) {
        self.state.lock().unwrap().faults.insert(nth, fault);
    }

    /// Makes the blocks of all topics unreadable that begin at this sequence.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub(crate) fn damage(&self, first: Sequence) {
        self.state.lock().unwrap().damaged.insert(first);
    }

    /// Returns the number of appends that were asked for, without those that an earlier failure
    /// refused.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub(crate) fn appends(&self) -> u64 {
        self.state.lock().unwrap().appends
    }

    /// Returns the number of commits that were asked for, with and without events.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub(crate) fn commits(&self) -> u64 {
        self.state.lock().unwrap().commits
    }

    /// Returns the number of reads of blocks that were asked for.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub(crate) fn reads(&self) -> u64 {
        self.state.lock().unwrap().reads
    }

    /// Ends the failure, as reopening the log does: appends are taken again.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub(crate) fn repair(&self) {
        self.state.lock().unwrap().failed = false;
    }

    /// Keeps appends with [`Fault::Waits`] waiting for as long as the guard lives.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub(crate) fn hold(&self) -> HeldGate<'_> {
        *self.gate.is_closed.lock().unwrap() = true;
        HeldGate(&self.gate)
    }

    fn cause() -> Cause {
        io::Error::other("injected").into()
    }
}

impl Log for FaultyLog {
    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }

    fn topics(&self) -> Result<Vec<StoredTopic>> {
        self.inner.topics()
    }

    fn ids(&self) -> Result<Vec<(TopicId, Block)>> {
        self.inner.ids()
    }

    fn commit(&self, group: &Group) -> Result<()> {
        self.state.lock().unwrap().commits += 1;
        if group.appended.is_empty() {
            return self.inner.commit(group);
        }
        let fault = {
            let mut state = self.state.lock().unwrap();
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
                let is_closed = self.gate.is_closed.lock().unwrap();
                let _opened = self.gate.opened.wait_while(is_closed, |closed| *closed).unwrap();
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
        let mut blocks = self.inner.read(topic, from, below, max_bytes)?;
        let mut state = self.state.lock().unwrap();
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

    fn stored_blocks(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        max_parts: usize,
    ) -> Result<Vec<StoredBlock>> {
        self.inner.stored_blocks(topic, sequences, max_parts)
    }

    fn last_below(&self, topic: &StoredTopic, sequence: Sequence) -> Result<(Position, Timestamp)> {
        self.inner.last_below(topic, sequence)
    }
}
