//! Writing a group to the tree, in which pages may be damaged.
//!
//! # Why
//!
//! sled 0.34.7 reads pages while it writes, and not only those that are written to:
//!
//! 1. The page that holds a key, and the pages above it. If one of them is damaged, nothing can be
//!    written there. This is found out before the batch begins: sled applies a batch key by key,
//!    and an error in the middle leaves half of it in place.
//! 2. Any page of any topic, which it cleans after it has replaced another one
//!    (`PageCache::replace`). By then what was asked for is done, and the page is off sled's list;
//!    but the rest of the batch is not. So the batch is applied again, as long as its own pages can
//!    be read: what is there already stays as it is, and each attempt gets past one damaged page at
//!    the least. Evidence: `a_damaged_page_costs_nobody_but_the_readers_of_its_topic`. Should the
//!    process end between two attempts, half of a batch may be found by the next start; nothing of
//!    it was acknowledged by then.
//! 3. The neighbour to the left of a leaf that has fewer than 4 entries left: the two are merged
//!    (`Tree::merge_node`). sled notes in the page above that they are to be merged before it reads
//!    the neighbour. If that one is damaged, whoever comes by wants to merge them, and fails:
//!    nothing below the page above can be read any more, which is most of the log. So a leaf beside
//!    a damaged page is kept from becoming that small: it is given entries that mean nothing, whose
//!    keys are one byte longer than what went.
//!
//! An error of the disk that sled meets where it writes is another matter: sled keeps it
//! (`Config::global_error`), nothing is written from then on, and the group's outcome is unknown.

use super::blocks;
use super::keys::{self, BlockKey, IdsKey};
use crate::cursor::Sequence;
use crate::log::block::Block;
use crate::log::group::Group;
use crate::log::meta;
use crate::log::stored_block::parts_of;
use crate::topic::TopicId;

/// Fewest entries of a leaf that sled does not merge.
/// Source: `Node::should_merge`, src/node.rs of sled 0.34.7.
const MIN_LEAF_ENTRIES: usize = 4;

/// The most times that a batch is applied before the log is given up: the number of damaged pages
/// that the cleaning for one batch may meet.
const MAX_ATTEMPTS: usize = 1_000;

/// The most times that a page is looked for, because reading may clean, too.
const MAX_LOOKS: usize = 10;

/// Writes `group`; durable after a flush and a sync.
///
/// # Errors
///
/// Those of sled: some of the group may be written.
pub(super) fn write(database: &sled::Db, tree: &sled::Tree, group: &Group) -> sled::Result<()> {
    let mut attempts = 0;
    loop {
        let written = match lone_part(group) {
            // Alone, an entry needs no batch around it, which sled writes and syncs on its own.
            Some((key, bytes)) => tree.insert(key, bytes).map(drop),
            None => {
                let mut batch = sled::Batch::default();
                fill(&mut batch, tree, group);
                tree.apply_batch(batch)
            }
        };
        let Err(error) = written else { return Ok(()) };
        attempts += 1;
        database.context.global_error()?;
        if attempts >= MAX_ATTEMPTS || first_unreadable(tree, group).is_some() {
            return Err(error);
        }
        tracing::debug!(%error, "a page of something else cannot be cleaned");
    }
}

/// The first block that `group` writes or removes where pages cannot be read; without a sequence
/// where it is a topic's record.
pub(super) fn first_unreadable(
    tree: &sled::Tree,
    group: &Group,
) -> Option<(TopicId, Option<Sequence>)> {
    let records = group.topics.iter().map(|topic| topic.id);
    let mut unreadable = records.filter(|id| is_unreadable(tree, &keys::topic(*id)));
    if let Some(topic) = unreadable.next() {
        return Some((topic, None));
    }
    let removed = group.removed.iter().map(|(id, block)| (*id, block.first, block.parts));
    let written = group.rewritten.iter().chain(&group.appended);
    let written = written.map(|(id, block)| (*id, block.first_sequence(), parts_of(block)));
    for (topic, first, parts) in removed.chain(written) {
        // What lies between the two is in neighbouring pages, or in the same one.
        for part in [0, parts.saturating_sub(1)] {
            if is_unreadable(tree, &keys::block(topic, first, part_number(part))) {
                return Some((topic, Some(first)));
            }
        }
    }
    None
}

/// Whether the pages can be read to which `topic`'s record belongs, and a block that begins at
/// `first`. Otherwise the place is told, as [`first_unreadable`] does.
pub(super) fn is_readable(
    tree: &sled::Tree,
    topic: TopicId,
    first: Sequence,
) -> Result<(), Option<Sequence>> {
    if is_unreadable(tree, &keys::block(topic, first, 0)) {
        return Err(Some(first));
    }
    if is_unreadable(tree, &keys::topic(topic)) { Err(None) } else { Ok(()) }
}

fn is_unreadable(tree: &sled::Tree, key: &[u8]) -> bool {
    (0..MAX_LOOKS).all(|_| tree.contains_key(key).is_err())
}

/// Keeps the leaves that `group` removes entries from from being merged with a page that cannot be
/// read.
///
/// # Errors
///
/// Those of sled: nothing that means anything was written.
pub(super) fn keep_leaves(tree: &sled::Tree, group: &Group) -> sled::Result<()> {
    let mut last: Option<(TopicId, Sequence)> = None;
    for (topic, block) in &group.removed {
        let follows = last.replace((*topic, block.end)) == Some((*topic, block.first));
        if !follows {
            // The leaves between those that follow are neighbours of each other.
            keep_leaf(tree, &keys::block(*topic, block.first, 0))?;
        }
    }
    forgotten(tree, group).try_for_each(|key| keep_leaf(tree, &key))
}

fn keep_leaf(tree: &sled::Tree, key: &[u8]) -> sled::Result<()> {
    let mut before = tree.range(..key).rev().take(MIN_LEAF_ENTRIES);
    if before.all(|entry| entry.is_ok()) {
        return Ok(());
    }
    (0..MIN_LEAF_ENTRIES as u8)
        .try_for_each(|number| tree.insert(keys::filler(key, number), &[]).map(drop))
}

/// The keys of the blocks of ids that `group` removes. Where a page of them cannot be read, they
/// stay, for what they are about is gone anyway.
fn forgotten(tree: &sled::Tree, group: &Group) -> impl Iterator<Item = IdsKey> {
    let keys = group.forgotten.iter().map(|(topic, first)| keys::ids(*topic, *first));
    keys.filter(|key| !is_unreadable(tree, key))
}

/// Makes sled merge the leaves that `group` has made small, while their neighbours are known to be
/// readable.
pub(super) fn settle(tree: &sled::Tree, group: &Group) {
    for (topic, block) in &group.removed {
        let _it_is_gone = tree.contains_key(keys::block(*topic, block.first, 0));
    }
    for (topic, first) in &group.forgotten {
        let _it_is_gone = tree.contains_key(keys::ids(*topic, *first));
    }
}

/// The one key and value that `group` consists of, if that is all of it.
fn lone_part(group: &Group) -> Option<(BlockKey, &[u8])> {
    let Group { topics, removed, rewritten, appended, ids, forgotten, durability: _ } = group;
    let is_alone = topics.is_empty() && removed.is_empty() && rewritten.is_empty();
    let has_no_ids = ids.is_empty() && forgotten.is_empty();
    match &appended[..] {
        [(topic, block)] if is_alone && has_no_ids && parts_of(block) == 1 => {
            blocks::parts(*topic, block).next()
        }
        _ => None,
    }
}

/// Puts `group` into `batch`. If a batch changes a key twice, the later change holds.
fn fill(batch: &mut sled::Batch, tree: &sled::Tree, group: &Group) {
    for topic in &group.topics {
        batch.insert(&keys::topic(topic.id), meta::encode_topic(topic));
    }
    for (topic, block) in &group.removed {
        for part in 0..block.parts {
            batch.remove(&keys::block(*topic, block.first, part_number(part)));
        }
    }
    let written = all_parts(&group.rewritten).chain(all_parts(&group.appended));
    written.for_each(|(key, bytes)| batch.insert(&key, bytes));
    forgotten(tree, group).for_each(|key| batch.remove(&key));
    for (topic, block) in &group.ids {
        let key = keys::ids(*topic, block.first_sequence());
        if !is_unreadable(tree, &key) {
            batch.insert(&key, block.bytes().to_vec());
        }
    }
}

fn part_number(part: usize) -> u16 {
    u16::try_from(part).expect("a part's number was a u16 in its key")
}

/// The keys and values that `blocks` are stored as.
pub(super) fn all_parts(blocks: &[(TopicId, Block)]) -> impl Iterator<Item = (BlockKey, &[u8])> {
    blocks.iter().flat_map(|(topic, block)| blocks::parts(*topic, block))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::engine;
    use super::*;
    use crate::log::stored_block::StoredBlock;

    const KEYS: u64 = 4_000;
    const HURT: u64 = 1_000;

    fn topic() -> TopicId {
        TopicId::from_stored(1).unwrap()
    }

    fn key(number: u64) -> BlockKey {
        keys::block(topic(), Sequence::new(number), 0)
    }

    fn open(directory: &Path) -> (sled::Db, sled::Tree) {
        let database = engine::open(directory, 1 << 20).unwrap();
        let tree = database.open_tree(keys::TREE).unwrap();
        (database, tree)
    }

    /// A tree with entries of 4 KB whose keys are `key` of each number, of which the page with
    /// [`HURT`] is damaged.
    fn damaged(directory: &Path, key: impl Fn(u64) -> BlockKey) -> (sled::Db, sled::Tree) {
        let (database, tree) = open(directory);
        for number in 1..=KEYS {
            tree.insert(key(number), format!("{:x<4000}", format!("{number:06}.")).as_str())
                .unwrap();
        }
        drop((database, tree));
        drop(open(directory)); // sled has a snapshot now, and does not scan the file.
        let (path, needle) = (directory.join("db"), format!("{HURT:06}."));
        let mut bytes = std::fs::read(&path).unwrap();
        let windows = bytes.windows(needle.len()).enumerate();
        let found: Vec<usize> =
            windows.filter(|(_, w)| *w == needle.as_bytes()).map(|(at, _)| at).collect();
        found.into_iter().for_each(|at| bytes[at] = b'#');
        std::fs::write(&path, bytes).unwrap();
        open(directory)
    }

    fn removing(blocks: impl Iterator<Item = (u64, usize)>) -> Group {
        let removed = blocks.map(|(number, parts)| {
            let stored = StoredBlock::begin(Sequence::new(number), &[]);
            (topic(), StoredBlock { parts, ..stored })
        });
        Group { removed: removed.collect(), ..Group::default() }
    }

    /// Goal: removing what lies beside a damaged page leaves all readable that is not on it: sled
    /// does not begin to merge with it what has become small.
    #[test]
    fn what_is_removed_beside_a_damaged_page_takes_nothing_else_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let (database, tree) = damaged(directory.path(), key);
        let unreadable: Vec<u64> =
            (1..=KEYS).filter(|number| is_unreadable(&tree, &key(*number))).collect();
        assert!(unreadable.contains(&HURT) && unreadable.len() < 40, "{unreadable:?}");
        let next = unreadable.last().unwrap() + 1;
        let gone = next..next + 60; // Some pages whole.
        let group = removing(gone.clone().map(|number| (number, 1)));
        assert_eq!(first_unreadable(&tree, &group), None);
        keep_leaves(&tree, &group).unwrap();
        write(&database, &tree, &group).unwrap();
        settle(&tree, &group);
        for number in (1..=KEYS).filter(|number| !unreadable.contains(number)) {
            let found = tree.contains_key(key(number));
            assert_eq!(found, Ok(!gone.contains(&number)), "{number}, of {unreadable:?}");
        }
    }

    /// Goal: a block whose last part lies on a damaged page is found to be so before anything of it
    /// is removed: sled would remove some of it, and then fail.
    #[test]
    fn a_block_that_ends_on_a_damaged_page_is_found_before_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let first = HURT - 99;
        let key = |number: u64| match number.checked_sub(first) {
            Some(part @ 0..100) => keys::block(topic(), Sequence::new(first), part as u16),
            _ => key(number),
        };
        let (_database, tree) = damaged(directory.path(), key);
        assert!(!is_unreadable(&tree, &key(first)) && is_unreadable(&tree, &key(HURT)));
        let found = first_unreadable(&tree, &removing([(first, 100)].into_iter()));
        assert_eq!(found, Some((topic(), Some(Sequence::new(first)))));
        assert_eq!(first_unreadable(&tree, &removing([(first, 10)].into_iter())), None);
    }
}
