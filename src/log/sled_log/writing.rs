//! Writing a group to the tree, some of whose pages may be damaged.
//!
//! # Why
//!
//! sled 0.34.7 reads pages while it writes, and not only those to which it writes:
//!
//! 1. The page that holds a key, and the pages above it. If one of them is damaged, nothing can be
//!    written there. This is checked before the batch begins: sled applies a batch key by key, and
//!    an error in the middle leaves half of it in place.
//! 2. Any page of any topic, which sled cleans after it has replaced another one
//!    (`PageCache::replace`). If that page is damaged, the change of one key is done, and the page
//!    is off sled's list; but the rest of the batch is not applied. So the batch is applied again,
//!    as long as its own pages can be read: keys that are changed already stay as they are, and
//!    each attempt passes at least one damaged page. Evidence:
//!    `a_damaged_page_costs_nobody_but_the_readers_of_its_topic`. If the process ends between two
//!    attempts, the next start may find half of a batch; nothing of it was acknowledged by then.
//! 3. The neighbour to the left of a leaf that has fewer than 4 entries left, because the two are
//!    merged (`Tree::merge_node`). sled notes the merge in the page above before it reads the
//!    neighbour. If the neighbour is damaged, every later access tries the merge and fails: nothing
//!    below the page above can be read any more, which is most of the log. So a leaf beside a
//!    damaged page is kept from becoming that small: it gets fillers, entries without a meaning,
//!    whose keys are one byte longer than those of the removed entries.
//!
//! An error of the disk while sled writes is different: sled keeps it (`Config::global_error`),
//! nothing is written from then on, and the group's outcome is unknown.

use super::blocks;
use super::keys::{self, BlockKey, IdsKey};
use crate::cursor::Sequence;
use crate::log::block::Block;
use crate::log::group::Group;
use crate::log::meta;
use crate::log::stored_block::parts_of;
use crate::topic::TopicId;

/// The fewest entries with which sled does not merge a leaf. Source: `Node::should_merge`,
/// src/node.rs of sled 0.34.7.
const MIN_LEAF_ENTRIES: usize = 4;

/// The most times that a batch is applied before the log is given up: the number of damaged pages
/// that the cleaning for one batch may meet.
const MAX_ATTEMPTS: usize = 1_000;

/// The most times that a page is read, because reading may clean another page, and fail for that.
const MAX_LOOKS: usize = 10;

/// Writes `group`. It is durable after a flush and a sync.
///
/// # Errors
///
/// Those of sled: a part of the group may be written.
pub(super) fn write(database: &sled::Db, tree: &sled::Tree, group: &Group) -> sled::Result<()> {
    let mut attempts = 0;
    loop {
        let written = match lone_part(group) {
            // A single entry needs no batch, whose frame sled would write and sync separately.
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
        let is_lost = first_unreadable(tree, group).is_some() || has_unreadable_place(tree, group);
        if attempts >= MAX_ATTEMPTS || is_lost {
            return Err(error);
        }
        tracing::debug!(%error, "a damaged page elsewhere cannot be cleaned");
    }
}

/// Returns the topic and the first sequence of the first block that `group` writes or removes on an
/// unreadable page; no sequence for a topic's record.
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
        // The parts between these two are on the same page, or on pages between theirs.
        for part in [0, parts.saturating_sub(1)] {
            if is_unreadable(tree, &keys::block(topic, first, part_number(part))) {
                return Some((topic, Some(first)));
            }
        }
    }
    None
}

/// Whether `group` has a place in the fleet's stream, and that goes to an unreadable page.
pub(super) fn has_unreadable_place(tree: &sled::Tree, group: &Group) -> bool {
    group.applied.is_some() && is_unreadable(tree, &keys::APPLIED)
}

/// Checks that the page of `topic`'s record can be read, and the page of a block that begins at
/// `first`. The error is the sequence of the block, or no sequence for the record, as in
/// [`first_unreadable`].
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

/// Keeps the leaves from which `group` removes entries from being merged with an unreadable page.
///
/// # Errors
///
/// Those of sled: at the most, fillers were written.
pub(super) fn keep_leaves(tree: &sled::Tree, group: &Group) -> sled::Result<()> {
    let mut last: Option<(TopicId, Sequence)> = None;
    for (topic, block) in &group.removed {
        let follows = last.replace((*topic, block.end)) == Some((*topic, block.first));
        if !follows {
            // Neighbouring removed blocks are on neighbouring leaves, so only the first needs it.
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

/// Returns the keys of the blocks of ids that `group` removes. Those on an unreadable page stay,
/// because their events are gone anyway.
fn forgotten(tree: &sled::Tree, group: &Group) -> impl Iterator<Item = IdsKey> {
    let keys = group.forgotten.iter().map(|(topic, first)| keys::ids(*topic, *first));
    keys.filter(|key| !is_unreadable(tree, key))
}

/// Makes sled merge the leaves that `group` has made small, while their neighbours are readable.
pub(super) fn settle(tree: &sled::Tree, group: &Group) {
    for (topic, block) in &group.removed {
        let _it_is_gone = tree.contains_key(keys::block(*topic, block.first, 0));
    }
    for (topic, first) in &group.forgotten {
        let _it_is_gone = tree.contains_key(keys::ids(*topic, *first));
    }
}

/// Returns the only key and value of `group`, if it has just one.
fn lone_part(group: &Group) -> Option<(BlockKey, &[u8])> {
    let Group { topics, removed, rewritten, appended, ids, forgotten, applied, .. } = group;
    let is_alone = topics.is_empty() && removed.is_empty() && rewritten.is_empty();
    let has_no_ids = ids.is_empty() && forgotten.is_empty() && applied.is_none();
    match &appended[..] {
        [(topic, block)] if is_alone && has_no_ids && parts_of(block) == 1 => {
            blocks::parts(*topic, block).next()
        }
        _ => None,
    }
}

/// Puts `group` into `batch`. If a batch changes a key twice, the later change counts.
fn fill(batch: &mut sled::Batch, tree: &sled::Tree, group: &Group) {
    for topic in &group.topics {
        batch.insert(&keys::topic(topic.id), meta::encode_topic(topic));
    }
    for (topic, block) in &group.removed {
        for part in 0..block.parts {
            batch.remove(&keys::block(*topic, block.first, part_number(part)));
        }
    }
    if group.applied.is_some() {
        remove_further_parts(batch, tree, group);
    }
    let written = all_parts(&group.rewritten).chain(all_parts(&group.appended));
    written.for_each(|(key, bytes)| batch.insert(&key, bytes));
    forgotten(tree, group).for_each(|key| batch.remove(&key));
    if let Some(applied) = &group.applied {
        batch.insert(&keys::APPLIED, meta::encode_applied(applied));
    }
    for (topic, block) in &group.ids {
        let key = keys::ids(*topic, block.first_sequence());
        if !is_unreadable(tree, &key) {
            batch.insert(&key, block.bytes().to_vec());
        }
    }
}

/// Removes the parts that the blocks which `group` removes or replaces have here beyond those that
/// they had on the node that has decided the group. A node that has loaded a peer's backup may have
/// later, larger blocks in their places (restore.rs).
fn remove_further_parts(batch: &mut sled::Batch, tree: &sled::Tree, group: &Group) {
    let removed = group.removed.iter().map(|(topic, block)| (*topic, block.first, block.parts));
    let rewritten = group.rewritten.iter();
    let rewritten = rewritten.map(|(id, block)| (*id, block.first_sequence(), parts_of(block)));
    for (topic, first, parts) in removed.chain(rewritten) {
        let Ok(next) = u16::try_from(parts) else { continue };
        let further = keys::block(topic, first, next)..=keys::block(topic, first, u16::MAX);
        let keys = tree.range(further).keys().map_while(Result::ok);
        keys.filter(|key| keys::parse_block(key).is_some()).for_each(|key| batch.remove(key));
    }
}

fn part_number(part: usize) -> u16 {
    u16::try_from(part).expect("a part's number was a u16 in its key")
}

/// Returns the keys and values as which `blocks` are stored.
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

    /// Returns a tree with entries of 4 KB, with the keys that `key` returns for each number. The
    /// page with [`HURT`] is damaged.
    fn damaged(directory: &Path, key: impl Fn(u64) -> BlockKey) -> (sled::Db, sled::Tree) {
        let (database, tree) = open(directory);
        for number in 1..=KEYS {
            tree.insert(key(number), format!("{:x<4000}", format!("{number:06}.")).as_str())
                .unwrap();
        }
        drop((database, tree));
        drop(open(directory)); // sled has a snapshot now, and does not read the whole file.
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

    /// Goal: after entries beside a damaged page are removed, all entries on other pages can still
    /// be read: sled does not begin to merge a small leaf with the damaged page.
    #[test]
    fn what_is_removed_beside_a_damaged_page_takes_nothing_else_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let (database, tree) = damaged(directory.path(), key);
        let unreadable: Vec<u64> =
            (1..=KEYS).filter(|number| is_unreadable(&tree, &key(*number))).collect();
        assert!(unreadable.contains(&HURT) && unreadable.len() < 40, "{unreadable:?}");
        let next = unreadable.last().unwrap() + 1;
        let gone = next..next + 60; // These are several whole pages.
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

    /// Goal: a block whose last part is on a damaged page is noticed before any part is removed:
    /// sled would remove some parts, and then fail.
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
