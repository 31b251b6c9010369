//! Tickets for one use on the nodes of a fleet: the node that leads keeps them, and each is taken
//! from there once, whichever node it is brought to.
//!
//! # Why
//!
//! Such a ticket lives for seconds, and is lost with the node that keeps it, as a broker alone
//! loses it in a restart. So it is in one table, and nothing is stored. Two nodes at once cannot
//! both take it, and a former leader that does not know that it is none has tickets that nobody
//! else has.
//!
//! The clocks of two nodes may be hours apart. So a node tells another one for how long a ticket
//! can still be used, and not until when.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::keys::CredentialHash;
use super::stored_ticket::{hash_in, key_of};
use super::ticket_table::{Ticket, TicketKind};
use crate::error::{Error, Result};
use crate::topic::TopicPattern;

/// What a node asks of the leader.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TicketQuestion {
    /// Keep a ticket.
    Keep { key: String, ticket: OnceForm },
    /// Give a ticket away, which is used by that.
    Take { key: String },
}

/// The form of a ticket for one use between nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OnceForm {
    caller: String,
    issued: Option<SystemTime>,
    /// For how long the ticket can be used, in milliseconds.
    life_ms: u64,
    expires: Option<SystemTime>,
    subscribe: Vec<TopicPattern>,
    publish: Vec<TopicPattern>,
    presence: Vec<TopicPattern>,
}

impl OnceForm {
    /// Returns the form of a ticket at `now`.
    pub(super) fn of(ticket: &Ticket, now: SystemTime) -> Self {
        let Ticket { kind: _, caller, issued, usable_until, expires, .. } = ticket.clone();
        let Ticket { subscribe, publish, presence, .. } = ticket.clone();
        let life = usable_until.duration_since(now).unwrap_or_default();
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let caller = caller.to_string();
        Self { caller, issued, life_ms, expires, subscribe, publish, presence }
    }

    /// Returns the ticket of this form, which came at `now`.
    pub(super) fn ticket(self, now: SystemTime) -> Ticket {
        let Self { caller, issued, life_ms, expires, subscribe, publish, presence } = self;
        let (kind, caller) = (TicketKind::Once, caller.into());
        let usable_until = now.checked_add(Duration::from_millis(life_ms)).unwrap_or(now);
        Ticket { kind, caller, issued, usable_until, expires, subscribe, publish, presence }
    }
}

impl TicketQuestion {
    /// Returns the question to keep a ticket, at `now`.
    pub(super) fn keep(hash: &CredentialHash, ticket: &Ticket, now: SystemTime) -> Self {
        Self::Keep { key: key_of(hash), ticket: OnceForm::of(ticket, now) }
    }

    /// Returns the question for a ticket.
    pub(super) fn take(hash: &CredentialHash) -> Self {
        Self::Take { key: key_of(hash) }
    }

    /// Returns the hash of the ticket's text.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub(super) fn hash(&self) -> Result<CredentialHash> {
        let (Self::Keep { key, .. } | Self::Take { key }) = self;
        hash_in(key).ok_or_else(|| Error::invalid("key", "is no hash of a ticket"))
    }
}

/// Returns the bytes of a question or an answer.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn to_bytes(form: &impl Serialize) -> Result<Bytes> {
    let invalid = |problem: serde_json::Error| Error::invalid("ticket", problem.to_string());
    serde_json::to_vec(form).map(Bytes::from).map_err(invalid)
}

/// Returns what the bytes of a question or an answer say.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn from_bytes<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|it| Error::invalid("ticket", it.to_string()))
}
