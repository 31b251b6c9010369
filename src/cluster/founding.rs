//! The first record of a fleet: it says the epoch of the logs of all nodes.

use std::time::Duration;

use super::chain::{Assembler, StreamPlace, TakenRecord};
use super::clock::SteadyClock;
use super::stream::{Stream, StreamError, StreamSequence};
use super::writer::StreamWriter;
use crate::cursor::Epoch;

/// Returns the epoch of the fleet, for a node with an empty log. An empty stream is founded with
/// the node's `own` epoch. Waits for as long as the engine is away.
///
/// # Errors
///
/// [`StreamError::Trimmed`]: the stream does not begin with its first record any more.
/// [`StreamError::Broken`]: the first record is not that of a fleet.
///
/// # Cancel safety
///
/// The fleet may be founded all the same.
pub(super) async fn fleet_epoch(
    own: Epoch,
    stream: &dyn Stream,
    writer: &StreamWriter,
    clock: &dyn SteadyClock,
    pause: Duration,
) -> Result<Epoch, StreamError> {
    let mut told = false;
    loop {
        match epoch_in(stream).await {
            Ok(Some(epoch)) => return Ok(epoch),
            // If another node has founded it meanwhile, its record is read next.
            Ok(None) => drop(writer.found(own).await),
            Err(StreamError::Away(problem)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(problem, "waiting for the engine of the fleet");
                }
            }
            Err(error) => return Err(error),
        }
        clock.sleep_until(clock.now() + pause).await;
    }
}

/// Returns the epoch that the first record says; `None` if there is none, as far as it is known.
async fn epoch_in(stream: &dyn Stream) -> Result<Option<Epoch>, StreamError> {
    let at = StreamSequence::BEFORE_ALL.next();
    let Some(record) = stream.get(at).await? else {
        let first = stream.first().await?;
        return if first > at { Err(StreamError::Trimmed { first }) } else { Ok(None) };
    };
    match Assembler::after(StreamPlace::START).take(at, &record) {
        Ok(TakenRecord::Founded(epoch)) => Ok(Some(epoch)),
        Ok(_) => unreachable!("no other record can be the first one"),
        Err(broken) => Err(StreamError::Broken(broken.to_string())),
    }
}
