//! A log that fails on cue, for tests: it keeps events in memory, and fails the appends it is told
//! to fail, in the way it is told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::{Block, Group, Log, MemoryLog, StoredTopic};
use crate::cursor::{Epoch, Sequence};
use crate::error::{Error, Result};
use crate::topic::TopicId;

/// How an append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused before anything was written.
    NotWritten,
    /// No room, found out before anything was written.
    DiskFull,
    /// Nothing was written, but nobody can know: the write itself failed.
    WriteFails,
    /// Everything was written, but nobody can know: the sync failed.
    SyncFails,
    /// Nothing fails, but it lasts until the test lets it go on.
    Waits,
}

/// A [`MemoryLog`] with faults.
#[derive(Debug, Default)]
pub struct FaultyLog {
    inner: MemoryLog,
    state: Mutex<State>,
    gate: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    appends: u64,
    faults: BTreeMap<u64, Fault>,
    failed: bool,
}

impl FaultyLog {
    /// Makes the `nth` append fail, counted from 1.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub fn fail(&self, nth: u64, fault: Fault) {
        self.state.lock().unwrap().faults.insert(nth, fault);
    }

    /// Keeps appends with [`Fault::Waits`] waiting for as long as the guard lives.
    ///
    /// # Panics
    ///
    /// If a test panicked meanwhile.
    pub fn hold(&self) -> std::sync::MutexGuard<'_, ()> {
        self.gate.lock().unwrap()
    }

    fn cause() -> Arc<io::Error> {
        Arc::new(io::Error::other("injected"))
    }
}

impl Log for FaultyLog {
    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }

    fn topics(&self) -> Result<Vec<StoredTopic>> {
        self.inner.topics()
    }

    fn append(&self, group: &Group) -> Result<()> {
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
                self.inner.append(group)?;
                Err(Error::OutcomeUnknown(Self::cause()))
            }
            Some(Fault::Waits) => {
                let _gate = self.gate.lock().unwrap();
                self.inner.append(group)
            }
            None => self.inner.append(group),
        }
    }

    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        self.inner.read(topic, from, below, max_bytes)
    }

    fn trim(&self, topic: &StoredTopic, earliest: Sequence) -> Result<()> {
        self.inner.trim(topic, earliest)
    }
}
