//! The lists that a client sends, and the bound on their length.
//!
//! # Why
//!
//! An entry takes as little as two bytes of a message, and many times as much in memory. So entries
//! are counted while they are read, in every form in which a list can come, and no more entries are
//! kept than the limit allows. The memory of a list is bounded by the limit, not by the size of the
//! message.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::error::{Error, Result};

/// The most entries in one list of topics, of values of a filter, or of headers. Source: the limits
/// on the wire.
pub(crate) const MAX_ENTRIES: usize = 1_024;

/// Refuses one more entry in a list of `count` entries, if there is no room for it.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_room(name: &str, count: usize) -> Result<()> {
    check(name, count + 1, MAX_ENTRIES)
}

/// Refuses a list whose `count` of entries is over `limit`.
///
/// # Errors
///
/// [`Error::OverLimit`].
pub(crate) fn check(name: &str, count: usize, limit: usize) -> Result<()> {
    if count > limit {
        return Err(Error::over(name, count, limit));
    }
    Ok(())
}

/// The entries of a list, or of an object, up to the limit, and the number of all entries that
/// came.
#[derive(Debug, Clone)]
pub(crate) struct List<T> {
    entries: Vec<T>,
    count: usize,
    limit: usize,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::up_to(MAX_ENTRIES)
    }
}

impl<T> List<T> {
    fn up_to(limit: usize) -> Self {
        Self { entries: Vec::new(), count: 0, limit }
    }

    /// Counts an entry, and keeps it. The caller has checked that there is room.
    fn push(&mut self, entry: T) {
        self.entries.push(entry);
        self.count += 1;
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    /// Returns the entries, if no more came than the limit allows.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`], with `name` and the number of entries that came.
    pub(crate) fn entries(self, name: &str) -> Result<Vec<T>> {
        check(name, self.count, self.limit)?;
        Ok(self.entries)
    }
}

impl<T> List<(String, T)> {
    /// Returns the members of an object, as [`Self::entries`] does, if no name is given twice.
    ///
    /// # Errors
    ///
    /// As [`Self::entries`]. [`Error::Invalid`] with a name that is given twice.
    pub(crate) fn members(self, name: &str) -> Result<Vec<(String, T)>> {
        let members = self.entries(name)?;
        let mut seen = HashSet::with_capacity(members.len());
        if let Some((twice, _)) = members.iter().find(|(member, _)| !seen.insert(member)) {
            return Err(Error::invalid(name, format!("{twice:?} is given twice")));
        }
        Ok(members)
    }
}

/// A reader of a list, which keeps no more than this many entries.
#[derive(Debug)]
pub(crate) struct UpTo<T>(usize, PhantomData<T>);

impl<T> UpTo<T> {
    /// Returns a reader that keeps `limit` entries, for a list whose limit is a setting.
    pub(crate) fn new(limit: usize) -> Self {
        Self(limit, PhantomData)
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for UpTo<T> {
    type Value = List<T>;

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<List<T>, D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for UpTo<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut sequence: S) -> Result<List<T>, S::Error> {
        let mut list = List::up_to(self.0);
        while !list.is_full()
            && let Some(entry) = sequence.next_element()?
        {
            list.push(entry);
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            list.count += 1;
        }
        Ok(list)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(list: D) -> Result<Self, D::Error> {
        UpTo::new(MAX_ENTRIES).deserialize(list)
    }
}

/// Reads an object as the list of its members, in their order, for `deserialize_with`.
///
/// # Errors
///
/// An error of `D`: the input is no object, or a member has a wrong type.
pub(crate) fn members<'de, D, T>(object: D) -> Result<List<(String, T)>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    object.deserialize_map(MembersVisitor(PhantomData))
}

struct MembersVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MembersVisitor<T> {
    type Value = List<(String, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut list = List::default();
        while !list.is_full()
            && let Some(member) = map.next_entry()?
        {
            list.push(member);
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            list.count += 1;
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Deserializer;

    use super::*;

    #[test]
    fn lists_and_objects_are_read_up_to_their_limit_and_counted_to_their_end() {
        let list = |count: usize| format!("[{}]", vec!["\"x\""; count].join(","));
        let read = |text: &str| serde_json::from_str::<List<String>>(text).unwrap();
        assert_eq!(read(&list(MAX_ENTRIES)).entries("topics").unwrap().len(), MAX_ENTRIES);
        let over = read(&list(100_000));
        assert_eq!(over.entries.len(), MAX_ENTRIES, "no more of it is kept");
        let refused = over.entries("topics").unwrap_err().to_string();
        assert_eq!(refused, "topics: 100000 is over the limit of 1024");

        let object = |count: usize| {
            let members: Vec<String> = (0..count).map(|n| format!("\"n{n}\":\"v\"")).collect();
            format!("{{{}}}", members.join(","))
        };
        let read = |text: &str| {
            members::<_, String>(&mut Deserializer::from_str(text)).unwrap().entries("headers")
        };
        assert_eq!(read(&object(MAX_ENTRIES)).unwrap()[1], ("n1".to_owned(), "v".to_owned()));
        let refused = read(&object(MAX_ENTRIES + 1)).unwrap_err().to_string();
        assert_eq!(refused, "headers: 1025 is over the limit of 1024");

        let twice = members::<_, String>(&mut Deserializer::from_str(r#"{"a":"1","a":"1"}"#));
        let refused = twice.unwrap().members("headers").unwrap_err().to_string();
        assert_eq!(refused, "headers: \"a\" is given twice");

        let seed = |limit| UpTo::<u8>::new(limit).deserialize(&mut Deserializer::from_str("[1,2]"));
        assert_eq!(seed(2).unwrap().entries("events").unwrap(), [1, 2]);
        let refused = seed(1).unwrap().entries("events").unwrap_err().to_string();
        assert_eq!(refused, "events: 2 is over the limit of 1");
        serde_json::from_str::<List<String>>("{}").unwrap_err();
        serde_json::from_str::<List<u8>>("[1").unwrap_err();
    }
}
