//! The parts of the interfaces that can be mounted alone.

use std::ops::BitOr;

/// Parts of the interfaces over HTTP and gRPC. `Parts::EVENTS | Parts::OPERATIONS` are both.
///
/// - Events: publishing, streams, pages, states, members, `GET` of topics, WebSocket;
///   `PublisherService` and `SubscriberService`.
/// - Administration: settings of topics, deletions, purges, maintenance; `AdminService`.
/// - Consumers: what the broker keeps for readers by name, their checkpoints, marks and counts;
///   `ConsumerService`. Only if the [`Edge`](super::Edge) has consumers.
/// - Operations: `/healthz`, `/readyz`, `/metrics`, `/v1/connections`; a server adds
///   `grpc.health.v1` and reflection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts(u8);

impl Parts {
    /// Publishing, following and reading.
    pub const EVENTS: Self = Self(1);
    /// Changes of topics, maintenance and backups.
    pub const ADMINISTRATION: Self = Self(2);
    /// Health, metrics and the list of connections.
    pub const OPERATIONS: Self = Self(4);
    /// Consumers: checkpoints, marks, counts and inboxes.
    pub const CONSUMERS: Self = Self(8);
    /// All parts, and the OpenAPI document that describes them.
    pub const ALL: Self = Self(15);

    /// Returns whether all of `parts` are among these.
    pub const fn has(self, parts: Self) -> bool {
        self.0 & parts.0 == parts.0
    }
}

impl Default for Parts {
    fn default() -> Self {
        Self::ALL
    }
}

impl BitOr for Parts {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
