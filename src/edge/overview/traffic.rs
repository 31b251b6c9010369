//! The counters of live readers, on all connections of a server.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::edge::counters::Counter;

/// The protocols of live readers, as the list of connections names them.
const PROTOCOLS: [&str; 5] = ["sse", "websocket", "grpc", "follow", "poll"];

/// The counters of live readers. A run of events is one addition, however many events it has.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// The events that readers got. Events of a run that have expired are counted, too.
    pub(in crate::edge) delivered: Counter,
    /// The gaps that readers were told.
    pub(in crate::edge) gaps: Counter,
    /// The connections that read now, by protocol, in the order of [`PROTOCOLS`].
    reading: [AtomicU64; PROTOCOLS.len()],
}

impl Traffic {
    /// Counts a connection that begins to read over `protocol`.
    pub(in crate::edge) fn begins(&self, protocol: &str) {
        if let Some(at) = place_of(protocol) {
            self.reading[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts that a connection reads over `protocol` no more.
    pub(in crate::edge) fn ends(&self, protocol: &str) {
        if let Some(at) = place_of(protocol) {
            self.reading[at].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Returns how many connections read now, by protocol.
    pub(super) fn by_protocol(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.reading.iter().map(|count| count.load(Ordering::Relaxed));
        PROTOCOLS.into_iter().zip(counts)
    }
}

fn place_of(protocol: &str) -> Option<usize> {
    PROTOCOLS.iter().position(|known| *known == protocol)
}
