//! Work sharing: a shared consumer gives its events to many workers, each event to one of them at a
//! time, with a lease.
//!
//! ```text
//! queue.rs       the queue of one consumer, as callers have it
//! queues.rs      the way of pulls and settlements to the dispatcher of their consumer
//! dispatcher.rs  the task of one shared consumer: takes commands, answers them
//! leasing.rs     its decisions on pulls
//! storing.rs     its writes: the records of a step, and dead letters
//! source.rs      the reader that goes on from the floor, and what was stored of its events
//! window.rs      the events between floor and reader, by position, place, key and time;
//!                window_entry.rs has one event, window_settling.rs what workers say of it, and
//!                window_record.rs the record of a bucket
//! records.rs     the stored form of that state
//! asked.rs       what other nodes of a fleet ask the leader, which has the queues
//! ```
//!
//! `settings.rs` has the settings of one consumer, `config.rs` those of all; `requests.rs` and
//! `lease_id.rs` have what workers ask and are told; `fetching.rs` reads single events again,
//! `dead_letter.rs` makes dead letters, and `finished.rs` tells counts what is finished.
//!
//! # What holds
//!
//! - An event is leased to one worker at a time, and events of one key one after the other.
//! - What is acknowledged is finished for ever. A lease holds until its time, also over a crash.
//! - An event is delivered again only if its worker failed, gave it back, or let the lease run out.

mod asked;
mod config;
mod dead_letter;
mod dispatcher;
mod fetching;
mod finished;
mod lease_id;
mod leasing;
mod places;
mod queue;
mod queues;
mod records;
mod requests;
mod settings;
mod shared;
mod source;
mod storing;
#[cfg(test)]
mod tests;
mod totals;
mod window;
mod window_entry;
mod window_record;
mod window_settling;
mod work_commands;

pub(crate) use asked::WorkRequest;
pub use config::WorkConfig;
pub use dead_letter::{
    DEAD_CONSUMER_HEADER, DEAD_ID_HEADER, DEAD_REASON_HEADER, DEAD_SEQUENCE_HEADER,
    DEAD_TOPIC_HEADER, DEAD_TRIES_HEADER,
};
pub(crate) use finished::{FinishedWork, is_in};
pub use lease_id::LeaseId;
pub use queue::WorkQueue;
pub(crate) use queues::{QueueEnding, WorkQueues};
pub(crate) use records::WorkRecords;
pub use requests::{
    Leased, MAX_DELAY_MS, MAX_PULL, MAX_REASON_BYTES, MAX_SETTLED, MAX_WORKER_BYTES, Nack,
    PullRequest, SettleOutcome, Settled, Settlement, WorkStatus,
};
pub use settings::{MAX_LEASE_MS, WorkSettings};
pub(crate) use shared::SharedConsumer;
pub use totals::WorkTotals;
