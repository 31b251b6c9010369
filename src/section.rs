//! Sections of settings, for `deserialize_with`: tables of names and values, and nothing else.
//!
//! # Why
//!
//! Derived code takes a list for a struct, too, as the values of its fields in their order. A
//! section that is written as a list would then be taken, with settings that nobody named.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Reads one section.
///
/// # Errors
///
/// An error of `D`: the input is no section, or a setting in it is wrong.
pub(crate) fn one<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Section::deserialize(input).map(|section| section.0)
}

/// Reads a section that may be absent.
///
/// # Errors
///
/// As [`one`].
pub(crate) fn some<'de, D, T>(input: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let section = Option::<Section<T>>::deserialize(input)?;
    Ok(section.map(|section| section.0))
}

/// Reads a list of sections.
///
/// # Errors
///
/// As [`one`].
pub(crate) fn many<'de, D, T>(input: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let sections = Vec::<Section<T>>::deserialize(input)?;
    Ok(sections.into_iter().map(|section| section.0).collect())
}

/// Reads sections that have names of their own.
///
/// # Errors
///
/// An error of `D`: there is something that is no section, or a setting in one is wrong.
pub(crate) fn by_name<'de, D, K, T>(input: D) -> Result<BTreeMap<K, T>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    T: Deserialize<'de>,
{
    let sections = BTreeMap::<K, Section<T>>::deserialize(input)?;
    Ok(sections.into_iter().map(|(name, section)| (name, section.0)).collect())
}

struct Section<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_map(SectionVisitor(PhantomData))
    }
}

struct SectionVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SectionVisitor<T> {
    type Value = Section<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Section)
    }
}
