//! Blocks as readers share them, with their wire forms, and the account of the memory that they
//! take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use super::form::FORMS;
use crate::broker::filter::Conditions;
use crate::cursor::Sequence;
use crate::log::{Block, EventRef};

/// The bytes that a block in a tail takes besides its events and its wire forms: its places in
/// queues, and its allocations. Measured with 1,000,000 blocks of one small event.
const BLOCK_BYTES: usize = 384;

/// The most filters for which a block remembers the events that they pick.
const MAX_PICKS: usize = 4;

/// A block and its wire forms, shared by all its readers.
#[derive(Debug)]
pub(crate) struct SharedBlock {
    pub(super) block: Block,
    pub(super) forms: [OnceLock<Box<Encoded>>; FORMS],
    /// Filters, each with the sequences of the events that it picks.
    picks: Mutex<Vec<(Arc<Conditions>, Picked)>>,
    pub(super) charge: Charge,
}

/// The sequences of the events that a filter picks, in order.
pub(super) type Picked = Arc<[Sequence]>;

/// The account of the bytes that all tails take together, with their bound.
#[derive(Debug, Default)]
pub(crate) struct Account {
    max_bytes: usize,
    pub(super) used_bytes: AtomicUsize,
    /// The number of blocks that are in a tail.
    pub(super) blocks: AtomicUsize,
}

impl Account {
    /// Returns an empty account for blocks that may take `max_bytes` together.
    pub(crate) fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, ..Self::default() })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.used_bytes.load(Ordering::Relaxed) > self.max_bytes
    }
}

/// The bytes of one block on the account of all tails.
#[derive(Debug, Default)]
pub(super) struct Charge {
    account: Arc<Account>,
    /// The bytes; `None` for a block in no tail, whose memory is that of its reader.
    charged: Mutex<Option<usize>>,
}

impl Charge {
    fn open(account: &Arc<Account>, size_bytes: usize) -> Self {
        account.used_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        account.blocks.fetch_add(1, Ordering::Relaxed);
        Self { account: account.clone(), charged: Mutex::new(Some(size_bytes)) }
    }

    /// Whether the account has no room to add anything to this block.
    pub(super) fn is_refused(&self) -> bool {
        let is_charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        is_charged && self.account.is_over()
    }

    pub(super) fn add(&self, size_bytes: usize) {
        if let Some(charged) = &mut *self.charged.lock().unwrap_or_else(PoisonError::into_inner) {
            *charged += size_bytes;
            self.account.used_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        }
    }

    fn close(&self) {
        let charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(size_bytes) = charged {
            self.account.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            self.account.blocks.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A block's events in a wire form.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) bytes: Bytes,
    /// The sequence of each event, and the offset at which its bytes begin.
    starts: Vec<(Sequence, usize)>,
}

impl SharedBlock {
    /// Wraps a block of one reader. It is on no account.
    pub(crate) fn new(block: Block) -> Arc<Self> {
        Self::charged(block, Charge::default())
    }

    /// Wraps a block that is kept for many readers, and charges it to `account`.
    pub(crate) fn charged_to(block: Block, account: &Arc<Account>) -> Arc<Self> {
        let charge = Charge::open(account, BLOCK_BYTES + block.bytes().len());
        Self::charged(block, charge)
    }

    /// Takes a block that is not kept any more off its account.
    pub(crate) fn let_go(&self) {
        self.charge.close();
    }

    fn charged(block: Block, charge: Charge) -> Arc<Self> {
        Arc::new(Self { block, forms: Default::default(), picks: Mutex::default(), charge })
    }

    /// Returns the sequences of the events that `filter` picks.
    pub(super) fn picked(&self, filter: &Arc<Conditions>) -> Picked {
        let known = |picks: &[(Arc<Conditions>, Picked)]| {
            let known = picks.iter().find(|(known, _)| Arc::ptr_eq(known, filter));
            known.map(|(_, picked)| picked.clone())
        };
        let picks = || self.picks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(picked) = known(&picks()) {
            return picked;
        }
        // Without the lock, because other readers use the block with other filters.
        let events = self.block.events().filter(|event| filter.picks(event));
        let picked: Picked = events.map(|event| event.sequence).collect();
        let mut picks = picks();
        if known(&picks).is_none() && picks.len() < MAX_PICKS && !self.charge.is_refused() {
            self.charge.add(size_of_val(&*picked));
            picks.push((filter.clone(), picked.clone()));
        }
        picked
    }

    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    /// Returns the bytes that the block takes in memory, without its wire forms.
    pub(crate) fn size_bytes(&self) -> usize {
        BLOCK_BYTES + self.block.bytes().len()
    }
}

impl Encoded {
    pub(super) fn new(block: &Block, mut encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(block.bytes().len() + block.count() * 64);
        let mut starts = Vec::with_capacity(block.count());
        for event in block.events() {
            starts.push((event.sequence, bytes.len()));
            encode(&event, &mut bytes);
        }
        bytes.shrink_to_fit();
        Self { bytes: bytes.into(), starts }
    }

    /// Returns the bytes of one event.
    pub(super) fn of(&self, sequence: Sequence) -> Bytes {
        self.bytes.slice(self.offset_of(sequence)..self.offset_of(sequence.next()))
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(self.starts.as_slice())
    }

    /// Returns the offset of the first event that has this sequence or a later one.
    pub(super) fn offset_of(&self, sequence: Sequence) -> usize {
        let index = self.starts.partition_point(|(start, _)| *start < sequence);
        self.starts.get(index).map_or(self.bytes.len(), |(_, offset)| *offset)
    }
}
