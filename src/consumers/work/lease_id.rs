//! The id of a lease: a short text that names the consumer, the event and the try.
//!
//! ```text
//! z-7-1e-2     consumer 35, topic 7, sequence 50, its second delivery; all in base 36
//! ```
//!
//! # Why
//!
//! The id says all that is needed to find the lease, so nothing has to be remembered for it. It is
//! no secret: whoever may work for a consumer may end any lease of it, as in other brokers. The
//! number of the try tells a late answer of an earlier worker from that of the present one.

use std::fmt;
use std::str::FromStr;

use super::places::{WorkPlace, base36};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::text_form::serde_as_text;
use crate::topic::TopicId;

/// The longest id, in bytes: four numbers in base 36.
const MAX_BYTES: usize = 64;

/// The id of a lease. Clients keep it as a text, and send it back unchanged.
///
/// ```
/// use leftoff::consumers::LeaseId;
///
/// let lease: LeaseId = "z-7-1e-2".parse()?;
/// assert_eq!((lease.to_string().as_str(), lease.tries()), ("z-7-1e-2", 2));
/// # Ok::<(), leftoff::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId {
    /// The number of the consumer.
    pub(super) consumer: u64,
    pub(super) place: WorkPlace,
    pub(super) tries: u32,
}

impl LeaseId {
    /// Returns the deliveries of the event, up to and with this one.
    pub fn tries(&self) -> u32 {
        self.tries
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consumer, place, tries } = self;
        let numbers =
            [*consumer, place.topic.get().into(), place.sequence.get(), u64::from(*tries)];
        f.write_str(&numbers.map(base36).join("-"))
    }
}

impl FromStr for LeaseId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            let shown: String = text.chars().take(MAX_BYTES).collect();
            Error::invalid("lease", format!("{shown:?} is not the id of a lease"))
        };
        let is_digit = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
        let number = |digits: &str| match digits.bytes().all(is_digit) {
            true => u64::from_str_radix(digits, 36).map_err(|_| malformed()),
            false => Err(malformed()), // `from_str_radix` would take a leading `+`.
        };
        if text.len() > MAX_BYTES {
            return Err(malformed());
        }
        let numbers = text.split('-').map(number).collect::<Result<Vec<_>>>()?;
        let [consumer, topic, sequence, tries] = numbers[..] else { return Err(malformed()) };
        let topic = u32::try_from(topic).ok().and_then(TopicId::from_stored);
        let topic = topic.ok_or_else(malformed)?;
        let tries = u32::try_from(tries).ok().filter(|tries| *tries > 0).ok_or_else(malformed)?;
        if sequence == 0 {
            return Err(malformed());
        }
        let place = WorkPlace { topic, sequence: Sequence::new(sequence) };
        let lease = Self { consumer, place, tries };
        // One lease has one text.
        if lease.to_string() == text { Ok(lease) } else { Err(malformed()) }
    }
}

serde_as_text!(LeaseId);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_reads_back_as_it_was_written(
            consumer: u64,
            topic in 1..=u32::MAX,
            sequence in 1..=u64::MAX,
            tries in 1..=u32::MAX,
        ) {
            let topic = TopicId::from_stored(topic).unwrap();
            let place = WorkPlace { topic, sequence: Sequence::new(sequence) };
            let lease = LeaseId { consumer, place, tries };
            prop_assert!(lease.to_string().len() <= MAX_BYTES);
            prop_assert_eq!(lease.to_string().parse::<LeaseId>().unwrap(), lease);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _outcome = text.parse::<LeaseId>();
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let long = "1-".repeat(40);
        let bad = [
            "",
            "-",
            "1-1-1",
            "1-1-1-1-1",
            "1-0-1-1",
            "1-1-0-1",
            "1-1-1-0",
            "+1-1-1-1",
            "1-1-1-A",
            "01-1-1-1",
            "1-1-1-",
            "1-1z141z4-1-1",
            "3w5e11264sgsg-1-1-1",
            &long,
        ];
        for text in bad {
            let error = text.parse::<LeaseId>().unwrap_err().to_string();
            assert!(error.starts_with("lease: ") && error.contains("not the id"), "{error}");
        }
    }
}
