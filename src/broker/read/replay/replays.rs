//! Reads of the log for readers that are behind: in turn, and once for all that read the same.
//!
//! # Why
//!
//! After a restart a thousand readers come back at once, and each wants the same blocks. They read
//! in turn, a step at a time, and so few at once that publishers and live readers need not wait for
//! them. A reader that has waited for its turn finds the blocks that others have read before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stash::{AheadReader, Key, Stash};
use crate::broker::tail::block::{Account, SharedBlock};
use crate::broker::topic::entry::Topic;
use crate::broker::turns::Turns;
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::log::Block;
use crate::topic::TopicId;

/// The reads of the log, with the blocks that were read last.
#[derive(Debug)]
pub(crate) struct Replays {
    pub(super) turns: Turns,
    account: Arc<Account>,
    recent: Mutex<Recent>,
    pub(super) stash: Arc<Stash>,
}

/// Blocks that were read last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// The blocks by their topic and their first sequence.
    blocks: BTreeMap<Key, KeptBlock>,
    /// The blocks in the order in which they were read. A block may be gone, and may have been read
    /// again.
    order: VecDeque<Key>,
}

/// A block that was read.
#[derive(Debug)]
pub(super) struct KeptBlock {
    pub(crate) shared: Arc<SharedBlock>,
    /// The position of the block after it, if that block was read, too.
    pub(crate) following: Option<Position>,
}

impl Recent {
    /// Returns the blocks from the one that holds `from` on, without a hole.
    pub(super) fn from(&self, id: TopicId, from: Sequence) -> impl Iterator<Item = &KeptBlock> {
        let holding = self.blocks.range((id, Sequence::BEFORE_ALL)..=(id, from)).next_back();
        let holding = holding.filter(|(_, kept)| kept.shared.block().last_sequence() >= from);
        let mut next = holding.map(|((_, first), _)| *first);
        let start = next.unwrap_or(Sequence::BEFORE_ALL);
        let all = self.blocks.range((id, start)..=(id, Sequence::new(u64::MAX)));
        all.map(|(_, kept)| kept).take_while(move |kept| {
            let block = kept.shared.block();
            let is_next = next == Some(block.first_sequence());
            next = Some(block.last_sequence().next());
            is_next
        })
    }
}

impl Replays {
    /// Returns a value that reads in `turns`. It keeps `max_bytes` bytes of the blocks that were
    /// read, wire forms included, and `max_ahead_bytes` bytes of blocks that were read along with
    /// them.
    pub(crate) fn new(turns: Turns, max_bytes: usize, max_ahead_bytes: usize) -> Self {
        let (account, recent) = (Account::new(max_bytes), Mutex::default());
        Self { turns, account, recent, stash: Arc::new(Stash::new(max_ahead_bytes)) }
    }

    /// Registers a reader of many topics. Blocks that are read along are kept until the returned
    /// registration is dropped.
    pub(crate) fn enter(&self) -> AheadReader {
        self.stash.enter()
    }

    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads blocks of `topic` from the one that holds `from` on: as many as fit `max_bytes`, but
    /// one at least.
    ///
    /// # Errors
    ///
    /// As [`Log::read`](crate::log::Log::read).
    pub(crate) async fn read(
        &self,
        (topic, id): (&Topic, TopicId),
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Arc<SharedBlock>>> {
        if let Some(blocks) = self.find(id, from, below, max_bytes) {
            return Ok(blocks);
        }
        let turn = self.turns.take().await;
        if let Some(blocks) = self.find(id, from, below, max_bytes) {
            return Ok(blocks); // Another reader has read them meanwhile.
        }
        let rewrites = topic.rewrites.load(Ordering::SeqCst);
        let read = turn.read(move |log| log.read(id, from, below, max_bytes)).await?;
        Ok(self.keep((topic, id), rewrites, read, None))
    }

    /// Returns the blocks that were read before, from the one that holds `from` on, without a hole.
    fn find(
        &self,
        id: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Option<Vec<Arc<SharedBlock>>> {
        let recent = self.recent();
        let (mut found, mut size_bytes) = (Vec::new(), 0);
        for KeptBlock { shared, .. } in recent.from(id, from) {
            let block = shared.block();
            size_bytes += block.bytes().len();
            let is_over = size_bytes > max_bytes && !found.is_empty();
            if is_over || block.first_sequence() >= below {
                break;
            }
            found.push(shared.clone());
        }
        (!found.is_empty()).then_some(found)
    }

    /// Keeps the blocks that were read, and the position after them, unless blocks of the topic
    /// were rewritten since.
    pub(super) fn keep(
        &self,
        (topic, id): (&Topic, TopicId),
        rewrites: u64,
        read: Vec<Block>,
        following: Option<Position>,
    ) -> Vec<Arc<SharedBlock>> {
        let mut recent = self.recent();
        if topic.rewrites.load(Ordering::SeqCst) != rewrites {
            return read.into_iter().map(SharedBlock::new).collect();
        }
        let mut kept = Vec::with_capacity(read.len());
        let count = read.len();
        for (index, block) in read.into_iter().enumerate() {
            let key = (id, block.first_sequence());
            let shared = SharedBlock::charged_to(block, &self.account);
            let following = following.filter(|_| index + 1 == count);
            match recent.blocks.insert(key, KeptBlock { shared: shared.clone(), following }) {
                Some(before) => before.shared.let_go(), // The key keeps its turn to go.
                None => recent.order.push_back(key),
            }
            kept.push(shared);
        }
        while self.account.is_over() {
            let Some(oldest) = recent.order.pop_front() else { break };
            if let Some(oldest) = recent.blocks.remove(&oldest) {
                oldest.shared.let_go();
            }
        }
        kept
    }

    /// Forgets the blocks of `topic`, because some of them are rewritten.
    pub(crate) fn forget(&self, topic: &Topic, id: TopicId) {
        // The number is raised first: blocks that are being read now are not kept.
        topic.rewrites.fetch_add(1, Ordering::SeqCst);
        self.stash.forget(id);
        let mut recent = self.recent();
        let keys = (id, Sequence::BEFORE_ALL)..=(id, Sequence::new(u64::MAX));
        let gone: Vec<Key> = recent.blocks.range(keys).map(|(key, _)| *key).collect();
        if gone.is_empty() {
            return;
        }
        recent.order.retain(|(topic, _)| *topic != id);
        for key in gone {
            if let Some(gone) = recent.blocks.remove(&key) {
                gone.shared.let_go();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::topic::defaults::TopicDefaults;
    use crate::broker::topic::topics::Topics;
    use crate::log::{Fault, FaultyLog, Group, Log, NewRecords, StoredTopic};

    /// Goal: a thousand readers of the same blocks read the log once, and no reader gets blocks
    /// from before a rewrite.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_of_the_same_read_it_once_until_it_is_written_again() {
        let faulty = Arc::new(FaultyLog::default());
        faulty.fail(u64::MAX, Fault::Panics); // No read fails: the log only counts them.
        let mut group = Group::noting(StoredTopic::new(TopicId::FIRST, "a".parse().unwrap()));
        let mut end_bytes = 0;
        for first in 1..=100 {
            let records = NewRecords::encode([&crate::event::NewEvent::new("x".repeat(100))]);
            let mut builder = crate::log::BlockBuilder::new(Sequence::new(first));
            builder.push(records.record(0), false, false);
            let place = crate::cursor::Position::new(first);
            let block = builder.finish(place, crate::event::Timestamp::from_ms(1), end_bytes);
            end_bytes = block.end_bytes();
            group.appended.push((TopicId::FIRST, block));
        }
        faulty.commit(&group).unwrap();
        let log: Arc<dyn Log> = faulty.clone();
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let topic = topics.open(&"a".parse().unwrap()).unwrap();
        let turns = Turns::new(crate::broker::open_log::OpenLog::new(log), 1);
        let replays = Arc::new(Replays::new(turns.clone(), 1 << 20, 0));
        let read_all = async |replays: &Replays| {
            let (mut next, below) = (Sequence::FIRST, Sequence::new(101));
            while next < below {
                let whom = (&**topic, TopicId::FIRST);
                let blocks = replays.read(whom, next, below, 1_000).await.unwrap();
                assert_eq!(blocks[0].block().first_sequence(), next);
                next = blocks.last().unwrap().block().last_sequence().next();
            }
        };
        read_all(&replays).await;
        let once = faulty.reads();
        let readers = futures_util::future::join_all((0..1_000).map(|_| read_all(&replays)));
        readers.await;
        assert_eq!(faulty.reads(), once, "the log was read again");
        replays.forget(&topic, TopicId::FIRST);
        assert_eq!(replays.recent().blocks.len(), 0);
        read_all(&replays).await;
        assert_eq!(faulty.reads(), 2 * once);
        let small = Replays::new(turns, 2_000, 0);
        read_all(&small).await;
        assert!(small.recent().blocks.len() < 20, "the kept blocks have no bound");
        // Blocks that are rewritten while they are read are not kept for other readers.
        replays.forget(&topic, TopicId::FIRST);
        let rewrites = topic.rewrites.load(Ordering::SeqCst);
        let read = || faulty.read(TopicId::FIRST, Sequence::FIRST, Sequence::new(9), 1).unwrap();
        replays.forget(&topic, TopicId::FIRST);
        replays.keep((&topic, TopicId::FIRST), rewrites, read(), None);
        assert_eq!(replays.recent().blocks.len(), 0, "blocks from before the rewrite are kept");
        replays.keep((&topic, TopicId::FIRST), rewrites + 1, read(), None);
        assert_eq!(replays.recent().blocks.len(), 1);
    }
}
