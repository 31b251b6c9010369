//! The contract of the engine: one stream of records, which several writers append to with a fence.
//!
//! ```text
//!   1   2   3 | 4   5   6 | 7
//!   trimmed   | ^ first   | ^ the next record
//!                       ^ tail: the last record; 0 before the first one
//! ```
//!
//! [`Stream`] is what a fleet needs from the engine, and no more. Every implementation passes the
//! tests of `stream/contract_tests.rs`.
//!
//! # Why
//!
//! The fence is the sequence after which a record must be stored, over the whole stream. So a
//! record that is sent twice with the same fence is stored once at the most, and its place is known
//! before it is sent. Whoever does not know whether a record was stored sends it again, with the
//! same fence, and is told one of these: it is stored now; or the fence refuses it, and then
//! [`Stream::get`] at that one place shows whose record is there. This needs no memory for
//! duplicates in the engine, which one and three replicas of JetStream use differently.
//!
//! No promise needs a read that is up to date. That a record is found is a proof; that none is
//! found is no proof, because the replica that answers may be behind.

#[cfg(test)]
pub(in crate::cluster) mod contract_tests;

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use thiserror::Error;

/// A future of an implementation. The trait is used as an object, so its futures are boxed.
pub type StreamFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The largest record, in bytes. The engine takes messages of up to 1 MiB by default; its headers,
/// which have the fence, need some of that.
pub const MAX_RECORD_BYTES: usize = (1 << 20) - (4 << 10);

/// The place of a record in the stream: from 1, without holes. 0 is the place before the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamSequence(u64);

impl StreamSequence {
    /// The place before the first record.
    pub const BEFORE_ALL: Self = Self(0);

    /// Returns the sequence with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the sequence of the next record.
    ///
    /// # Panics
    ///
    /// After 2^64 records.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for StreamSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a record was not appended, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The fence refused this attempt: the stream's leader does not have `after` as its last
    /// record. This attempt is not stored, and never will be. Look at what is stored after `after`:
    /// it may be an earlier attempt, another writer's record, or nothing yet.
    #[error("another record follows, or the records before are not stored yet")]
    Fenced,
    /// The engine refused this attempt for another reason, for example because the stream is full.
    /// This attempt is not stored, and never will be.
    #[error("the engine refused the record: {0}")]
    Refused(String),
    /// Nobody takes records at present: there is no connection, or the stream has no leader. This
    /// attempt is not stored, and never will be. A later one may be taken.
    #[error("the engine does not answer: {0}")]
    Away(String),
    /// No answer came in time, or an answer that says nothing. The record may be stored, or may be
    /// stored later.
    #[error("it is not known whether the record is stored: {0}")]
    Unknown(String),
}

/// Why a stream cannot be read or trimmed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The engine does not answer. Begin again at the next record that is needed.
    #[error("the engine does not answer: {0}")]
    Away(String),
    /// The wanted records were trimmed. Load a backup of another node.
    #[error("records before {first} were trimmed from the stream")]
    Trimmed {
        /// The first record that the stream still has.
        first: StreamSequence,
    },
    /// The engine breaks its promises: a record is missing in the middle, or the stream is another
    /// one. Stop, and say so.
    #[error("the stream is damaged: {0}")]
    Broken(String),
}

/// One stream of records in an engine that several nodes share.
///
/// Each call answers in a bounded time, which the implementation chooses. Only
/// [`StreamReader::next`] waits for as long as no record comes.
pub trait Stream: Send + Sync + 'static {
    /// Appends `record` if `after` is the last record. Returns the sequence that the record has by
    /// then: always the one after `after`. The record is durable, as far as the engine is.
    ///
    /// Two calls with the same fence store one record at the most.
    ///
    /// # Errors
    ///
    /// - [`AppendError::Fenced`], [`AppendError::Refused`], [`AppendError::Away`]: this attempt is
    ///   not stored, for sure. An earlier one with the same fence may be. A record of more than
    ///   [`MAX_RECORD_BYTES`], or an empty one, is refused.
    /// - [`AppendError::Unknown`]: nobody knows. A later call with the same fence finds out.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the outcome is unknown.
    fn append(
        &self,
        after: StreamSequence,
        record: Bytes,
    ) -> StreamFuture<'_, Result<StreamSequence, AppendError>>;

    /// Returns the record at `at`; `None` if nothing is known of it: it is not there yet, it was
    /// trimmed, or the replica that answers is behind. A record that is returned is stored for
    /// good.
    ///
    /// # Errors
    ///
    /// [`StreamError::Away`].
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    fn get(&self, at: StreamSequence) -> StreamFuture<'_, Result<Option<Bytes>, StreamError>>;

    /// Returns the sequence of the last record, as the stream's leader in the engine has it; 0 if
    /// nothing was ever appended. Trimming does not change it. More may be stored by now.
    ///
    /// # Errors
    ///
    /// [`StreamError::Away`].
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    fn tail(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>>;

    /// Returns the sequence of the first record that is not trimmed; the one after the tail if none
    /// is left.
    ///
    /// # Errors
    ///
    /// [`StreamError::Away`].
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    fn first(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>>;

    /// Reads the records from `from` on, those that are stored and those that come. `from` is at
    /// least 1. If it is after the tail, the reader waits until the stream reaches it.
    ///
    /// # Errors
    ///
    /// [`StreamError::Away`], [`StreamError::Trimmed`]. The reader may tell them as well.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    fn read(
        &self,
        from: StreamSequence,
    ) -> StreamFuture<'_, Result<Box<dyn StreamReader>, StreamError>>;

    /// Removes the records below `below`; those at `below` and after it stay. Removing what is
    /// removed already does nothing. Nothing is removed above the tail.
    ///
    /// # Errors
    ///
    /// [`StreamError::Away`]: some of the records may be removed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the records may be removed or not.
    fn trim(&self, below: StreamSequence) -> StreamFuture<'_, Result<(), StreamError>>;
}

/// A reader of a stream: gives each record once, in order, without a hole.
pub trait StreamReader: Send {
    /// Returns the next record and its sequence, one above that of the record before. Waits while
    /// there is none, as long as the engine is in touch.
    ///
    /// # Errors
    ///
    /// - [`StreamError::Away`]: the engine has been out of touch for a bounded time, and the reader
    ///   could not build itself anew. It is over; a new one may begin at the next record.
    /// - [`StreamError::Trimmed`]: the next record was trimmed before it was read.
    /// - [`StreamError::Broken`]: the engine gave another record than the next one.
    ///
    /// # Cancel safety
    ///
    /// Safe: a record that is not returned is returned by the next call.
    fn next(&mut self) -> StreamFuture<'_, Result<(StreamSequence, Bytes), StreamError>>;
}
