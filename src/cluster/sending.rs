//! Sending one record, until it is known whether it is stored.
//!
//! # Why
//!
//! A record can be stored at one place only, the one after its fence. So after an attempt whose
//! outcome is unknown, the same record is sent again with the same fence, which stores it once at
//! the most. Once something is stored at that place, the outcome is certain: it is this record, or
//! it is another one, and then this record can never be stored.
//!
//! ```text
//! attempt   the place after the fence     outcome
//! stored                                  stored
//! fenced    this record                   stored, by an earlier attempt
//! fenced    another record                never stored; somebody else leads
//! fenced    nothing is found              again: an earlier record of somebody is not decided yet
//! refused                                 never stored, if no earlier attempt may be
//! away                                    again, for a while; then as if it was refused
//! unknown                                 again
//! ```

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

use super::clock::{SteadyClock, until};
use super::stream::{AppendError, Stream, StreamSequence};

/// Why a record is not stored, or may not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotSent {
    /// The engine refused the record. It is never stored, and nothing else was seen to be.
    Refused(String),
    /// Nobody took records, for as long as the sender waits for that. The record is never stored.
    Away(String),
    /// Another record has the place. This one is never stored.
    Overtaken,
    /// The fence refused each attempt, and nobody's record was found. This one is never stored.
    Fenced,
    /// The time was over. The record is stored, or may be stored later, or never.
    Unknown(String),
}

/// How long, and how often, a record is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendPatience {
    /// The time until which attempts are begun.
    pub(super) deadline: Duration,
    /// The time from which on an attempt that nobody took ends the sending, while it is certain
    /// that none was stored.
    pub(super) away_until: Duration,
    /// The time between two attempts.
    pub(super) pause: Duration,
}

/// Appends `record` after `after`, as often as it takes to know whether it is stored.
///
/// # Errors
///
/// [`NotSent`].
///
/// # Cancel safety
///
/// If the future is dropped, the outcome is unknown.
pub(super) async fn send(
    stream: &dyn Stream,
    clock: &dyn SteadyClock,
    after: StreamSequence,
    record: &Bytes,
    patience: SendPatience,
) -> Result<(), NotSent> {
    let SendPatience { deadline, away_until, pause } = patience;
    // Why an attempt may be stored, and what became of the last one that is surely not.
    let (mut unknown, mut not_stored) = (None, NotSent::Fenced);
    loop {
        match until(clock, deadline, stream.append(after, record.clone())).await {
            Some(Ok(at)) if at == after.next() => return Ok(()),
            Some(Ok(at)) => {
                let problem = format!("the engine stored it as {at}, and not after {after}");
                return Err(NotSent::Unknown(problem));
            }
            Some(Err(AppendError::Fenced)) => {
                let found = until(clock, deadline, stream.get(after.next())).await;
                if let Some(Ok(Some(found))) = found {
                    return if found == *record { Ok(()) } else { Err(NotSent::Overtaken) };
                }
                not_stored = NotSent::Fenced;
            }
            Some(Err(AppendError::Refused(why))) if unknown.is_none() => {
                return Err(NotSent::Refused(why));
            }
            Some(Err(AppendError::Refused(_))) => {}
            Some(Err(AppendError::Away(why))) => {
                not_stored = NotSent::Away(why);
                if unknown.is_none() && clock.now() >= away_until {
                    return Err(not_stored);
                }
            }
            Some(Err(AppendError::Unknown(why))) => unknown = Some(why),
            None => unknown = Some("no answer came".to_owned()),
        }
        let next = clock.now() + pause;
        if next >= deadline {
            return Err(unknown.map_or(not_stored, NotSent::Unknown));
        }
        clock.sleep_until(next).await;
    }
}
