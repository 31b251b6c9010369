//! Whether the log of a node is damaged, or does not fit the fleet's stream.

use std::path::Path;
use std::time::Duration;

use super::super::chain::StreamPlace;
use super::super::node::FleetEngine;
use super::super::record::{self, RecordBody};
use super::super::stream::StreamSequence;
use crate::cursor::Epoch;
use crate::error::{Error, OpenReason, with_causes};
use crate::log::{Applied, Log as _, LogConfig, SledLog, noted_damage, noted_fleet};

/// Damage of a log, which a backup of a peer can repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogDamage {
    /// The damage, in words for people.
    pub(super) why: String,
    /// The place in the stream that the log has, or had before it was damaged; `None` if that
    /// cannot be read any more.
    pub(super) place: Option<Applied>,
    /// The epoch of the fleet that the log is of, as far as that is known.
    pub(super) epoch: Option<Epoch>,
}

/// A log that was opened and looked through for damage.
pub(super) struct ExaminedLog {
    pub(super) log: SledLog,
    pub(super) applied: Option<Applied>,
    pub(super) damage: Option<LogDamage>,
}

/// Opens the log in `directory`, and looks for damage of a log that was in a fleet: no backup may
/// take the place of the log of a broker that was alone. Damaged events in the middle of a log are
/// not looked for: they are found when they are read.
///
/// # Errors
///
/// The log cannot be opened. [`damage_of`] tells whether that is for damage.
pub(super) fn examine(directory: &Path, config: &LogConfig) -> Result<ExaminedLog, Error> {
    let noted = noted_damage(directory)?;
    let log = SledLog::open(directory, config)?;
    let applied = log.applied()?;
    let lost = if applied.is_none() { log.lost_place()? } else { None };
    let was_in_fleet = applied.or(lost).is_some() || noted_fleet(directory).is_some();
    let why = match (noted.filter(|_| was_in_fleet), lost) {
        (Some(noted), _) => Some(noted),
        (None, Some(_)) => Some("its log has lost events to damage".to_owned()),
        (None, None) => None,
    };
    let place = applied.or(lost);
    let epoch = place.map(|place| place.epoch);
    let damage = why.map(|why| LogDamage { why, place, epoch });
    Ok(ExaminedLog { log, applied, damage })
}

/// Returns the damage for which the log in `directory` cannot be opened; `None` if there is another
/// reason.
pub(super) fn damage_of(error: &Error, directory: &Path) -> Option<LogDamage> {
    let is_damage = match error {
        Error::DamagedLog { .. } | Error::Damaged { .. } => true,
        Error::Open(error) => match &error.reason {
            OpenReason::NotALog(_) => true,
            OpenReason::Io { cause, .. } => {
                let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                let ends = [std::io::ErrorKind::InvalidData, std::io::ErrorKind::UnexpectedEof];
                kind.is_some_and(|kind| ends.contains(&kind))
            }
            _ => false,
        },
        _ => false,
    };
    // The log of a broker that was alone is of no fleet: no backup may take its place.
    let epoch = Some(noted_fleet(directory).filter(|_| is_damage)?);
    Some(LogDamage { why: with_causes(error), place: None, epoch })
}

/// Returns why a log with this place does not fit the stream; `None` if it fits, or if the engine
/// does not tell in time.
///
/// The record at the place, or the one after it, names the checksum that the log has of its last
/// record.
pub(super) async fn misfit(
    engine: &dyn FleetEngine,
    applied: Applied,
    patience: Duration,
) -> Option<LogDamage> {
    let place = StreamPlace::from(applied);
    let looking = async {
        if let Some(own) = engine.get(place.stream).await.ok()? {
            return Some(record::decode(&own).ok()?.crc == place.chain);
        }
        let next = engine.get(place.stream.next()).await.ok()??;
        Some(record::decode(&next).ok()?.head.chain == place.chain)
    };
    let fits = tokio::time::timeout(patience, looking).await.ok().flatten()?;
    let why = format!(
        "record {} of the stream is another one than that which this log has applied",
        place.stream
    );
    let epoch = Some(applied.epoch);
    (!fits).then_some(LogDamage { why, place: Some(applied), epoch })
}

/// Whether the stream still has all records from the first one on of the fleet of a damaged log.
pub(super) async fn has_whole_stream(
    engine: &dyn FleetEngine,
    damage: &LogDamage,
    patience: Duration,
) -> bool {
    let Some(epoch) = damage.epoch else { return false };
    let least = damage.place.map_or(0, |place| place.stream);
    let looking = async {
        let first = engine.get(StreamSequence::BEFORE_ALL.next()).await.ok()??;
        let founded = record::decode(&first).ok()?.body;
        let tail = engine.tail().await.ok()?;
        Some(founded == RecordBody::Found(epoch) && tail.get() >= least)
    };
    tokio::time::timeout(patience, looking).await.ok().flatten().unwrap_or(false)
}
