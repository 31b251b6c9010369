//! The local log of a simulated node, and its disk: what is left of the log after a crash.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::checker::FleetChecker;
use crate::cursor::Epoch;
use crate::error::{Error, Result};
use crate::event::Durability;
use crate::log::{Group, Log, MemoryLog};

/// The groups on the disk of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<StoredGroups>>);

#[derive(Debug, Default)]
struct StoredGroups {
    groups: Vec<Group>,
    /// The number of groups that outlive a loss of power.
    synced: usize,
}

impl StoredGroups {
    fn count(&self) -> usize {
        self.groups.iter().filter(|group| !group.appended.is_empty()).count()
    }
}

impl Disk {
    fn stored(&self) -> MutexGuard<'_, StoredGroups> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of groups, without those that only move the place in the stream.
    pub(super) fn count(&self) -> usize {
        self.stored().count()
    }

    /// Loses what is not synced.
    pub(super) fn lose_power(&self) {
        let mut stored = self.stored();
        let synced = stored.synced;
        stored.groups.truncate(synced);
    }

    /// Loses everything.
    pub(super) fn wipe(&self) {
        *self.stored() = StoredGroups::default();
    }
}

/// A log in memory with a disk. It fails now and then.
pub(super) struct DiskLog {
    node: usize,
    memory: MemoryLog,
    disk: Disk,
    checker: FleetChecker,
    random: Mutex<StdRng>,
}

impl DiskLog {
    /// Opens the log of `node` from its disk.
    pub(super) fn open(node: usize, disk: Disk, checker: FleetChecker, seed: u64) -> Self {
        let memory = MemoryLog::default();
        let groups = disk.stored().groups.clone();
        groups.iter().for_each(|group| memory.commit(group).expect("memory does not fail"));
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { node, memory, disk, checker, random }
    }
}

impl crate::log::LogAround for DiskLog {
    fn inside(&self) -> &dyn Log {
        &self.memory
    }

    fn epoch(&self) -> Epoch {
        Epoch::new(10 + self.node as u32)
    }

    fn commit(&self, group: &Group) -> Result<()> {
        let is_full = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            random.random_range(0..200) == 0
        };
        if is_full {
            return Err(Error::DiskFull { free_bytes: 0, needed_bytes: 1 });
        }
        let applied = group.applied.expect("a node applies what has a place");
        self.memory.commit(group)?;
        let mut stored = self.disk.stored();
        // The nodes may sync at different times, and agree in everything else.
        let plain = Group { durability: Durability::default(), ..group.clone() };
        if !group.appended.is_empty() {
            self.checker.applied(self.node, stored.count(), applied, &plain);
        }
        stored.groups.push(group.clone());
        if group.durability == Durability::Fsync {
            stored.synced = stored.groups.len();
        }
        Ok(())
    }

    fn make_durable(&self) -> Result<()> {
        let mut stored = self.disk.stored();
        stored.synced = stored.groups.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::clock::RuntimeClock;
    use crate::cluster::replicated_log::ReplicatedLog;
    use crate::cluster::samples::node;
    use crate::cluster::simulated::{SimulatedStream, StreamFaults};
    use crate::cluster::writer::{StreamWriter, WriterConfig};
    use crate::log::Applied;

    /// Goal: what a node tells as synced outlives a loss of power, also if an earlier process of it
    /// was killed before it synced: the stream may be trimmed up to there.
    #[tokio::test]
    async fn what_is_told_as_synced_after_a_kill_outlives_a_loss_of_power() {
        let (disk, epoch) = (Disk::default(), Epoch::new(7));
        let open = || DiskLog::open(0, disk.clone(), FleetChecker::default(), 1);
        let applied = Applied { stream: 5, term: 1, number: 4, chain: 9, epoch };
        let moved = Group { applied: Some(applied), ..Group::default() };
        open().commit(&Group { durability: Durability::Process, ..moved }).unwrap(); // And killed.
        let clock = Arc::new(RuntimeClock::default());
        let stream = SimulatedStream::new(1, StreamFaults::default(), clock.clone());
        let writing = WriterConfig::new(node("n0", 1), Duration::from_secs(1));
        let (writer, _task) = StreamWriter::new(Arc::new(stream), clock.clone(), writing);
        let log = ReplicatedLog::new(Arc::new(open()), epoch, writer, clock).unwrap();
        assert_eq!(log.synced(), Some(applied));
        drop(log);
        disk.lose_power();
        assert_eq!(open().applied().unwrap(), Some(applied));
    }
}
