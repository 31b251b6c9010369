//! The reading of the log's own records, and of blocks of ids, from the tree.

use super::blocks;
use super::engine::unreadable;
use super::keys;
use crate::error::{Error, Result};
use crate::log::applied::Applied;
use crate::log::block::Block;
use crate::log::meta::{self, LogRecord};
use crate::log::stored_topic::StoredTopic;
use crate::topic::TopicId;

/// Reads the log's record; `None` if there is none.
///
/// # Errors
///
/// [`Error::DamagedLog`], [`Error::ReadFailed`].
pub(super) fn read_log(tree: &sled::Tree) -> Result<Option<LogRecord>> {
    let value = tree.get(keys::LOG).map_err(|error| unreadable_record("the log's own", error))?;
    let Some(value) = value else { return Ok(None) };
    let record = meta::decode_log(&value).map_err(|problem| Error::DamagedLog {
        problem: format!("the log's own record: {problem}; {WAY_OUT}"),
    })?;
    Ok(Some(record))
}

/// Reads the place in the fleet's stream up to which the log has applied it; `None` if there is
/// none.
///
/// # Errors
///
/// [`Error::DamagedLog`], [`Error::ReadFailed`].
pub(super) fn read_applied(tree: &sled::Tree) -> Result<Option<Applied>> {
    read_place(tree, keys::APPLIED)
}

/// Reads the place that the log had until damage was found; `None` if none was, or if it had none.
///
/// # Errors
///
/// As [`read_applied`].
#[cfg(feature = "fleet")]
pub(super) fn read_lost_place(tree: &sled::Tree) -> Result<Option<Applied>> {
    read_place(tree, keys::LOST_PLACE)
}

fn read_place(tree: &sled::Tree, key: [u8; 5]) -> Result<Option<Applied>> {
    const PLACE: &str = "the fleet's";
    let value = tree.get(key).map_err(|error| unreadable_record(PLACE, error))?;
    let Some(value) = value else { return Ok(None) };
    let applied = meta::decode_applied(&value).map_err(|problem| Error::DamagedLog {
        problem: format!("{PLACE} record: {problem}; {WAY_OUT}"),
    })?;
    Ok(Some(applied))
}

/// Reads every topic's record, in the order of the ids. For a damaged record it yields
/// [`Error::DamagedLog`].
pub(super) fn read_topics(tree: &sled::Tree) -> impl Iterator<Item = Result<StoredTopic>> {
    blocks::until_error(tree.scan_prefix(keys::TOPICS)).map(|entry| {
        let (key, value) = entry.map_err(|error| unreadable_record("a topic's", error))?;
        let id = keys::parse_topic(&key).ok_or_else(|| format!("its key {key:?} is unknown"));
        let topic = id.as_ref().map_or_else(|_| "?".to_owned(), |id| id.get().to_string());
        let topic_record = |id| meta::decode_topic(id, &value).map_err(String::from);
        id.and_then(topic_record).map_err(|problem| Error::DamagedLog {
            problem: format!("the record of topic {topic}: {problem}; {WAY_OUT}"),
        })
    })
}

/// The advice in errors about damaged records.
const WAY_OUT: &str = "put back a copy of the data directory from before the damage, without its \
     file `mark`, or go on with what `leftoff check --repair` brings back";

/// Turns an error that sled returned while a record was read into ours.
fn unreadable_record(which: &str, error: sled::Error) -> Error {
    match error {
        sled::Error::Corruption { .. } => Error::DamagedLog {
            problem: format!("the page that holds {which} record is unreadable; {WAY_OUT}"),
        },
        other => unreadable(other),
    }
}

/// Reads every block of ids in `tree`. For a damaged block it yields an error. Nothing is read
/// after a damaged page.
pub(super) fn read_ids(tree: &sled::Tree) -> impl Iterator<Item = Result<(TopicId, Block)>> {
    blocks::until_error(tree.scan_prefix(keys::IDS)).filter_map(|entry| {
        let (key, value) = match entry {
            Ok(entry) => entry,
            Err(error @ sled::Error::Corruption { .. }) => {
                let problem = format!("a page with ids of dropped events is unreadable: {error}");
                return Some(Err(Error::DamagedLog { problem }));
            }
            Err(error) => return Some(Err(unreadable(error))),
        };
        let topic = keys::parse_ids(&key)?;
        let block = Block::decode(value.to_vec().into());
        Some(block.map(|block| (topic, block)).map_err(|problem| Error::DamagedLog {
            problem: format!("ids of dropped events of topic {}: {problem}", topic.get()),
        }))
    })
}
