//! Errors, divided by what the caller can do about them.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

pub use crate::cause::Cause;
use crate::gap::Gap;
pub use crate::open_error::{OpenError, OpenReason};
use crate::place::Sequence;
use crate::topic_name::TopicName;

/// The result of an operation that can fail with an [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. Variants say what the caller can do, not which module noticed.
///
/// `edge/status.rs` matches on this without a wildcard, so a new variant must choose its codes.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field breaks a rule. Correct it; nothing was written.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, as the caller spells it.
        field: String,
        /// The value and the rule it breaks.
        problem: String,
    },
    /// A size or a count is over its limit. Send less; nothing was written.
    #[error("{name}: {value} is over the limit of {limit}")]
    OverLimit {
        /// The thing that was measured, with its unit.
        name: String,
        /// The measured value.
        value: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// No topic has this name. Publish to it first, or correct the name.
    #[error("there is no topic {0:?}")]
    UnknownTopic(TopicName),
    /// A topic has this name already. Use it, change its settings, or take another name.
    #[error("there is a topic {0:?} already")]
    TopicExists(TopicName),
    /// The topic was deleted while it was read. No more events come until the topic is created
    /// again.
    #[error("topic {0:?} was deleted")]
    TopicDeleted(TopicName),
    /// The topic's last sequence is not the one the publisher expected; nothing was written.
    #[error("topic {topic:?} is at sequence {actual}, not at the expected {expected}")]
    UnexpectedSequence {
        /// The topic.
        topic: TopicName,
        /// The sequence that the publisher expected; 0 for a topic that never had an event.
        expected: u64,
        /// The last sequence that an event of the topic was given; 0 for a topic that never had an
        /// event.
        actual: u64,
    },
    /// No consumer has this name, and none is created by its first use. Create it, or correct the
    /// name.
    #[error("there is no consumer {0}")]
    UnknownConsumer(String),
    /// No webhook has this name. Create it, or correct the name.
    #[error("there is no webhook {0:?}")]
    UnknownWebhook(String),
    /// The consumer's checkpoint is not the one that the caller expected; nothing was written.
    #[error(
        "the checkpoint of consumer {consumer} is {}, not the expected {}",
        or_none(actual),
        or_none(expected)
    )]
    UnexpectedCheckpoint {
        /// The consumer's name and what it reads.
        consumer: Box<str>,
        /// The checkpoint that the caller expected, as the text of a cursor; `None` for none.
        expected: Option<Box<str>>,
        /// The present checkpoint, as the text of a cursor; `None` if nothing is finished.
        actual: Option<Box<str>>,
    },
    /// Events that come next for the reader are gone, and the reader asked to be stopped there.
    /// Resume at the gap's `resume`.
    #[error("{0}")]
    Gap(Box<Gap>),
    /// Two or more topics of a reader of many have lost events that come next, and the reader asked
    /// to be stopped there. Each gap is as in [`Error::Gap`].
    #[error("{} topics have lost events that come next; the first: {}", .0.len(), .0[0])]
    Gaps(Arc<[Gap]>),
    /// The publish queue stayed full for as long as a publisher may wait; nothing was written.
    /// Retry.
    #[error("the publish queue stayed full for {waited_ms} ms")]
    Busy {
        /// The time that the publisher waited, in milliseconds.
        waited_ms: u64,
    },
    /// The caller has used up one of its rate limits; nothing was written. Retry after the time in
    /// the error.
    #[error("{0}")]
    RateLimited(RateLimit),
    /// The most callers that may wait for this are waiting already; nothing was done. Retry.
    #[error("{limit} callers wait for {what} already")]
    Crowded {
        /// The thing that the callers wait for.
        what: Cow<'static, str>,
        /// The most callers that may wait for it.
        limit: u64,
    },
    /// As many of these exist as may exist; nothing was done. Wait until some of them end.
    #[error("there are {limit} {what} already, and there may be no more")]
    Full {
        /// The things that are counted.
        what: Cow<'static, str>,
        /// The most of them that may exist.
        limit: u64,
    },
    /// The memory for clients has no room for this request; nothing was written. Retry, or ask for
    /// less.
    #[error(
        "the memory for clients has no room for {needed_bytes} bytes more; all clients together \
         may hold {limit_bytes} bytes"
    )]
    NoRoom {
        /// The bytes that were needed.
        needed_bytes: u64,
        /// The most bytes that all clients may hold together.
        limit_bytes: u64,
    },
    /// The caller did not prove who it is, or its proof is over; nothing was done. Come back with
    /// credentials.
    #[error("{reason}")]
    Unauthenticated {
        /// The reason, as the host's hooks give it.
        reason: String,
    },
    /// The caller may not do this; nothing was done. A topic that does not exist is refused alike.
    #[error("{reason}")]
    Denied {
        /// The reason, which names the action that the caller may not do.
        reason: String,
    },
    /// An earlier publish of the same stream failed; nothing was written. Repeat from the failed
    /// one on.
    #[error("an earlier publish of the same stream failed, and nothing after it is stored")]
    AfterFailure,
    /// The broker is stopping; nothing was written. Retry once it is back.
    #[error("the broker is stopping")]
    ShuttingDown,
    /// The call was made outside of a tokio runtime; nothing was done. Make it in a task of a
    /// runtime, or use [`Broker::blocking`](crate::Broker::blocking).
    #[error("this call needs a tokio runtime; a thread without one uses `Broker::blocking`")]
    NoRuntime,
    /// The caller's deadline passed; a publish may still have been stored. Repeat it with the same
    /// ids.
    #[error("the deadline of {limit_ms} ms passed")]
    DeadlineExceeded {
        /// The deadline, in milliseconds.
        limit_ms: u64,
    },
    /// A client's input stopped, or came too slowly; nothing was written. Send the input again.
    #[error("{what} came too slowly: {problem}")]
    TooSlow {
        /// The input that was expected.
        what: &'static str,
        /// The limit that the input did not keep.
        problem: String,
    },
    /// Another node of the fleet decides what is stored, and could not be asked; nothing was
    /// stored. Retry.
    #[error("the node that leads the fleet cannot be asked for now; nothing was stored")]
    NotLeading,
    /// As [`Self::NotLeading`], with the reason, which may last: the engine is away, this node
    /// takes no part in its fleet any more, or the leader refuses it. Nothing was stored. Retry,
    /// also at another node.
    #[error("the node that leads the fleet cannot be asked from here; nothing was stored")]
    NoLeader(#[source] Cause),
    /// This node of a fleet has not applied the place of the cursor yet. Ask again, or ask another
    /// node.
    #[error(
        "this node of the fleet is behind: it has not applied the cursor's place within \
         {waited_ms} ms; ask again, or ask another node"
    )]
    NotCaughtUp {
        /// The time that the reader waited, in milliseconds.
        waited_ms: u64,
    },
    /// The node of the fleet that decides what is stored was lost before it answered: the change
    /// may or may not be stored. Publish again with the same ids or read the topic, and repeat any
    /// other change.
    #[error(
        "the fleet's leader was lost before it answered; it is unknown whether the change is \
         stored: publish again with the same ids or read the topic, and repeat any other change"
    )]
    LeaderLost(#[source] Cause),
    /// The disk is full; nothing was written. Make room and retry.
    #[error("the disk has {free_bytes} bytes free, under the {needed_bytes} that are needed")]
    DiskFull {
        /// The free space when it was measured, in bytes.
        free_bytes: u64,
        /// The space that must be free for this write, in bytes.
        needed_bytes: u64,
    },
    /// Storage refused the events and nothing was written; storage itself is in order. Retry.
    #[error("storage refused the events; nothing was written")]
    NotWritten(#[source] Cause),
    /// Storage failed while writing: the events may or may not be stored. Reopen the broker, then
    /// repeat the publish with the same ids, or read the topic.
    #[error("storage failed while writing; it is unknown whether the events are stored")]
    OutcomeUnknown(#[source] Cause),
    /// An earlier failure made storage read-only; nothing was written. Reopen the broker.
    #[error(
        "storage failed earlier and takes no more events until the broker is reopened; if that \
         fails, too, go on with what `leftoff check --repair` brings back"
    )]
    ReadOnly(#[source] Cause),
    /// Reading failed; what is stored may be in order. Retry, then look at the disk.
    #[error("storage failed while reading")]
    ReadFailed(#[source] Cause),
    /// Stored events fail their checksum and are not served. Run `leftoff check`, and restore a
    /// copy.
    #[error(
        "topic {topic:?}: sequences {} damaged on disk ({problem}); run `leftoff check`; \
         {PUT_BACK}", from_to(*first, *last)
    )]
    Damaged {
        /// The topic.
        topic: TopicName,
        /// The first sequence that cannot be read.
        first: Sequence,
        /// The last sequence that cannot be read; `None` if no event that can be read follows.
        last: Option<Sequence>,
        /// The problem with the stored events.
        problem: String,
    },
    /// The topic's newest events are damaged, so the topic takes no more events; nothing was
    /// written. Delete the topic to go on without them, or restore a copy.
    #[error(
        "topic {0:?}: its newest events are damaged on disk, so that it takes no more; delete it \
         to go on without them, or go on with what `leftoff check --repair` brings back"
    )]
    DamagedEnd(TopicName),
    /// A backup file cannot be written or read. The message says why; correct it and begin again.
    /// No incomplete file is left behind, except where the message says so.
    #[error("{}: {problem}", path.display())]
    Backup {
        /// The file.
        path: std::path::PathBuf,
        /// Why it cannot be written or read.
        problem: String,
    },
    /// The log is damaged as a whole. Run `leftoff check`, and restore a copy.
    #[error("the log is damaged: {problem}")]
    DamagedLog {
        /// The damaged part, and what to do.
        problem: String,
    },
    /// The data directory, or a backup, cannot be opened. The message says why and what to do. Its
    /// `source()` is the error of the system, if there is one.
    #[error(transparent)]
    Open(OpenError),
    /// The server cannot listen on the address. Free the address, or name another one.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address, or the path of a Unix socket.
        address: String,
        /// The error of the system, an [`io::Error`](std::io::Error).
        #[source]
        cause: Cause,
    },
}

/// A rate limit that a caller has used up for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many {rate} from this address: the limit is {per_second} a second, and {burst} at once; \
     come back in {retry_after_ms} ms"
)]
pub struct RateLimit {
    /// The thing that is counted: `publishes`, `bytes`, `subscriptions`, `connections` or
    /// `requests`.
    pub rate: &'static str,
    /// The most that is allowed for each second, in the long run.
    pub per_second: u64,
    /// The most that is allowed at once, after a pause.
    pub burst: u64,
    /// The amount that is left now. It is less than the caller asked for.
    pub remaining: u64,
    /// The time until enough is left again, in milliseconds. A small random time is added, so that
    /// callers who are refused together do not come back together.
    pub retry_after_ms: u64,
}

/// The longest name of a field, and the longest problem, in bytes. A client may send megabytes; an
/// answer or a log line does not repeat them.
const MAX_FIELD_BYTES: usize = 300;
const MAX_PROBLEM_BYTES: usize = 1_024;

/// Returns `text`. If it is longer than `max_bytes`, returns its beginning, with a sign that it
/// goes on.
fn cut(text: impl Into<String>, max_bytes: usize) -> String {
    let mut text = text.into();
    if text.len() > max_bytes {
        let is_boundary = |end: &usize| text.is_char_boundary(*end);
        text.truncate((0..=max_bytes).rev().find(is_boundary).unwrap_or_default());
        text.shrink_to_fit();
        text.push('…');
    }
    text
}

/// The advice in errors about damage.
pub(crate) const PUT_BACK: &str = "put back a copy of the data directory from before the damage, \
     without its file `mark`, so that readers are told of a new epoch";

fn or_none(cursor: &Option<Box<str>>) -> &str {
    cursor.as_deref().unwrap_or("none")
}

fn from_to(first: Sequence, last: Option<Sequence>) -> String {
    last.map_or_else(|| format!("from {first} on are"), |last| format!("{first} to {last} are"))
}

impl Error {
    /// Returns an [`Error::Invalid`]. Both texts may show what a client sent. A text that is too
    /// long for a message is cut.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let (field, problem) = (cut(field, MAX_FIELD_BYTES), cut(problem, MAX_PROBLEM_BYTES));
        Self::Invalid { field, problem }
    }

    /// Returns an [`Error::OverLimit`]. A name that is too long for a message is cut.
    pub fn over(name: impl Into<String>, value: usize, limit: usize) -> Self {
        let name = cut(name, MAX_FIELD_BYTES);
        Self::OverLimit { name, value: value as u64, limit: limit as u64 }
    }

    /// Returns an [`Error::Full`].
    pub(crate) fn full(what: &'static str, limit: u64) -> Self {
        Self::Full { what: what.into(), limit }
    }

    /// Returns an [`Error::Crowded`].
    pub(crate) fn crowded(what: &'static str, limit: u64) -> Self {
        Self::Crowded { what: what.into(), limit }
    }

    /// Returns an [`Error::Listen`].
    pub(crate) fn listen(address: impl std::fmt::Display, error: std::io::Error) -> Self {
        Self::Listen { address: address.to_string(), cause: error.into() }
    }

    /// Returns an [`Error::Open`].
    pub(crate) fn open(path: impl AsRef<Path>, reason: impl Into<OpenReason>) -> Self {
        Self::Open(OpenError { path: path.as_ref().to_owned(), reason: reason.into() })
    }

    /// Whether a failed publish may have been stored all the same.
    pub fn outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::OutcomeUnknown(_) | Self::LeaderLost(_) | Self::DeadlineExceeded { .. }
        )
    }

    /// Returns the error of a publish. If nobody knows what became of an earlier attempt of it,
    /// then an error must not say that nothing is stored, unless it is one that a leader has only
    /// after it has looked for the publish's ids.
    pub(crate) fn of_repeated(self, may_be_stored: bool) -> Self {
        let looked_for_ids = matches!(
            self,
            Self::UnexpectedSequence { .. }
                | Self::NotWritten(_)
                | Self::DiskFull { .. }
                | Self::OverLimit { .. }
                | Self::UnknownTopic(_)
                | Self::OutcomeUnknown(_)
                | Self::LeaderLost(_)
        );
        if !may_be_stored || looked_for_ids {
            return self;
        }
        Self::LeaderLost(std::io::Error::other("nobody else could be asked in time").into())
    }

    /// Whether storage failed, or had no room: nothing is wrong with what was to be stored.
    pub(crate) fn is_of_storage(&self) -> bool {
        let is_full = matches!(self, Self::DiskFull { .. });
        is_full || matches!(self, Self::NotWritten(_) | Self::OutcomeUnknown(_) | Self::ReadOnly(_))
    }
}

/// Returns an error's message with those of its causes, for callers who cannot see the broker's
/// log. A cause that a message ends with already is not repeated.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        if !message.ends_with(&told) {
            message = format!("{message}: {told}");
        }
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;

    /// Goal: a caller finds the error of the system, whichever error it is the cause of, and the
    /// message names it once.
    #[test]
    fn the_source_of_an_error_is_the_error_of_the_system_itself() {
        let cause = || Cause::from(io::Error::new(io::ErrorKind::PermissionDenied, "not you"));
        let io = |what: &str| OpenReason::Io { what: what.to_owned(), cause: cause() };
        let no_thread = OpenReason::NoThread { name: "waker".to_owned(), cause: cause() };
        let causes = [
            (Error::NotWritten(cause()), "storage refused the events; nothing was written"),
            (Error::ReadFailed(cause()), "storage failed while reading"),
            (Error::Listen { address: "[::1]:80".to_owned(), cause: cause() }, "[::1]:80"),
            (Error::open("data", io("")), "cannot open data"),
            (Error::open("data", io("its lock file")), "cannot open data: its lock file"),
            (Error::open("", no_thread), "cannot open : no thread for the waker"),
            (Error::open("data", OpenReason::Engine(cause())), "cannot open data"),
        ];
        for (error, message) in causes {
            let source = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
            let kind = source.map(io::Error::kind);
            assert_eq!(kind, Some(io::ErrorKind::PermissionDenied), "{error}");
            assert!(with_causes(&error).ends_with(&format!("{message}: not you")), "{error}");
            assert_eq!(error.clone().source().unwrap().to_string(), "not you");
        }
        let locked = Error::open("data", OpenReason::Locked);
        assert!(locked.source().is_none());
        let words = "another process has it open; stop that one, or name another directory";
        assert_eq!(with_causes(&locked), format!("cannot open data: {words}"));
    }

    #[test]
    fn a_refusal_shows_the_beginning_of_what_a_client_sent_and_not_all_of_it() {
        let long = "é".repeat(1 << 20);
        let error = Error::invalid(long.clone(), format!("{long:?} is none"));
        let message = error.to_string();
        assert!(message.len() < 2_048 && message.starts_with("éé"), "{} bytes", message.len());
        assert!(message.ends_with("é…") && message.contains("é…: \"éé"));
        assert!(Error::over(long, 2, 1).to_string().ends_with("é…: 2 is over the limit of 1"));
        assert_eq!(Error::invalid("field", "is wrong").to_string(), "field: is wrong");
    }
}
