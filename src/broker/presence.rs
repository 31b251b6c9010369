//! Presence: who is subscribed to a topic, as its readers say who they are.
//!
//! A member that is there several times, in several tabs say, counts once: it joins with the first,
//! and leaves with the last. Both are told to who is there, as ephemeral events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use super::Shared;
use super::topics::TopicRef;
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};

/// Longest id of a member, and what is known of one, in bytes.
const MAX_ID_BYTES: usize = 255;
const MAX_INFO_BYTES: usize = 1 << 10;

/// Who reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// What tells it from the others.
    pub id: String,
    /// What the others are to know of it.
    pub info: BTreeMap<String, String>,
}

impl Member {
    /// What it takes in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.id.len() + self.info_bytes()
    }

    fn info_bytes(&self) -> usize {
        self.info.iter().map(|(name, text)| name.len() + text.len()).sum()
    }

    fn validate(&self) -> Result<()> {
        let info_bytes = self.info_bytes();
        match (self.id.len(), info_bytes) {
            (0, _) => Err(Error::invalid("member", "has no id")),
            (size_bytes, _) if size_bytes > MAX_ID_BYTES => {
                Err(Error::over("member id bytes", size_bytes, MAX_ID_BYTES))
            }
            (_, size_bytes) if size_bytes > MAX_INFO_BYTES => {
                Err(Error::over("member info bytes", size_bytes, MAX_INFO_BYTES))
            }
            _ => Ok(()),
        }
    }
}

/// A member that is there.
#[derive(Debug, Clone, Serialize)]
pub struct Present {
    /// Who.
    #[serde(flatten)]
    pub member: Member,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// How often: its subscriptions.
    pub subscriptions: u32,
}

/// The members of one topic, by their ids. Made for the first of them.
#[derive(Debug, Default)]
pub(super) struct Members(OnceLock<Box<Mutex<BTreeMap<String, Present>>>>);

impl Members {
    /// Up to `limit` of them in the order of their ids, after `after`.
    pub(super) fn list(&self, after: &str, limit: usize) -> Vec<Present> {
        let Some(members) = self.0.get() else { return Vec::new() };
        let members = members.lock().unwrap_or_else(PoisonError::into_inner);
        let after = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        members.range::<str, _>(after).take(limit).map(|(_, present)| present.clone()).collect()
    }

    /// Adds one; `tell` is called, before anybody else can join or leave, if it was not there.
    fn join(
        &self,
        member: &Member,
        now: Timestamp,
        max_members: usize,
        tell: impl FnOnce(),
    ) -> Result<()> {
        let members = self.0.get_or_init(Box::default);
        let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = members.get_mut(&member.id) {
            present.subscriptions += 1;
            present.member.info = member.info.clone();
            return Ok(());
        }
        if members.len() >= max_members {
            return Err(Error::over("members", members.len() + 1, max_members));
        }
        let present = Present { member: member.clone(), since_ms: now.as_ms(), subscriptions: 1 };
        members.insert(member.id.clone(), present);
        tell();
        Ok(())
    }

    /// Takes one out; `tell` is called, before anybody else can, if it is not there any more.
    fn leave(&self, id: &str, tell: impl FnOnce()) {
        let Some(members) = self.0.get() else { return };
        let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(present) = members.get_mut(id) else { return };
        present.subscriptions -= 1;
        if present.subscriptions == 0 {
            members.remove(id);
            tell();
        }
    }
}

/// A member is there for as long as this is held.
#[derive(Debug)]
pub struct Presence {
    shared: Arc<Shared>,
    topics: Vec<TopicRef>,
    member: Member,
}

impl Presence {
    /// Joins these topics, all or none.
    pub(super) fn join(shared: Arc<Shared>, topics: Vec<TopicRef>, member: Member) -> Result<Self> {
        member.validate()?;
        let mut presence = Self { shared, topics: Vec::new(), member };
        for topic in topics {
            let shared = &presence.shared;
            let now = (shared.now)();
            topic.members.join(&presence.member, now, shared.max_members, || {
                shared.whisper(&topic, told("leftoff.joined", &presence.member));
            })?;
            presence.topics.push(topic);
        }
        Ok(presence)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        for topic in &self.topics {
            topic.members.leave(&self.member.id, || {
                self.shared.whisper(topic, told("leftoff.left", &self.member));
            });
        }
    }
}

fn told(event_type: &str, member: &Member) -> NewEvent {
    NewEvent {
        event_type: event_type.to_owned(),
        key: member.id.clone(),
        content_type: "application/json".to_owned(),
        payload: Bytes::from(json!(member).to_string()),
        ..NewEvent::default()
    }
}
