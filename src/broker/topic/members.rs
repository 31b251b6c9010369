//! The members of one topic: the readers that are subscribed to it under a name.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::json_levels;

/// The longest id of a member, and the most information about one, in bytes.
const MAX_ID_BYTES: usize = 255;
const MAX_INFO_BYTES: usize = 1 << 10;

/// The most lists and objects within each other in a piece of information: what is told of members
/// stays far below the levels that readers of JSON take.
const MAX_INFO_LEVELS: usize = 32;

/// The members that are copied while their lock is held: some microseconds.
pub(crate) const MEMBERS_PER_LOCK: usize = 16;

/// A member of a topic, as other readers see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The id, which no other member of the topic has.
    pub id: String,
    /// The information about the member, by name.
    #[serde(default)]
    pub info: BTreeMap<String, MemberInfo>,
}

/// One piece of information about a member: a text, or any other JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemberInfo {
    /// The text, or the JSON as text.
    text: String,
    is_json: bool,
}

impl MemberInfo {
    /// Returns the text, or the JSON as a text, for protocols that have only texts.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl From<String> for MemberInfo {
    fn from(text: String) -> Self {
        Self { text, is_json: false }
    }
}

impl From<&str> for MemberInfo {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<serde_json::Value> for MemberInfo {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::String(text) => text.into(),
            other => Self { text: other.to_string(), is_json: true },
        }
    }
}

impl Serialize for MemberInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.is_json {
            return serializer.serialize_str(&self.text);
        }
        let json: &RawValue = serde_json::from_str(&self.text).map_err(ser::Error::custom)?;
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MemberInfo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        Ok(match serde_json::from_str::<String>(json.get()) {
            Ok(text) => Self { text, is_json: false },
            Err(_) => Self { text: json.get().to_owned(), is_json: true },
        })
    }
}

impl Member {
    /// Returns a member with this id, and without information.
    ///
    /// ```
    /// use leftoff::Member;
    ///
    /// let member = Member::new("bob").with("name", "Bob").with("age", serde_json::json!(41));
    /// assert_eq!(member.info.len(), 2);
    /// ```
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), info: BTreeMap::new() }
    }

    /// Returns this member with one more piece of information: a text, or JSON.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, info: impl Into<MemberInfo>) -> Self {
        self.info.insert(name.into(), info.into());
        self
    }

    /// Returns the bytes that the member takes in memory.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.id.len() + self.info_bytes()
    }

    fn info_bytes(&self) -> usize {
        self.info.iter().map(|(name, info)| name.len() + info.text.len()).sum()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let info_bytes = self.info_bytes();
        match (self.id.len(), info_bytes) {
            (0, _) => Err(Error::invalid("member", "has no id")),
            (size_bytes, _) if size_bytes > MAX_ID_BYTES => {
                Err(Error::over("member id bytes", size_bytes, MAX_ID_BYTES))
            }
            (_, size_bytes) if size_bytes > MAX_INFO_BYTES => {
                Err(Error::over("member info bytes", size_bytes, MAX_INFO_BYTES))
            }
            _ => self.info.values().filter(|info| info.is_json).try_for_each(|info| {
                json_levels::check("levels of member info", info.text.as_bytes(), MAX_INFO_LEVELS)
            }),
        }
    }
}

/// A member that is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Present {
    /// The member.
    #[serde(flatten)]
    pub member: Member,
    /// The time from which the member is present, in milliseconds since 1970.
    pub since_ms: u64,
    /// The number of the member's subscriptions to the topic.
    pub subscriptions: u32,
}

/// The members of one topic, by their ids. The map is made for the first member.
#[derive(Debug, Default)]
pub(crate) struct TopicMembers(OnceLock<Box<Mutex<BTreeMap<String, Present>>>>);

impl TopicMembers {
    /// Returns up to `limit` members after the id `after`, in the order of ids, and
    /// [`MEMBERS_PER_LOCK`] at the most: members who join or leave wait for the lock.
    pub(crate) fn some_after(&self, after: &str, limit: usize) -> Vec<Present> {
        let Some(members) = self.0.get() else { return Vec::new() };
        let members = members.lock().unwrap_or_else(PoisonError::into_inner);
        let after = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let some = members.range::<str, _>(after).take(limit.min(MEMBERS_PER_LOCK));
        some.map(|(_, present)| present.clone()).collect()
    }

    /// Adds a subscription of a member. If the member was not present, `tell` is called before
    /// anybody else can join or leave.
    pub(crate) fn join(
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

    /// Takes out a subscription of a member. If it was the last one, `tell` is called before
    /// anybody else can join or leave.
    pub(crate) fn leave(&self, id: &str, tell: impl FnOnce()) {
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
