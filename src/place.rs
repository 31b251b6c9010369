//! The numbers in a cursor: sequence, position and epoch, each as a type of its own.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::text_form::serde_as_text;

/// An event's place in its topic: from 1, given without holes, never reused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sequence(u64);

/// An event's place in the whole broker's commit order: from 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(u64);

macro_rules! place {
    ($name:ident) => {
        impl $name {
            /// The first place that an event can have.
            pub const FIRST: Self = Self(1);

            /// The place before the first one.
            pub const BEFORE_ALL: Self = Self(0);

            /// Returns the place with this number; 0 stands before the first.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// Returns the number of the place.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Returns the place after this one.
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// Returns the place `count` later.
            ///
            /// # Panics
            ///
            /// If the number is 2^64 or more. No disk holds so many events.
            pub const fn plus(self, count: u64) -> Self {
                Self(self.0.checked_add(count).expect("places end at 2^64"))
            }

            /// Returns the place before this one, 0 at the least.
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl From<$name> for u64 {
            fn from(place: $name) -> Self {
                place.0
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

place!(Sequence);
place!(Position);

/// One incarnation of the log. A new epoch begins when a data directory is created, restored or
/// repaired; when the log is opened and durable data is missing, damaged or not covered by the
/// log's mark; and when the system went down with acknowledged events that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// Returns the epoch with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number of the epoch.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The error for a text that is not an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseEpochError;

impl fmt::Display for ParseEpochError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an epoch has 8 hexadecimal digits, like 9f3c2a1b")
    }
}

impl std::error::Error for ParseEpochError {}

impl FromStr for Epoch {
    type Err = ParseEpochError;

    fn from_str(text: &str) -> Result<Self, ParseEpochError> {
        let hex = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex {
            return Err(ParseEpochError);
        }
        u32::from_str_radix(text, 16).map(Self).map_err(|_| ParseEpochError)
    }
}

serde_as_text!(Epoch);

/// A place in one topic or in the whole broker. The two kinds are never taken for one another.
///
/// A place is serialized as its number, without its kind, so it cannot be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// A sequence of the one topic that is read; 0 is before the first.
    Sequence(Sequence),
    /// A position of the whole broker; 0 is before the first.
    Position(Position),
}

impl Place {
    /// Returns the number of the sequence, or of the position.
    pub const fn number(self) -> u64 {
        match self {
            Self::Sequence(sequence) => sequence.get(),
            Self::Position(position) => position.get(),
        }
    }

    /// Returns the place after this one, of the same kind.
    pub const fn next(self) -> Self {
        match self {
            Self::Sequence(sequence) => Self::Sequence(sequence.next()),
            Self::Position(position) => Self::Position(position.next()),
        }
    }

    /// Returns the place before this one, of the same kind; 0 at the least.
    pub const fn previous(self) -> Self {
        match self {
            Self::Sequence(sequence) => Self::Sequence(sequence.previous()),
            Self::Position(position) => Self::Position(position.previous()),
        }
    }

    /// Returns the number of places from this one up to `end`, which is not counted: 0 if `end` is
    /// not after this place. `None` if one of them is a sequence and the other a position.
    pub fn distance_to(self, end: Self) -> Option<u64> {
        let is_same_kind = matches!(
            (self, end),
            (Self::Sequence(_), Self::Sequence(_)) | (Self::Position(_), Self::Position(_))
        );
        is_same_kind.then(|| end.number().saturating_sub(self.number()))
    }

    /// Returns the first place of the same kind.
    pub const fn first(self) -> Self {
        match self {
            Self::Sequence(_) => Self::Sequence(Sequence::FIRST),
            Self::Position(_) => Self::Position(Position::FIRST),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.number())
    }
}
