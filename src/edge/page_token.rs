//! The token that leads from one page of a topic's state to the next: `FROM-AT`. `FROM` is the
//! first sequence of the next page, `AT` the one at which all pages show the state.

use std::str::FromStr;

use super::bounds::PIECE_BYTES;
use super::budget::{Held, Share};
use crate::broker::{StatePage, StateRequest};
use crate::cursor::Sequence;
use crate::error::{Error, Result};

/// Events of a page, if the request names no number.
const DEFAULT_PAGE_EVENTS: u64 = 100;

/// The memory for one page of state, in bytes, if there is room: the broker's default for such a
/// page.
const MAX_STATE_BYTES: usize = 3 << 20;

/// A page's token, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateToken {
    pub(super) from: Sequence,
    /// `None` for the first page, which shows the current state.
    pub(super) at: Option<Sequence>,
}

impl StateToken {
    /// Returns the request for the page, and the memory for it. With little memory, the page has
    /// fewer events.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`].
    pub(super) fn request(
        self,
        key_prefix: String,
        limit: usize,
        share: &Share,
    ) -> Result<(StateRequest, Held)> {
        let Self { from, at } = self;
        let held = share.take_up_to(MAX_STATE_BYTES + PIECE_BYTES, 2 * PIECE_BYTES)?;
        let max_bytes = held.size_bytes() - PIECE_BYTES;
        Ok((StateRequest { key_prefix, from, at, limit, max_bytes }, held))
    }

    /// Returns the token of the page after `page`; empty after the last one.
    pub(super) fn next(page: &StatePage) -> String {
        page.next.map(|from| format!("{from}-{}", page.at)).unwrap_or_default()
    }
}

impl FromStr for StateToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self { from: Sequence::FIRST, at: None });
        }
        let parse = || -> Option<Self> {
            let (from, at) = text.split_once('-')?;
            let place = |text: &str| text.parse().ok().filter(|n| *n < u64::MAX).map(Sequence::new);
            Some(Self { from: place(from)?, at: Some(place(at)?) })
        };
        parse().ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            Error::invalid("page_token", format!("{shown:?} is not a next_page_token of a page"))
        })
    }
}

/// Returns how many events a page may have: `asked`, or the default for 0. Errors call the number
/// `name`.
///
/// # Errors
///
/// [`Error::OverLimit`].
pub(super) fn page_limit(name: &str, asked: u64, max_page_events: u64) -> Result<usize> {
    match asked {
        0 => Ok(DEFAULT_PAGE_EVENTS as usize),
        asked if asked > max_page_events => {
            Err(Error::over(name, asked as usize, max_page_events as usize))
        }
        asked => Ok(asked as usize),
    }
}
