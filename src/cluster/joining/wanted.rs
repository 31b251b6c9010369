//! The backup that a node needs.

use super::super::stream::StreamSequence;
use super::damage::LogDamage;
use crate::event::Timestamp;
use crate::log::{Applied, AsideNote};

/// The backup that takes the place of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedBackup {
    /// How the log is damaged; `None` if it is only behind.
    pub(super) damage: Option<LogDamage>,
    /// The place in the stream that the log has or had.
    pub(super) applied: Option<Applied>,
}

impl WantedBackup {
    /// Returns the record that the stream must have, or have had: the last one that is in the log.
    /// What the backup of a peer does not have, the stream then has, and the node applies it.
    pub(super) fn least(&self) -> StreamSequence {
        StreamSequence::new(self.applied.map_or(0, |applied| applied.stream))
    }

    /// Checks that a backup with this place is of the fleet of the log.
    ///
    /// # Errors
    ///
    /// Why it must not take the place of the log.
    pub(super) fn check(&self, backup: Applied) -> Result<(), String> {
        let of_damaged = self.damage.as_ref().and_then(|damage| damage.epoch);
        match self.applied.map(|applied| applied.epoch).or(of_damaged) {
            Some(own) if own != backup.epoch => Err(format!(
                "the backup is of a fleet with the epoch {}, and the log in the directory of one \
                 with {}: take an empty data directory to join that fleet",
                backup.epoch, own
            )),
            _ => Ok(()),
        }
    }

    /// Returns what is told of the log that is replaced, if it is kept.
    pub(super) fn note(&self, peer: Option<&str>) -> Option<AsideNote> {
        self.damage.as_ref().map(|damage| AsideNote {
            at_ms: Timestamp::now().as_ms(),
            why: damage.why.clone(),
            peer: peer.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;

    fn at(stream: u64, epoch: u32) -> Applied {
        Applied { stream, term: 1, number: stream, chain: 7, epoch: Epoch::new(epoch) }
    }

    #[test]
    fn a_backup_of_another_fleet_is_refused() {
        let wanted = WantedBackup { damage: None, applied: Some(at(10, 3)) };
        assert_eq!(wanted.least().get(), 10);
        wanted.check(at(9, 3)).unwrap();
        assert!(wanted.check(at(900, 4)).unwrap_err().contains("take an empty data directory"));
        assert_eq!(wanted.note(Some("n1")), None, "a log that is only behind is not kept");
        let lost = WantedBackup { damage: None, applied: None };
        lost.check(at(1, 9)).unwrap();
    }
}
