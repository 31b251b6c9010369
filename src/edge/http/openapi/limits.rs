//! The limits that the document shows.

use crate::broker::LimitsConfig;
use crate::edge::config::FollowConfig;

/// The limits of this broker, which the document shows.
pub(super) struct Limits<'a> {
    pub(super) publish: &'a LimitsConfig,
    pub(super) follow: &'a FollowConfig,
    /// Whether there are tickets and revocations.
    pub(super) has_access: bool,
    /// Whether there are consumers.
    pub(super) has_consumers: bool,
    /// Whether there are webhooks.
    pub(super) has_webhooks: bool,
}
