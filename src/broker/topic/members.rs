//! The members of one topic: the readers that are subscribed to it under a name.

use std::collections::BTreeMap;
#[cfg(feature = "fleet")]
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::json_levels;
#[cfg(feature = "fleet")]
use crate::topic::TopicName;

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

/// A member of a topic, and how many of its subscriptions are at this node.
#[derive(Debug)]
struct MemberEntry {
    /// As it is shown: with the subscriptions at all nodes of a fleet.
    present: Present,
    here: u32,
}

/// The effect of a subscription that begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemberChange {
    /// Whether the member has come or gone: it has had no subscription before, or has none now.
    pub(crate) is_told: bool,
    /// The member's subscriptions at this node.
    pub(crate) here: u32,
}

/// Hears which members are present at this node of a fleet.
#[cfg(feature = "fleet")]
pub(crate) trait MemberRelay: fmt::Debug + Send + Sync {
    /// Notes that a member's subscriptions to a topic have changed here, and whether it has some
    /// left. Called under the lock of the topic's members: for one member, in the order of the
    /// changes.
    fn note(&self, topic: &TopicName, id: &str, is_present: bool);
}

/// The members of one topic, by their ids. The map is made for the first member.
#[derive(Debug, Default)]
pub(crate) struct TopicMembers(OnceLock<Box<Mutex<MembersById>>>);

type MembersById = BTreeMap<String, MemberEntry>;

impl TopicMembers {
    /// Returns up to `limit` members after the id `after`, in the order of ids, and
    /// [`MEMBERS_PER_LOCK`] at the most: members who join or leave wait for the lock.
    pub(crate) fn some_after(&self, after: &str, limit: usize) -> Vec<Present> {
        let Some(members) = self.existing() else { return Vec::new() };
        let after = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let some = members.range::<str, _>(after).take(limit.min(MEMBERS_PER_LOCK));
        some.map(|(_, entry)| entry.present.clone()).collect()
    }

    /// Returns a member with its subscriptions at this node, if it has some.
    #[cfg(feature = "fleet")]
    pub(crate) fn here(&self, id: &str) -> Option<Present> {
        let members = self.existing()?;
        let MemberEntry { present, here } = members.get(id).filter(|entry| entry.here > 0)?;
        Some(Present { subscriptions: *here, ..present.clone() })
    }

    /// Adds a subscription of a member at this node. `changed` is called before anybody else can
    /// join or leave.
    pub(crate) fn join(
        &self,
        member: &Member,
        now: Timestamp,
        max_members: usize,
        changed: impl FnOnce(MemberChange),
    ) -> Result<()> {
        let mut members = self.lock();
        let (entry, is_told) = entry(&mut members, member, now.as_ms(), max_members)?;
        entry.present.member.info.clone_from(&member.info);
        entry.present.subscriptions += 1;
        entry.here += 1;
        changed(MemberChange { is_told, here: entry.here });
        Ok(())
    }

    /// Takes out a subscription of a member at this node. `changed` is called before anybody else
    /// can join or leave.
    pub(crate) fn leave(&self, id: &str, changed: impl FnOnce(MemberChange)) {
        let Some(mut members) = self.existing() else { return };
        let Some(entry) = members.get_mut(id) else { return };
        entry.present.subscriptions -= 1;
        entry.here -= 1;
        let change = MemberChange { is_told: entry.present.subscriptions == 0, here: entry.here };
        if change.is_told {
            members.remove(id);
        }
        changed(change);
    }

    /// Adds what a member has at another node, or changes it from `was`. If nobody had the member
    /// yet, `tell` is called before anybody else can join or leave.
    #[cfg(feature = "fleet")]
    pub(crate) fn join_elsewhere(
        &self,
        told: &Present,
        was: Option<&Present>,
        max_members: usize,
        tell: impl FnOnce(),
    ) -> Result<()> {
        let mut members = self.lock();
        let (entry, is_told) = entry(&mut members, &told.member, told.since_ms, max_members)?;
        let present = &mut entry.present;
        // A node that repeats itself hides nothing that another one has told since.
        if was.is_none_or(|was| was.member != told.member) {
            present.member.info.clone_from(&told.member.info);
        }
        present.since_ms = present.since_ms.min(told.since_ms);
        let was = was.map_or(0, |was| was.subscriptions);
        present.subscriptions = present.subscriptions - was + told.subscriptions;
        if is_told {
            tell();
        }
        Ok(())
    }

    /// Takes out the `was` subscriptions that a member has at another node. If they were the last
    /// ones, `tell` is called before anybody else can join or leave.
    #[cfg(feature = "fleet")]
    pub(crate) fn leave_elsewhere(&self, id: &str, was: u32, tell: impl FnOnce()) {
        let Some(mut members) = self.existing() else { return };
        let Some(entry) = members.get_mut(id) else { return };
        entry.present.subscriptions -= was;
        if entry.present.subscriptions == 0 {
            members.remove(id);
            tell();
        }
    }

    fn lock(&self) -> MutexGuard<'_, MembersById> {
        self.0.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the map if there was a member.
    fn existing(&self) -> Option<MutexGuard<'_, MembersById>> {
        Some(self.0.get()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the entry of a member, and whether it is new: without subscriptions.
fn entry<'a>(
    members: &'a mut MembersById,
    member: &Member,
    since_ms: u64,
    max_members: usize,
) -> Result<(&'a mut MemberEntry, bool)> {
    let (count, is_new) = (members.len(), !members.contains_key(&member.id));
    if is_new && count >= max_members {
        return Err(Error::over("members", count + 1, max_members));
    }
    let new = || {
        let present = Present { member: member.clone(), since_ms, subscriptions: 0 };
        MemberEntry { present, here: 0 }
    };
    let entry = members.entry(member.id.clone()).or_insert_with(new);
    Ok((entry, is_new))
}
