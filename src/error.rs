//! Errors, parted by what the caller can do about them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::gap::Gap;
use crate::place::Sequence;
use crate::topic_name::TopicName;

/// The result of whatever can fail with an [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause below an error, kept for `source()`.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why an operation failed. Variants say what the caller can do, not which module noticed.
///
/// `edge/status.rs` matches on this without a wildcard, so a new variant must choose its codes.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field breaks a rule. Mend it; nothing was written.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, as the caller spells it.
        field: String,
        /// The value and the rule it breaks.
        problem: String,
    },
    /// Something is larger than configured. Send less; nothing was written.
    #[error("{name}: {value} is over the limit of {limit}")]
    OverLimit {
        /// The thing that was measured, with its unit.
        name: String,
        /// The measured value.
        value: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// No such topic. Publish to it first, or fix the name.
    #[error("there is no topic {0:?}")]
    UnknownTopic(TopicName),
    /// There is such a topic already. Use it, change its settings, or take another name.
    #[error("there is a topic {0:?} already")]
    TopicExists(TopicName),
    /// The topic was deleted while it was read. Nothing more comes until it is created again.
    #[error("topic {0:?} was deleted")]
    TopicDeleted(TopicName),
    /// The topic's last sequence is not the one the publisher expected; nothing was written.
    #[error("topic {topic:?} is at sequence {actual}, not at the expected {expected}")]
    UnexpectedSequence {
        /// The topic.
        topic: TopicName,
        /// The sequence that the publisher expected; 0 for a topic that never had an event.
        expected: u64,
        /// The last sequence that an event was given; 0 is a topic that never had one.
        actual: u64,
    },
    /// The reader's place is gone, and it asked to be stopped there. Resume from `earliest`.
    #[error("{0}")]
    Gap(Gap),
    /// The places of a reader of many topics are gone in several of them, two at least, and it
    /// asked to be stopped there. As [`Error::Gap`], for each of them.
    #[error("{} topics have lost events that come next; the first: {}", .0.len(), .0[0])]
    Gaps(Arc<[Gap]>),
    /// The queue stayed full for as long as a publisher may wait; nothing was written. Retry.
    #[error("the publish queue stayed full for {waited_ms} ms")]
    Busy {
        /// The time that the publisher waited, in milliseconds.
        waited_ms: u64,
    },
    /// The caller has used up one of its rates; nothing was written. Come back at the time told.
    #[error("{0}")]
    RateLimited(RateLimit),
    /// As many callers as may wait for this do so already; nothing was done. Retry.
    #[error("{limit} callers wait for {what} already")]
    Crowded {
        /// The thing that they wait for.
        what: &'static str,
        /// The most callers that may wait.
        limit: u64,
    },
    /// The memory for clients has no room for this; nothing was written. Retry, or ask for less.
    #[error(
        "{needed_bytes} bytes more have no room in the memory for clients, {limit_bytes} bytes \
         that all of them share"
    )]
    NoRoom {
        /// The bytes that were needed.
        needed_bytes: u64,
        /// The most bytes that all clients may hold together.
        limit_bytes: u64,
    },
    /// A publish of the same stream failed before; nothing was written. Repeat from that one on.
    #[error("a publish before it failed, and nothing is stored after that one")]
    AfterFailure,
    /// The broker is stopping; nothing was written. Retry once it is back.
    #[error("the broker is stopping")]
    ShuttingDown,
    /// The caller's deadline passed; a publish may still have been stored. Repeat it by its id.
    #[error("the deadline of {limit_ms} ms passed")]
    DeadlineExceeded {
        /// The deadline, in milliseconds.
        limit_ms: u64,
    },
    /// A client's input stopped, or came too slowly; nothing was written. Send it again.
    #[error("{what} came too slowly: {problem}")]
    TooSlow {
        /// The input that was expected.
        what: &'static str,
        /// The limit.
        problem: String,
    },
    /// The disk is full; nothing was written. Make room and retry.
    #[error("the disk has {free_bytes} bytes free, under the {needed_bytes} that are needed")]
    DiskFull {
        /// Free space when it was measured, in bytes.
        free_bytes: u64,
        /// The space that must be free for this write, in bytes.
        needed_bytes: u64,
    },
    /// Storage refused and nothing was written; storage itself is in order. Retry.
    #[error("storage refused the events; nothing was written")]
    NotWritten(#[source] Cause),
    /// Storage failed while writing: the events may or may not be stored. Reopen the broker, then
    /// repeat the publish by its id, or look.
    #[error("storage failed while writing; it is unknown whether the events are stored")]
    OutcomeUnknown(#[source] Cause),
    /// An earlier failure made storage read-only; nothing was written. Reopen the broker.
    #[error(
        "storage failed earlier and takes no more events until the broker is reopened; if that \
         fails, too, go on with what `leftoff check --repair` brings back"
    )]
    ReadOnly(#[source] Cause),
    /// Reading failed; it says nothing of what is stored. Retry, then look at the disk.
    #[error("storage failed while reading")]
    ReadFailed(#[source] Cause),
    /// Stored events fail their checksum and are not served. Run `leftoff check`; restore a copy.
    #[error(
        "topic {topic:?}: sequences {} damaged on disk ({problem}); run `leftoff check`; \
         {PUT_BACK}", from_to(*first, *last)
    )]
    Damaged {
        /// The topic.
        topic: TopicName,
        /// The first sequence that cannot be read.
        first: Sequence,
        /// The last sequence that cannot be read; `None` where nothing that can be read follows.
        last: Option<Sequence>,
        /// The problem with the stored events.
        problem: String,
    },
    /// The topic's newest events are damaged, so it takes no more; nothing was written. Delete it
    /// to go on without them, or restore a copy.
    #[error(
        "topic {0:?}: its newest events are damaged on disk, so that it takes no more; delete it \
         to go on without them, or go on with what `leftoff check --repair` brings back"
    )]
    DamagedEnd(TopicName),
    /// The log is damaged as a whole. Run `leftoff check`; restore a copy.
    #[error("the log is damaged: {problem}")]
    DamagedLog {
        /// The damaged part, and what to do.
        problem: String,
    },
    /// The data directory cannot be opened. The message says why and what to do.
    #[error("cannot open {}: {problem}", path.display())]
    Open {
        /// The data directory.
        path: PathBuf,
        /// Why, and what to do.
        problem: String,
    },
    /// The address cannot be listened on. Free it, or name another.
    #[error("cannot listen on {address}: {problem}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        problem: String,
    },
}

/// A rate that a caller has used up for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many {rate} from this address: the limit is {per_second} a second, and {burst} at once; \
     come back in {retry_after_ms} ms"
)]
pub struct RateLimit {
    /// The thing that is counted: `publishes`, `bytes`, `subscriptions`, `connections` or
    /// `requests`.
    pub rate: &'static str,
    /// The most for each second, in the long run.
    pub per_second: u64,
    /// The most at once, after a pause.
    pub burst: u64,
    /// The rest that is left: less than what was asked for.
    pub remaining: u64,
    /// When there is enough again, in milliseconds, and a little later by chance, so that those
    /// who are refused together do not come back together.
    pub retry_after_ms: u64,
}

/// The longest name of a field, and the longest problem, in bytes. A client may send megabytes, and
/// an answer, or a line of the log, does not repeat them.
const MAX_FIELD_BYTES: usize = 300;
const MAX_PROBLEM_BYTES: usize = 1_024;

/// The beginning of a text that is longer than `max_bytes`, with a sign that it goes on.
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

/// The advice for damage.
pub(crate) const PUT_BACK: &str = "put back a copy of the data directory from before the damage, \
     without its file `mark`, so that readers are told of a new epoch";

fn from_to(first: Sequence, last: Option<Sequence>) -> String {
    last.map_or_else(|| format!("from {first} on are"), |last| format!("{first} to {last} are"))
}

impl Error {
    /// An [`Error::Invalid`]. Both texts may show what a client sent; what is too long for a
    /// message is cut.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let (field, problem) = (cut(field, MAX_FIELD_BYTES), cut(problem, MAX_PROBLEM_BYTES));
        Self::Invalid { field, problem }
    }

    /// An [`Error::OverLimit`]. A name that is too long for a message is cut.
    pub fn over(name: impl Into<String>, value: usize, limit: usize) -> Self {
        let name = cut(name, MAX_FIELD_BYTES);
        Self::OverLimit { name, value: value as u64, limit: limit as u64 }
    }

    /// Whether a failed publish may have been stored all the same.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_) | Self::DeadlineExceeded { .. })
    }
}

/// An error's message with those of its causes, for whoever sees no log.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

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
