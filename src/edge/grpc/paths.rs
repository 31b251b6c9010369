//! Paths of calls that are recognised before they are served.

/// The path of `PublishStream`.
pub(in crate::edge) const PUBLISH_STREAM: &str = "/leftoff.v1.PublisherService/PublishStream";
