//! Sets of sequences, and their text: ranges that are parted by commas, such as `1-5,9`.

use std::fmt::Write as _;

use roaring::RoaringTreemap;

use crate::error::{Error, Result};

/// Returns the runs of neighbours in the set, each as its first and its last number.
pub(crate) fn ranges(set: &RoaringTreemap) -> impl Iterator<Item = (u64, u64)> + '_ {
    let mut numbers = set.iter().peekable();
    std::iter::from_fn(move || {
        let first = numbers.next()?;
        let mut last = first;
        while let Some(next) = numbers.next_if(|next| *next == last + 1) {
            last = next;
        }
        Some((first, last))
    })
}

/// Returns the text of a set.
pub(super) fn text_of(set: &RoaringTreemap) -> String {
    let mut text = String::new();
    for (first, last) in ranges(set) {
        let comma = if text.is_empty() { "" } else { "," };
        let written = match first == last {
            true => write!(text, "{comma}{first}"),
            false => write!(text, "{comma}{first}-{last}"),
        };
        written.expect("a text takes what is written");
    }
    text
}

/// Returns the set of a text.
///
/// # Errors
///
/// [`Error::Invalid`]: the text is none of ranges.
pub(super) fn set_of(text: &str) -> Result<RoaringTreemap> {
    let malformed = |part: &str| {
        let shown: String = part.chars().take(64).collect();
        Error::invalid("ranges", format!("{shown:?} is no range; write 7 or 3-9"))
    };
    let mut set = RoaringTreemap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| malformed(part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(malformed(part));
        }
        set.insert_range(first..=last);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_reads_back_as_it_was_written(
            numbers in proptest::collection::btree_set(0_u64..500, 0..200),
            shift in prop_oneof![Just(0), Just(u64::from(u32::MAX) - 250), Just(u64::MAX - 500)],
        ) {
            let set: RoaringTreemap = numbers.into_iter().map(|number| number + shift).collect();
            prop_assert_eq!(set_of(&text_of(&set)).unwrap(), set);
        }
    }

    #[test]
    fn neighbours_are_one_range_and_what_is_no_range_is_refused() {
        let set: RoaringTreemap = [1, 2, 3, 4, 5, 9, u64::MAX].into_iter().collect();
        assert_eq!(text_of(&set), "1-5,9,18446744073709551615");
        assert_eq!(text_of(&RoaringTreemap::new()), "");
        for bad in ["x", "1-", "-1", "5-1", "1-2-3", "18446744073709551616"] {
            let error = set_of(bad).unwrap_err().to_string();
            assert!(error.starts_with("ranges: "), "{bad:?}: {error}");
        }
    }
}
