//! The texts that say a time: RFC 3339, and counts of milliseconds or seconds.

use std::str::FromStr;
use std::time::UNIX_EPOCH;

use crate::error::{Error, Result};
use crate::text_form::serde_as_text;
use crate::timestamp::Timestamp;

/// The start of the year 2000, in milliseconds. A count of milliseconds from then on is larger than
/// any count of seconds up to the year 9999, so each count tells its unit.
const YEAR_2000_MS: u64 = 946_684_800_000;

/// 400 years of the calendar, in milliseconds.
const CYCLE_MS: i128 = 146_097 * 86_400_000;

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339, with any offset, or a count since 1970, in milliseconds or in seconds. The
    /// size of a count tells its unit, so counts of times before the year 2000 are refused.
    fn from_str(text: &str) -> Result<Self> {
        let refused = |problem: &str| {
            let shown: String = text.chars().take(64).collect();
            Error::invalid("time", format!("{shown:?} {problem}"))
        };
        let no_time = "is neither RFC 3339, like 2026-01-31T00:00:00Z, nor a count of milliseconds \
                       or seconds since 1970, up to the year 9999";
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            let ms = rfc3339(text).ok_or_else(|| refused(no_time))?;
            let after = "is after the year 9999 in UTC";
            let ms = u64::try_from(ms).map_err(|_| refused("is before the year 1970 in UTC"))?;
            return Some(Self::from_ms(ms))
                .filter(|t| *t <= Self::MAX)
                .ok_or_else(|| refused(after));
        }
        let count = text.parse().unwrap_or(u64::MAX); // Too many digits.
        let seconds = YEAR_2000_MS / 1_000..=Self::MAX.as_ms() / 1_000;
        match count {
            count if seconds.contains(&count) => Ok(Self::from_ms(count * 1_000)),
            count if (YEAR_2000_MS..=Self::MAX.as_ms()).contains(&count) => {
                Ok(Self::from_ms(count))
            }
            _ => Err(refused(
                "is not a time from the year 2000 to 9999, in milliseconds or in seconds since \
                 1970; write RFC 3339 for an earlier one",
            )),
        }
    }
}

serde_as_text!(Timestamp);

/// Returns the time in a text of RFC 3339, in milliseconds since 1970; below 0 for a time before.
/// Letters may be in either case, a blank may stand in place of the `T`, and any offset is read. A
/// blank may also stand in place of the `+` of an offset: the query of a URL decodes a `+` to a
/// blank.
fn rfc3339(text: &str) -> Option<i128> {
    let (date, rest) = text.split_at_checked(10)?;
    let clock = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, offset_minutes) = match clock.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let (clock, offset) = clock.split_at_checked(clock.len().checked_sub(6)?)?;
            (clock, minutes(offset)?)
        }
    };
    // Years are read from 1970 on alone; the calendar is the same 400 years later.
    let (year, day) = date.split_at_checked(4)?;
    let is_year = year.bytes().all(|b| b.is_ascii_digit());
    let year: i128 = year.parse().ok().filter(|_| is_year)?;
    let cycles = if year < 1970 { (1970 - year + 399) / 400 } else { 0 };
    let year = year + 400 * cycles;
    let utc = humantime::parse_rfc3339(&format!("{year:04}{day}T{clock}Z")).ok()?;
    let ms = i128::try_from(utc.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    Some(ms - cycles * CYCLE_MS - offset_minutes * 60_000)
}

/// Returns an offset like `+01:30` in minutes.
fn minutes(offset: &str) -> Option<i128> {
    let (sign, offset) = match offset.split_at_checked(1)? {
        ("+" | " ", offset) => (1, offset),
        ("-", offset) => (-1, offset),
        _ => return None,
    };
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse::<i128>().ok()).flatten()
    };
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_it_was_written() {
        for ms in [0, 1, 1_517_363_399_650, Timestamp::MAX.as_ms()] {
            let time = Timestamp::from_ms(ms);
            assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }
        for ms in [YEAR_2000_MS, 1_517_363_399_650, Timestamp::MAX.as_ms()] {
            let time = Timestamp::from_ms(ms);
            assert_eq!(ms.to_string().parse::<Timestamp>().unwrap(), time);
            let seconds = ms / 1_000;
            let whole = Timestamp::from_ms(seconds * 1_000);
            assert_eq!(seconds.to_string().parse::<Timestamp>().unwrap(), whole);
        }
    }

    #[test]
    fn every_spelling_of_rfc_3339_is_the_time_that_it_says() {
        let expected: Timestamp = "2026-01-31T00:30:00.250Z".parse().unwrap();
        for text in [
            "2026-01-31t00:30:00.25z",
            "2026-01-31 00:30:00.250Z",
            "2026-01-31T02:00:00.250+01:30",
            "2026-01-31 02:00:00.250 01:30", // A query turned the `+` into a blank.
            "2026-01-30T16:30:00.250-08:00",
            "2026-01-31T00:30:00.250-00:00",
            "2026-02-01T00:29:00.2509999+23:59",
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_words_that_are_true() {
        for bad in [
            "",
            "now",
            "-1",
            "1969-13-31T23:59:59Z",
            "1900-02-29T00:00:00Z",
            "+969-12-31T23:59:59Z",
            "2026-01-31",
            "2026-01-31T00:00",
            "2026-01-31T00:00:00",
            "2026-01-31T00:00:00+24:00",
            "2026-01-31T00:00:00+01:60",
            "2026-01-31T00:00:00+0100",
            "2026-01-31T00:00:00*01:00",
            "2026-01-31x00:00:00Z",
            "2026-13-31T00:00:00Z",
            "2026-01-31T00:00:00é00:00",
        ] {
            let refused = bad.parse::<Timestamp>().unwrap_err().to_string();
            assert!(refused.contains("is neither RFC 3339"), "{bad:?}: {refused}");
        }
        for (time, words) in [
            ("1969-12-31T23:59:59Z", "is before the year 1970 in UTC"),
            ("1970-01-01T00:00:00+00:01", "is before the year 1970 in UTC"),
            ("1600-02-29T00:00:00Z", "is before the year 1970 in UTC"),
            ("0000-01-01T00:00:00Z", "is before the year 1970 in UTC"),
            ("9999-12-31T23:59:59-00:01", "is after the year 9999 in UTC"),
        ] {
            let refused = time.parse::<Timestamp>().unwrap_err().to_string();
            assert!(refused.contains(words), "{time:?}: {refused}");
        }
        let first: Timestamp = "1969-12-31T23:59:00-00:01".parse().unwrap();
        assert_eq!(first, Timestamp::from_ms(0));
        for count in [
            "0",
            "1",
            "946684799",
            "253402300800",
            "946684799999",
            "253402300800000",
            "99999999999999999999",
        ] {
            let refused = count.parse::<Timestamp>().unwrap_err().to_string();
            let words = "is not a time from the year 2000 to 9999";
            assert!(refused.contains(words), "{count:?}: {refused}");
        }
    }
}
