//! The end of a WebSocket: its reason, and the code that the client is told.

use std::io;

use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::error::Error;

/// The close codes of the broker's own; the others are those of RFC 6455.
const EXPIRED: u16 = 4001;
pub(super) const ABUSIVE: u16 = 4029;
pub(super) const TOO_SLOW: u16 = 4108;
pub(super) const DRAINING: u16 = 4109;
pub(super) const UNANSWERED: u16 = 4110;
const ENDED: u16 = 4111;

/// The reason for which a connection ends.
pub(super) enum SessionEnd {
    /// The client closed it, or is gone.
    Gone,
    /// The client answered no ping for too long.
    Dead,
    /// The broker closes it, with this code and reason.
    Close(CloseCode, String),
}

impl SessionEnd {
    /// Returns the end of a connection whose caller's grant is over.
    pub(super) fn expired(error: &Error) -> Self {
        Self::Close(EXPIRED.into(), error.to_string())
    }

    /// Returns the end of a connection that an administrator has ended.
    pub(super) fn ended(retry_ms: u64) -> Self {
        let reason = format!("an administrator ended the connection; retry_ms={retry_ms}");
        Self::Close(ENDED.into(), reason)
    }

    /// Returns the end of a connection for whose bytes there is no room.
    pub(super) fn no_room() -> Self {
        Self::Close(CloseCode::Again, "the memory for clients has no room".to_owned())
    }
}

impl From<tungstenite::Error> for SessionEnd {
    fn from(error: tungstenite::Error) -> Self {
        let close = |code, error: &dyn std::fmt::Display| Self::Close(code, error.to_string());
        match &error {
            tungstenite::Error::Io(full) if full.kind() == io::ErrorKind::QuotaExceeded => {
                Self::no_room()
            }
            tungstenite::Error::Io(slow) if slow.kind() == io::ErrorKind::TimedOut => {
                match slow.get_ref() {
                    Some(message) => close(TOO_SLOW.into(), message),
                    None => close(TOO_SLOW.into(), &"the client takes no data"),
                }
            }
            tungstenite::Error::Capacity(_) => close(CloseCode::Size, &error),
            tungstenite::Error::Utf8(_) => close(CloseCode::Invalid, &error),
            tungstenite::Error::Protocol(_) => close(CloseCode::Protocol, &error),
            _ => Self::Gone,
        }
    }
}
