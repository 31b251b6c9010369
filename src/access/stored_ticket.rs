//! The form in which a ticket for streams is stored: an event with the hash of the ticket as its
//! key.
//!
//! ```text
//! key: 43 characters of base64url, the SHA-256 of the ticket's text
//! payload: {"caller":"user-42","issued":"2026-…Z","expires":"2026-…Z","subscribe":["news.>"],
//!           "presence":["news.>"]}
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::keys::CredentialHash;
use super::ticket_table::{Ticket, TicketKind};
use crate::event::Timestamp;
use crate::topic::TopicPattern;

/// The payload of the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredTicket {
    caller: String,
    /// When the credential was issued that the ticket was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issued: Option<Timestamp>,
    /// The end of the ticket, and of what is opened with it.
    expires: Timestamp,
    subscribe: Vec<TopicPattern>,
    #[serde(default)]
    presence: Vec<TopicPattern>,
}

impl From<&Ticket> for StoredTicket {
    fn from(ticket: &Ticket) -> Self {
        Self {
            caller: ticket.caller.to_string(),
            issued: ticket.issued.map(Timestamp::from),
            expires: ticket.usable_until.into(),
            subscribe: ticket.subscribe.clone(),
            presence: ticket.presence.clone(),
        }
    }
}

impl From<StoredTicket> for Ticket {
    /// Returns a ticket that publishes nothing, whatever the event says.
    fn from(stored: StoredTicket) -> Self {
        let StoredTicket { caller, issued, expires, subscribe, presence } = stored;
        Self {
            kind: TicketKind::Stream,
            caller: caller.into(),
            issued: issued.map(Into::into),
            usable_until: expires.into(),
            expires: Some(expires.into()),
            subscribe,
            publish: Vec::new(),
            presence,
        }
    }
}

/// Returns the key of the event of a ticket with this hash.
pub(super) fn key_of(hash: &CredentialHash) -> String {
    URL_SAFE_NO_PAD.encode(hash)
}

/// Returns the hash in a key; `None` if it holds none.
pub(super) fn hash_in(key: &str) -> Option<CredentialHash> {
    URL_SAFE_NO_PAD.decode(key).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::keys::hash_of;
    use super::*;

    /// Goal: a ticket that a version has stored is read by the next one.
    #[test]
    fn the_stored_form_is_this_and_does_not_hold_the_ticket() {
        let text = "{\"caller\":\"u\",\"issued\":\"2027-01-15T08:00:00.000Z\",\"expires\":\
                    \"2027-01-15T09:00:00.000Z\",\"subscribe\":[\"news.>\"],\"presence\":[]}";
        let stored: StoredTicket = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&stored).unwrap(), text);
        let ticket = Ticket::from(stored.clone());
        assert_eq!(StoredTicket::from(&ticket), stored);
        assert_eq!((ticket.kind, ticket.publish.len()), (TicketKind::Stream, 0));
        assert_eq!(ticket.expires, Some(ticket.usable_until));
        let hash = hash_of("lot_x");
        assert_eq!(hash_in(&key_of(&hash)), Some(hash));
        assert_eq!(hash_in("lot_x"), None);
    }
}
