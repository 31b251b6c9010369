//! Objects that a client sends as JSON.
//!
//! # Why
//!
//! The parser reads a struct from a list, too, and takes the entries for its fields in their order.
//! So an empty list would be a struct with all defaults: a client that sends `[]` for a filter
//! would take the filter away.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A value that is read from an object, and from no list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::edge::json_problem;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Read {
        is_on: Option<bool>,
        raw: Option<Box<RawValue>>,
    }

    #[test]
    fn an_object_is_read_as_before_and_a_list_is_refused() {
        let read = |json| serde_json::from_str::<Object<Read>>(json);
        let Object(value) = read(r#"{"is_on":true,"raw":[1, 2]}"#).unwrap();
        assert_eq!((value.is_on, value.raw.unwrap().get()), (Some(true), "[1, 2]"));
        for (json, problem) in [
            ("[]", "a list is not an object"),
            ("[true]", "a list is not an object"),
            ("null", "null is not an object, at column 4"),
            ("5", "5 is not an object, at column 1"),
            (r#"{"is_on":5}"#, "5 is not true or false, at column 10"),
            (r#"{"on":true}"#, "\"on\" is not a known name; known are is_on or raw, at column 5"),
            (r#"{"is_on":true,"is_on":true}"#, "is_on is given twice, at column 21"),
            (r#"{"is_on":true} 5"#, "something follows the JSON value, at column 16"),
        ] {
            let said = json_problem::words(&read(json).unwrap_err());
            assert!(said.starts_with(problem), "{json}: {said}");
        }
    }
}
