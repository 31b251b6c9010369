//! Salvage: has the log open in spite of damage in the entries that sled wrote since its last
//! snapshot. The file is long because its steps share the state of one scan, and a quarter of it is
//! tests.
//!
//! ```text
//! snapshot             durable, says the mark
//! ├─────────────────────────────────────┼───────── …
//! | entry | entry | ### | entry | entry | entry | #
//!                   └ damaged: all the rest counts └ the end: it was never acknowledged
//! ```
//!
//! # Why
//!
//! - When sled is opened, it reads all entries since its last snapshot, and takes the first entry
//!   that does not fit for the end of its log, or for the end of a segment (`LogIter::next` in
//!   src/pagecache/iterator.rs of 0.34.7). One changed byte cost all entries after it, or made sled
//!   find that its pages contradict each other: the log did not open.
//! - So these entries are read here first, with a fact that sled does not know: up to which place
//!   its log is durable (mark.rs). Before that place an entry that does not fit is damaged, and the
//!   log goes on at the next entry that fits its checksum and belongs to the segment. From that
//!   place on, such an entry is the end, as it is for sled. If nothing is damaged, all is left to
//!   sled, and nothing is written.
//! - If an entry is damaged, a snapshot is written that says where all pages are, up to the end.
//!   With it sled need not read the entries when it is opened, and meets the damage only when it
//!   reads a damaged page.
//! - A damaged entry that is a whole page stays damaged: its readers are told. A damaged entry that
//!   is one change of a page is left out. If it was a block, readers notice that it is missing,
//!   because blocks have no holes; and a log that has lost data begins an epoch. If it cannot be
//!   told which page was damaged, any page may be older than it should be: then no topic takes more
//!   events.
//! - A segment that sled has begun to use again has entries that do not fit its head. Nothing in it
//!   is valid any more, so that is no damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sled::{DiskPtr, LogKind, Lsn, SEG_HEADER_LEN};

use super::engine::SEGMENT_BYTES;
use super::mark::Loss;
use super::segment::{
    BATCH, CANCELED, CAP, EntryHead, LINK, MAX_HEAD_BYTES, META, NODE, SegmentEntry, read_at,
};
use super::snapshot::{self, LogPlace, PageState, SEGMENT, Snapshot};

/// The number of the first page that sled does not need for opening. Pages below it keep an older
/// state rather than become damaged.
const FIRST_PLAIN_PAGE: u64 = 2;

/// The most by which the number of a page may exceed the number of known pages.
const MAX_NEW_PAGES: usize = 1 << 16;

/// The most damaged entries in a row that are passed by the lengths in their own heads.
const MAX_CHAIN: usize = 64;

/// The least distance, in sled's log, after which sled uses a segment again.
const REUSE_DISTANCE: Lsn = 2 * SEGMENT;

/// The damage that was found in the valid part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Salvaged {
    /// The number of pages that cannot be read.
    pub(super) pages: usize,
    /// The number of changes of pages that were left out.
    pub(super) changes: usize,
    /// The number of entries of which nothing is known, so that any page may be older than it
    /// should be.
    pub(super) unknown: usize,
    /// Whether the log ends before the place up to which it was durable.
    pub(super) is_cut: bool,
}

impl Salvaged {
    /// Returns the loss that this damage means.
    pub(super) fn loss(&self) -> Loss {
        match self {
            Self { unknown: 1.., .. } => Loss::Unknown,
            Self { pages: 0, changes: 0, unknown: 0, is_cut: false } => Loss::None,
            Self { .. } => Loss::Some,
        }
    }
}

/// A damaged entry, with its head, if that is known.
#[derive(Debug, Clone, Copy)]
struct Damage {
    place: LogPlace,
    head: Option<EntryHead>,
}

/// Looks for damage in the sled in `directory`, whose log is durable up to the place `durable`, and
/// writes a snapshot with which sled opens in spite of it. Calls `note` before anything is written.
/// `None` if nothing is damaged, or if sled cannot be opened and says itself why: then nothing was
/// written.
///
/// # Errors
///
/// A file cannot be read or written.
pub(super) fn salvage(
    directory: &Path,
    durable: Option<Lsn>,
    note: impl FnOnce(Salvaged) -> io::Result<()>,
) -> io::Result<Option<Salvaged>> {
    let file = match File::options().read(true).write(true).open(directory.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let old = snapshot::newest(directory)?;
    let snapshot = match &old {
        Some(path) => Snapshot::decode(&std::fs::read(path)?)?,
        None => Snapshot::default(),
    };
    let begin = snapshot.end;
    let durable_end = durable.map_or(begin, |lsn| lsn.saturating_add(1)).max(begin);
    let segments = Segments::read(&file, begin, durable_end)?;
    let mut scan =
        SalvageScan { snapshot, begin, durable_end, tip: begin, batch: None, damage: Vec::new() };
    for (lsn, offset) in segments.from(begin) {
        if lsn >= durable_end && lsn != scan.tip {
            break; // The end of the log: no segment follows.
        }
        let mut bytes = vec![0; SEGMENT_BYTES];
        let length = read_at(&file, &mut bytes, offset)?;
        bytes.truncate(length);
        if !scan.segment(lsn, offset, &bytes)? {
            break;
        }
    }
    if scan.batch.is_some() {
        scan.tip = scan.batch.take().map_or(scan.tip, |batch| batch.begin);
    }
    let is_cut = scan.tip < durable_end;
    if scan.damage.is_empty() {
        let found = Salvaged { is_cut, ..Salvaged::default() };
        return if is_cut { note(found).map(|()| Some(found)) } else { Ok(None) };
    }
    let Some(found) = scan.settle(&segments) else { return Ok(None) };
    let found = Salvaged { is_cut, ..found };
    note(found)?;
    segments.shred_from(&file, scan.tip)?;
    scan.snapshot.end = scan.tip.div_euclid(SEGMENT) * SEGMENT;
    if scan.snapshot.end < scan.tip {
        scan.snapshot.end += SEGMENT;
    }
    file.sync_all()?;
    scan.snapshot.store(directory, old)?;
    Ok(Some(found))
}

/// The segments of the file, by their places in sled's log.
#[derive(Debug)]
struct Segments {
    by_lsn: BTreeMap<Lsn, u64>,
}

impl Segments {
    /// Reads the segments' heads. If a head is damaged, the first entry after it has its number.
    fn read(file: &File, begin: Lsn, durable_end: Lsn) -> io::Result<Self> {
        let (mut by_lsn, mut headless) = (BTreeMap::new(), Vec::new());
        let length = file.metadata()?.len();
        for offset in (0..length).step_by(SEGMENT_BYTES) {
            let mut head = [0; SEG_HEADER_LEN];
            if read_at(file, &mut head, offset)? < head.len() {
                continue;
            }
            match segment_lsn(&head) {
                Some(lsn) => drop(by_lsn.insert(lsn, offset)),
                None => headless.push(offset),
            }
        }
        let floor = begin / SEGMENT * SEGMENT;
        for offset in headless {
            let mut bytes = vec![0; SEGMENT_BYTES];
            let length = read_at(file, &mut bytes, offset)?;
            bytes.truncate(length);
            let head = EntryHead::at(&bytes, SEG_HEADER_LEN);
            let head = head.filter(|head| head.fits(&bytes, SEG_HEADER_LEN));
            let lsn = head.and_then(|head| Lsn::try_from(head.number).ok()?.checked_mul(SEGMENT));
            if let Some(lsn) = lsn.filter(|lsn| (floor..durable_end).contains(lsn)) {
                by_lsn.entry(lsn).or_insert(offset);
            }
        }
        Ok(Self { by_lsn })
    }

    /// Returns the segments that hold the log from `begin` on, in order.
    fn from(&self, begin: Lsn) -> impl Iterator<Item = (Lsn, u64)> {
        self.by_lsn.range(begin / SEGMENT * SEGMENT..).map(|(lsn, offset)| (*lsn, *offset))
    }

    /// Whether the entry at `place` was not overwritten since.
    fn has(&self, place: &LogPlace) -> bool {
        let (lsn, DiskPtr::Inline(offset), _) = place else { return false };
        let base = self.by_lsn.get(&(lsn / SEGMENT * SEGMENT));
        base.is_some_and(|base| base + (lsn % SEGMENT) as u64 == *offset)
    }

    /// Overwrites the log from `tip` on with zeros, so that the rest is not taken for a part of
    /// later entries.
    fn shred_from(&self, file: &File, tip: Lsn) -> io::Result<()> {
        let length = file.metadata()?.len();
        for (lsn, offset) in self.from(tip) {
            let begin = (tip - lsn).max(0) as u64;
            let end = (offset + SEGMENT_BYTES as u64).min(length);
            let zeros = vec![0; end.saturating_sub(offset + begin) as usize];
            file.write_all_at(&zeros, offset + begin)?;
        }
        Ok(())
    }
}

/// Returns the place in sled's log of the segment with this head; `None` if the head is damaged.
fn segment_lsn(head: &[u8; SEG_HEADER_LEN]) -> Option<Lsn> {
    let (crc32, rest) = head.split_first_chunk::<4>()?;
    let (lsn, _stable) = rest.split_first_chunk::<8>()?;
    let fits = u32::from_le_bytes(*crc32) == crc32fast::hash(rest) ^ u32::MAX;
    let lsn = i64::from_le_bytes(*lsn) ^ i64::MAX;
    (fits && lsn >= 0 && lsn % SEGMENT == 0).then_some(lsn)
}

/// A batch whose entries are not all read yet.
#[derive(Debug)]
struct OpenBatch {
    begin: Lsn,
    last: Lsn,
    entries: Vec<SegmentEntry>,
}

/// The state of a salvage while the log is read.
struct SalvageScan {
    snapshot: Snapshot,
    /// The place up to which the snapshot has all entries.
    begin: Lsn,
    /// The place up to which the log was durable.
    durable_end: Lsn,
    /// The end of the log, as far as it is read.
    tip: Lsn,
    batch: Option<OpenBatch>,
    damage: Vec<Damage>,
}

impl SalvageScan {
    /// Reads a segment. Returns whether the log can go on after it.
    fn segment(&mut self, lsn: Lsn, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let number = (lsn / SEGMENT) as u64;
        let mut at = SEG_HEADER_LEN;
        while at + MAX_HEAD_BYTES <= SEGMENT_BYTES {
            let here = lsn + at as Lsn;
            if let Some(head) = EntryHead::whole(bytes, at, number) {
                if head.kind == CAP {
                    break;
                }
                let place = (here, DiskPtr::Inline(offset + at as u64), head.size_bytes as u64);
                self.take(&head, place, &bytes[at..at + head.size_bytes])?;
                at += head.size_bytes;
                self.advance(lsn + at as Lsn)?;
                continue;
            }
            if here >= self.durable_end {
                self.tip = self.tip.max(here);
                return Ok(false);
            }
            let Some((damage, next)) = pass(bytes, at, number) else { break };
            for (at, head) in damage {
                let head = head.filter(|head| self.may_be_a_page(head));
                let size_bytes = head.map_or(MAX_HEAD_BYTES, |head| head.size_bytes) as u64;
                let pointer = DiskPtr::Inline(offset + at as u64);
                self.damage.push(Damage { place: (lsn + at as Lsn, pointer, size_bytes), head });
                let known = self.damage.last().copied();
                known.into_iter().try_for_each(|damage| self.take_damaged(&damage))?;
            }
            at = next;
            self.advance(lsn + at as Lsn)?;
        }
        self.advance(lsn + SEGMENT)?;
        Ok(true)
    }

    /// Takes in an undamaged entry.
    fn take(&mut self, head: &EntryHead, place: LogPlace, entry: &[u8]) -> io::Result<()> {
        if head.kind == BATCH {
            let last = entry.last_chunk::<8>().map_or(place.0, |last| Lsn::from_le_bytes(*last));
            self.batch = Some(OpenBatch { begin: place.0, last, entries: Vec::new() });
            return Ok(());
        }
        match head.log_kind() {
            Some(kind) => self.apply(kind, head.page, place),
            None if head.kind == CANCELED => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown entry")),
        }
    }

    /// Whether the number of a page can be right: a wrong one is in most cases far above all known
    /// pages.
    fn may_be_a_page(&self, head: &EntryHead) -> bool {
        let most = (self.snapshot.pages.len() + MAX_NEW_PAGES) as u64;
        head.log_kind().is_none() || head.page < most
    }

    /// Takes in a damaged entry: if it was a whole page, its place.
    fn take_damaged(&mut self, damage: &Damage) -> io::Result<()> {
        match damage.head {
            Some(EntryHead { kind: NODE, page, .. }) if page >= FIRST_PLAIN_PAGE => {
                self.apply(LogKind::Replace, page, damage.place)
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, kind: LogKind, page: u64, place: LogPlace) -> io::Result<()> {
        if place.0 < self.begin {
            return Ok(());
        }
        let (lsn, pointer, size_bytes) = place;
        let entry = SegmentEntry { kind, page, lsn, offset: pointer.lid(), size_bytes };
        match &mut self.batch {
            Some(batch) => batch.entries.push(entry),
            None => self.snapshot.apply(&entry)?,
        }
        Ok(())
    }

    /// Notes that the log is read up to `tip`, and applies a batch that ends before it.
    fn advance(&mut self, tip: Lsn) -> io::Result<()> {
        self.tip = tip;
        // A batch whose last entry is damaged ends with the durable part of the log.
        if let Some(batch) = self.batch.take_if(|batch| batch.last < tip) {
            batch.entries.iter().try_for_each(|entry| self.snapshot.apply(entry))?;
        }
        Ok(())
    }

    /// Gives each page a place, which may be that of a damaged entry. Returns the damage; `None` if
    /// sled cannot be opened with it.
    fn settle(&mut self, segments: &Segments) -> Option<Salvaged> {
        self.damage.retain(|damage| damage.place.0 < self.tip);
        let bogus = self.damage.first()?.place;
        let mut found = Salvaged::default();
        let known = self.snapshot.pages.len();
        for (number, page) in self.snapshot.pages.iter_mut().enumerate() {
            let is_there = match page {
                PageState::Unknown => false,
                PageState::Free(lsn, pointer) => segments.has(&(*lsn, *pointer, 0)),
                PageState::Present(places) => places.iter().all(|place| segments.has(place)),
            };
            if !is_there && (number as u64) < FIRST_PLAIN_PAGE {
                return None;
            }
            if !is_there {
                *page = PageState::Present(vec![bogus]);
                found.pages += 1;
            }
        }
        let live = self.live_segments();
        for damage in &self.damage {
            let lsn = damage.place.0;
            match damage.head {
                Some(head) if head.page >= known as u64 && head.kind == LINK => {}
                Some(head) => match (head.kind, self.snapshot.pages.get(head.page as usize)) {
                    (NODE, Some(PageState::Present(places))) if places[0].0 == lsn => {
                        found.pages += 1
                    }
                    (LINK, Some(PageState::Present(places))) if places[0].0 < lsn => {
                        found.changes += 1
                    }
                    (META, _) => found.unknown += 1,
                    _ => {}
                },
                None => {
                    let is_recent = lsn + REUSE_DISTANCE >= self.tip;
                    let is_live = is_recent || live.contains(&(lsn / SEGMENT));
                    found.unknown += usize::from(is_live);
                }
            }
        }
        Some(found)
    }

    /// Returns the numbers of the segments that hold valid entries.
    fn live_segments(&self) -> BTreeSet<Lsn> {
        let places = self.snapshot.pages.iter().flat_map(|page| match page {
            PageState::Present(places) => &places[..],
            PageState::Unknown | PageState::Free(..) => &[],
        });
        places.map(|(lsn, ..)| lsn / SEGMENT).collect()
    }
}

/// The offset of a damaged entry in its segment, and its head, if that is known.
type PassedEntry = (usize, Option<EntryHead>);

/// Returns the damaged entries from `at` on, and the offset of the next undamaged one, or the end
/// of the segment. `None` if sled has begun to use the segment again.
fn pass(bytes: &[u8], at: usize, number: u64) -> Option<(Vec<PassedEntry>, usize)> {
    let (mut passed, mut next) = (Vec::new(), at);
    // The length in a damaged entry's head is right if an undamaged entry follows.
    while passed.len() < MAX_CHAIN
        && let Some(head) = EntryHead::at(bytes, next)
        && head.number == number
        && is_known(&head)
    {
        passed.push((next, Some(head)));
        next += head.size_bytes;
        if next + MAX_HEAD_BYTES > SEGMENT_BYTES || EntryHead::whole(bytes, next, number).is_some()
        {
            return Some((passed, next));
        }
    }
    for next in at + 1..SEGMENT_BYTES - MAX_HEAD_BYTES {
        let Some(head) = EntryHead::at(bytes, next) else { continue };
        let is_near = (number..=number + MAX_NEW_PAGES as u64).contains(&head.number);
        if is_near && head.fits(bytes, next) {
            return (head.number == number).then(|| (vec![(at, None)], next));
        }
    }
    Some((vec![(at, None)], SEGMENT_BYTES))
}

/// Whether an entry is of a kind that sled writes for this log.
fn is_known(head: &EntryHead) -> bool {
    matches!(head.kind, CANCELED | CAP | BATCH) || head.log_kind().is_some()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::engine::{self, written_lsn};
    use super::*;

    const KEYS: u32 = 200;

    /// The files of a sled, the bytes of its `db`, and the place up to which its log is durable.
    struct Written {
        directory: tempfile::TempDir,
        bytes: Vec<u8>,
        durable: Lsn,
    }

    /// Writes keys whose values tell their keys, each a few times, over several segments.
    fn written() -> Written {
        let directory = tempfile::tempdir().unwrap();
        let database = engine::open(directory.path(), 1 << 20).unwrap();
        let tree = database.open_tree("events").unwrap();
        for round in 0..12_u8 {
            for key in 0..KEYS {
                let value = vec![round ^ key as u8; 4_000];
                tree.insert(key.to_be_bytes(), value).unwrap();
            }
        }
        database.flush().unwrap();
        let durable = written_lsn(&database);
        drop((tree, database));
        let bytes = std::fs::read(directory.path().join("db")).unwrap();
        Written { directory, bytes, durable }
    }

    impl Written {
        fn store(&self, bytes: &[u8]) {
            let path = self.directory.path();
            for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
                if entry.file_name().to_string_lossy().starts_with("snap.") {
                    std::fs::remove_file(entry.path()).unwrap();
                }
            }
            std::fs::write(path.join("db"), bytes).unwrap();
        }

        fn salvage(&self) -> Option<Salvaged> {
            salvage(self.directory.path(), Some(self.durable), |_| Ok(())).unwrap()
        }

        /// Counts the keys that have their newest value, an older one, and none that can be read.
        fn found(&self) -> (u32, u32, u32) {
            let database = engine::open(self.directory.path(), 1 << 20).unwrap();
            let tree = database.open_tree("events").unwrap();
            let mut found = (0, 0, 0);
            for key in 0..KEYS {
                match tree.get(key.to_be_bytes()) {
                    Ok(Some(value)) => {
                        let round = value[0] ^ key as u8;
                        assert!(round < 12 && value.iter().all(|byte| *byte == value[0]));
                        *(if round == 11 { &mut found.0 } else { &mut found.1 }) += 1;
                    }
                    Ok(None) | Err(sled::Error::Corruption { .. }) => found.2 += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            found
        }
    }

    /// Goal: an undamaged log is not changed by a byte, and neither is one whose last entry was
    /// never finished.
    #[test]
    fn a_log_without_damage_is_not_written_to() {
        let written = written();
        assert!(written.bytes.len() > 2 * SEGMENT_BYTES);
        written.store(&written.bytes);
        assert_eq!(written.salvage(), None);
        let torn = written.durable - 3_000;
        let segments = Segments::read(&written.file(), 0, torn).unwrap();
        let (lsn, offset) = segments.from(torn).next().unwrap();
        let at = (offset as i64 + torn - lsn) as usize + 100;
        let mut bytes = written.bytes.clone();
        bytes[at] ^= 1;
        written.store(&bytes);
        let directory = written.directory.path();
        assert_eq!(salvage(directory, Some(torn - 8_000), |_| Ok(())).unwrap(), None);
        assert!(std::fs::read(directory.join("db")).unwrap() == bytes);
        assert!(snapshot::newest(directory).unwrap().is_none());
    }

    impl Written {
        fn file(&self) -> File {
            File::open(self.directory.path().join("db")).unwrap()
        }
    }

    /// Goal: one damaged entry costs its page at the most, wherever it is. All other pages are as
    /// they were, and no value is served that was never written.
    #[test]
    fn a_changed_byte_costs_no_more_than_its_page_and_is_told() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let written = written();
        for _ in 0..25 {
            let at = random.random_range(0..written.bytes.len());
            let mut bytes = written.bytes.clone();
            bytes[at] ^= random.random_range(1..=255_u8);
            written.store(&bytes);
            let salvaged = written.salvage();
            let (newest, older, none) = written.found();
            println!("{at}: {salvaged:?}; {newest} newest, {older} older, {none} none");
            let told = salvaged.unwrap_or_default();
            assert!(newest >= KEYS - 40, "seed {seed}, byte {at}: {newest} {older} {none}");
            assert!(!told.is_cut, "seed {seed}, byte {at}");
            let is_told = told.loss() > Loss::None;
            assert!(older + none == 0 || is_told, "seed {seed}, byte {at}: no loss is told");
        }
    }

    /// Goal: a log whose file ends early has lost its end, and says so.
    #[test]
    fn a_log_that_ends_before_what_is_durable_is_told_to_be_cut() {
        let written = written();
        written.store(&written.bytes[..SEGMENT_BYTES]);
        let told = written.salvage().unwrap();
        assert!(told.is_cut && told.loss() > Loss::None, "{told:?}");
        let (newest, older, none) = written.found();
        assert!(newest == 0 && older + none == KEYS, "{newest} {older} {none}");
    }
}
