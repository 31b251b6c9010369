//! The tickets that are valid now, by the hashes of their texts: bounded in number and memory, in
//! all and for each caller.
//!
//! # Why
//!
//! A ticket is looked up by the SHA-256 of its text, and the text is 192 random bits. The time of a
//! lookup may tell how much of a hash fits. That is of no use: nobody can choose a text by its
//! hash. So a comparison in constant time is not needed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::keys::CredentialHash;
use crate::error::{Error, Result};
use crate::topic::TopicPattern;

/// The most memory of all tickets, in bytes.
const MAX_BYTES: usize = 64 << 20;

/// The memory of one ticket besides its patterns, and of one pattern besides its text, in bytes.
const TICKET_BYTES: usize = 512;
const PATTERN_BYTES: usize = 40;

/// The most tickets whose time is over that one call removes.
const SWEPT: usize = 8;

/// The kind of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TicketKind {
    /// For one use: it opens a WebSocket.
    Once,
    /// For streams that come back to the same URL by themselves: it reads, any number of times.
    Stream,
}

/// A ticket without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) kind: TicketKind,
    pub(super) caller: Arc<str>,
    /// When the credential was issued that the ticket was made with.
    pub(super) issued: Option<SystemTime>,
    /// The time from which the ticket cannot be used.
    pub(super) usable_until: SystemTime,
    /// The end of what is opened with the ticket.
    pub(super) expires: Option<SystemTime>,
    pub(super) subscribe: Vec<TopicPattern>,
    pub(super) publish: Vec<TopicPattern>,
    pub(super) presence: Vec<TopicPattern>,
}

impl Ticket {
    fn bytes(&self) -> usize {
        let all = [&self.subscribe, &self.publish, &self.presence];
        let patterns = all.into_iter().flatten();
        TICKET_BYTES + patterns.map(|it| PATTERN_BYTES + it.as_str().len()).sum::<usize>()
    }
}

/// The bounds on the number of tickets.
#[derive(Debug, Clone, Copy)]
pub(super) struct TicketBounds {
    pub(super) in_all: usize,
    pub(super) per_caller: usize,
}

/// The tickets that are valid now.
#[derive(Debug)]
pub(super) struct TicketTable {
    bounds: TicketBounds,
    by_hash: HashMap<CredentialHash, Ticket>,
    by_end: BTreeSet<(SystemTime, CredentialHash)>,
    by_caller: HashMap<Arc<str>, HashSet<CredentialHash>>,
    bytes: usize,
}

impl TicketTable {
    pub(super) fn new(bounds: TicketBounds) -> Self {
        let (by_hash, by_end, by_caller) = Default::default();
        Self { bounds, by_hash, by_end, by_caller, bytes: 0 }
    }

    /// Adds a ticket. A ticket that is there already stays.
    ///
    /// # Errors
    ///
    /// [`Error::Full`].
    pub(super) fn insert(
        &mut self,
        hash: CredentialHash,
        ticket: Ticket,
        now: SystemTime,
    ) -> Result<()> {
        self.sweep(now);
        if self.by_hash.contains_key(&hash) {
            return Ok(());
        }
        let bytes = ticket.bytes();
        if self.by_hash.len() >= self.bounds.in_all {
            return Err(Error::full("tickets", self.bounds.in_all as u64));
        }
        if self.bytes + bytes > MAX_BYTES {
            return Err(Error::full("bytes of tickets", MAX_BYTES as u64));
        }
        let of_caller = self.by_caller.get(&ticket.caller).map_or(0, HashSet::len);
        if of_caller >= self.bounds.per_caller {
            return Err(Error::full("tickets of this caller", self.bounds.per_caller as u64));
        }
        self.bytes += bytes;
        self.by_end.insert((ticket.usable_until, hash));
        self.by_caller.entry(ticket.caller.clone()).or_default().insert(hash);
        self.by_hash.insert(hash, ticket);
        Ok(())
    }

    /// Returns the ticket with this hash, if it can be used at `now` and `fits`. A ticket for one
    /// use is gone then.
    pub(super) fn take(
        &mut self,
        hash: &CredentialHash,
        now: SystemTime,
        fits: impl FnOnce(&Ticket) -> bool,
    ) -> Option<Ticket> {
        self.sweep(now);
        let found = self.by_hash.get(hash)?;
        if found.usable_until <= now || !fits(found) {
            return None;
        }
        match found.kind {
            TicketKind::Once => self.remove(hash),
            TicketKind::Stream => Some(found.clone()),
        }
    }

    /// Whether a ticket with this hash is here.
    pub(super) fn has(&self, hash: &CredentialHash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// Removes the tickets of a caller that `is_over` is true for.
    pub(super) fn remove_of(&mut self, caller: &str, is_over: impl Fn(&Ticket) -> bool) {
        let hashes = self.by_caller.get(caller).cloned().unwrap_or_default();
        for hash in hashes {
            if self.by_hash.get(&hash).is_some_and(&is_over) {
                self.remove(&hash);
            }
        }
    }

    /// Removes a ticket, and returns it.
    pub(super) fn remove(&mut self, hash: &CredentialHash) -> Option<Ticket> {
        let ticket = self.by_hash.remove(hash)?;
        self.bytes -= ticket.bytes();
        self.by_end.remove(&(ticket.usable_until, *hash));
        if let Some(hashes) = self.by_caller.get_mut(&ticket.caller) {
            hashes.remove(hash);
            if hashes.is_empty() {
                self.by_caller.remove(&ticket.caller);
            }
        }
        Some(ticket)
    }

    /// Removes some of the tickets whose time is over: more than one call adds.
    fn sweep(&mut self, now: SystemTime) {
        for _ in 0..SWEPT {
            let first = self.by_end.first().filter(|(end, _)| *end <= now);
            let Some((_, hash)) = first.copied() else { return };
            self.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::keys::hash_of;
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn ticket(kind: TicketKind, caller: &str, end_s: u64) -> Ticket {
        Ticket {
            kind,
            caller: caller.into(),
            issued: None,
            usable_until: START + Duration::from_secs(end_s),
            expires: None,
            subscribe: vec!["orders.>".parse().unwrap()],
            publish: Vec::new(),
            presence: Vec::new(),
        }
    }

    fn table(in_all: usize, per_caller: usize) -> TicketTable {
        TicketTable::new(TicketBounds { in_all, per_caller })
    }

    #[test]
    fn a_ticket_for_one_use_is_used_once_and_one_for_streams_until_it_is_over() {
        let mut table = table(10, 10);
        let (once, stream) = (hash_of("once"), hash_of("stream"));
        table.insert(once, ticket(TicketKind::Once, "u", 30), START).unwrap();
        table.insert(stream, ticket(TicketKind::Stream, "u", 30), START).unwrap();
        assert!(table.take(&once, START, |_| false).is_none(), "it does not fit");
        assert!(table.take(&once, START, |_| true).is_some(), "and so it was not used");
        assert!(table.take(&once, START, |_| true).is_none());
        let last = START + Duration::from_millis(29_999);
        for now in [START, last] {
            assert!(table.take(&stream, now, |_| true).is_some());
        }
        assert!(table.take(&stream, START + Duration::from_secs(30), |_| true).is_none());
        assert!(table.by_hash.is_empty() && table.by_end.is_empty());
        assert!(table.by_caller.is_empty() && table.bytes == 0, "nothing is left of them");
    }

    #[test]
    fn there_are_so_many_in_all_and_for_each_caller_and_those_that_are_over_make_room() {
        let mut table = table(20, 15);
        let insert = |table: &mut TicketTable, n: usize, caller: &str, now: SystemTime| {
            let added = ticket(TicketKind::Once, caller, 30 + (now > START) as u64 * 60);
            table.insert(hash_of(n.to_string()), added, now).map_err(|error| error.to_string())
        };
        (0..15).for_each(|n| insert(&mut table, n, "u", START).unwrap());
        let refused = insert(&mut table, 15, "u", START).unwrap_err();
        assert_eq!(
            refused,
            "there are 15 tickets of this caller already, and there may be no more"
        );
        (15..20).for_each(|n| insert(&mut table, n, "v", START).unwrap());
        let refused = insert(&mut table, 20, "w", START).unwrap_err();
        assert_eq!(refused, "there are 20 tickets already, and there may be no more");
        insert(&mut table, 0, "u", START).unwrap(); // It is there, so it takes no more room.
        let later = START + Duration::from_secs(30);
        (20..40).for_each(|n| insert(&mut table, n, ["u", "v"][n % 2], later).unwrap());
        assert_eq!(table.by_hash.len(), 20);
    }

    #[test]
    fn the_memory_of_long_patterns_is_bounded() {
        let mut table = table(usize::MAX, usize::MAX);
        let mut large = ticket(TicketKind::Stream, "u", 30);
        let long = format!("{}.>", "x".repeat(250));
        large.subscribe = vec![long.parse().unwrap(); 1_000];
        let mut count = 0;
        let refused = loop {
            match table.insert(hash_of(count.to_string()), large.clone(), START) {
                Ok(()) => count += 1,
                Err(error) => break error.to_string(),
            }
        };
        assert!(refused.contains("bytes of tickets") && count < 300, "{count}: {refused}");
        table.remove_of("u", |_| true);
        assert_eq!((table.bytes, table.by_hash.len()), (0, 0));
    }
}
