//! The form of commands and outcomes between nodes.

use std::sync::Arc;

use bytes::Bytes;

use super::failures::{error_of, failure};
use crate::broker::{Ack, Change, Duplicate, Forwarded, ForwardedAppend, Receipt};
use crate::cluster::proto;
use crate::cluster::proto::forwarded_command::Command;
use crate::cluster::proto::{
    AppendOutcome, CommandOutcome, EventReceipt, ForwardedChange, ForwardedPublish, ForwardedPurge,
    StoredBefore,
};
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::log::NewRecords;
use crate::topic::TopicName;

/// A command as the leader reads it.
#[derive(Debug)]
pub(super) enum ReadCommand {
    Publish { publisher: u64, is_independent: bool, appends: Vec<ForwardedAppend> },
    Change { topic: TopicName, change: Change },
    Purge { topic: TopicName, earliest: Sequence },
}

/// Records as bytes that share their memory.
struct SharedRecords(Arc<NewRecords>);

impl AsRef<[u8]> for SharedRecords {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Returns the form of a command. `publisher` is the number that the node has given the publisher.
pub(super) fn command(command: &Forwarded, publisher: u64) -> Command {
    match command {
        Forwarded::Publish(publish) => {
            let mut records: Vec<Arc<NewRecords>> = Vec::new();
            let mut appends = Vec::new();
            for append in publish.appends() {
                let known = records.iter().rposition(|known| Arc::ptr_eq(known, &append.records));
                let index = known.unwrap_or_else(|| {
                    records.push(append.records.clone());
                    records.len() - 1
                });
                appends.push(proto::ForwardedAppend {
                    topic: append.topic.as_str().to_owned(),
                    expected_sequence: append.expected_sequence,
                    records: index as u32, // A publish has few topics.
                });
            }
            let records = records.into_iter().map(|it| Bytes::from_owner(SharedRecords(it)));
            Command::Publish(ForwardedPublish {
                publisher,
                is_independent: publish.is_independent(),
                records: records.collect(),
                appends,
            })
        }
        Forwarded::Change(change) => Command::Change(ForwardedChange {
            topic: change.topic().as_str().to_owned(),
            change: serde_json::to_vec(change.change()).expect("settings are JSON").into(),
        }),
        Forwarded::Purge(purge) => Command::Purge(ForwardedPurge {
            topic: purge.topic.as_str().to_owned(),
            earliest: purge.earliest.get(),
        }),
    }
}

/// Returns the publisher of a command whose failure fails the later ones of that publisher.
pub(super) fn publisher_of(command: Option<&Command>) -> Option<u64> {
    match command {
        Some(Command::Publish(publish)) if !publish.is_independent => Some(publish.publisher),
        _ => None,
    }
}

/// Reads a command.
///
/// # Errors
///
/// [`Error::Invalid`]: it is none that this version knows.
pub(super) fn read_command(command: Option<Command>) -> Result<ReadCommand> {
    Ok(match command.ok_or_else(|| unfit("it is of a kind that is not known here"))? {
        Command::Publish(publish) => {
            let ForwardedPublish { publisher, is_independent, records, appends } = publish;
            let read = |bytes: Bytes| {
                let records = NewRecords::decode(&bytes).ok_or_else(|| unfit("an event is none"));
                records.map(Arc::new)
            };
            let records = records.into_iter().map(read).collect::<Result<Vec<_>>>()?;
            let append = |append: proto::ForwardedAppend| {
                let of_append = records.get(append.records as usize);
                Ok(ForwardedAppend {
                    topic: topic(&append.topic)?,
                    expected_sequence: append.expected_sequence,
                    records: of_append.ok_or_else(|| unfit("events are missing"))?.clone(),
                })
            };
            let appends = appends.into_iter().map(append).collect::<Result<Vec<_>>>()?;
            if appends.is_empty() || appends.iter().any(|append| append.records.is_empty()) {
                return Err(unfit("it has no events"));
            }
            ReadCommand::Publish { publisher, is_independent, appends }
        }
        Command::Change(ForwardedChange { topic: name, change }) => {
            let change = serde_json::from_slice(&change).map_err(unfit)?;
            ReadCommand::Change { topic: topic(&name)?, change }
        }
        Command::Purge(ForwardedPurge { topic: name, earliest }) => {
            ReadCommand::Purge { topic: topic(&name)?, earliest: Sequence::new(earliest) }
        }
    })
}

fn topic(name: &str) -> Result<TopicName> {
    name.parse()
}

fn unfit(problem: impl std::fmt::Display) -> Error {
    Error::invalid("command", format!("another node of the fleet asks for it: {problem}"))
}

/// Returns the form of the outcome of the command with this number. Its effect is in the stream up
/// to `stream_sequence`.
pub(super) fn outcome(
    number: u64,
    stream_sequence: u64,
    outcome: Result<Vec<Ack>>,
) -> CommandOutcome {
    let (appends, failed) = match outcome {
        Ok(acks) => (acks.into_iter().map(append_outcome).collect(), None),
        Err(error) => (Vec::new(), Some(failure(&error))),
    };
    CommandOutcome { number, stream_sequence, appends, failure: failed }
}

/// Reads an outcome.
///
/// # Errors
///
/// The error of the command; [`Error::OutcomeUnknown`] for an acknowledgement that is none.
pub(super) fn read_outcome(outcome: CommandOutcome) -> Result<Vec<Ack>> {
    match outcome.failure {
        Some(failure) => Err(error_of(failure)),
        None => outcome.appends.into_iter().map(ack).collect(),
    }
}

fn append_outcome(ack: Ack) -> AppendOutcome {
    let stored_before = ack.duplicates.iter().map(|duplicate| StoredBefore {
        index: duplicate.index as u64,
        receipt: Some(receipt(duplicate.receipt)),
    });
    AppendOutcome {
        count: ack.count as u64,
        first_appended: ack.first_appended.map(receipt),
        stored_before: stored_before.collect(),
    }
}

fn receipt(receipt: Receipt) -> EventReceipt {
    let Receipt { sequence, position, time } = receipt;
    EventReceipt { sequence: sequence.get(), position: position.get(), time_ms: time.as_ms() }
}

fn ack(outcome: AppendOutcome) -> Result<Ack> {
    let AppendOutcome { count, first_appended, stored_before } = outcome;
    let read = |receipt: EventReceipt| Receipt {
        sequence: Sequence::new(receipt.sequence),
        position: Position::new(receipt.position),
        time: Timestamp::from_ms(receipt.time_ms),
    };
    let duplicate = |before: StoredBefore| {
        let receipt = read(before.receipt?);
        Some(Duplicate { index: usize::try_from(before.index).ok()?, receipt })
    };
    let duplicates: Option<Vec<Duplicate>> = stored_before.into_iter().map(duplicate).collect();
    let ack = duplicates.zip(usize::try_from(count).ok()).map(|(duplicates, count)| Ack {
        count,
        first_appended: first_appended.map(read),
        duplicates,
        durability: Durability::Replicated,
    });
    let is_whole = |ack: &Ack| {
        let all_before = ack.duplicates.len() == ack.count;
        let rising = ack.duplicates.is_sorted_by(|one, next| one.index < next.index);
        let within = ack.duplicates.last().is_none_or(|last| last.index < ack.count);
        ack.count > 0 && rising && within && ack.first_appended.is_none() == all_before
    };
    let problem = || super::failures::unknown("the acknowledgement of the leader is none");
    ack.filter(is_whole).ok_or_else(problem)
}
