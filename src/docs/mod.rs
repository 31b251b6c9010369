//! The reference, page by page: the files are read in the repository, and rustdoc shows the same.
//!
//! Only rustdoc compiles this module; a broker contains nothing of it.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("interfaces.md")]
pub mod interfaces {}

#[doc = include_str!("publishing.md")]
pub mod publishing {}

#[doc = include_str!("reading.md")]
pub mod reading {}

#[doc = include_str!("notifications.md")]
pub mod notifications {}

#[doc = include_str!("work_sharing.md")]
pub mod work_sharing {}

#[doc = include_str!("access.md")]
pub mod access {}

#[doc = include_str!("embedding.md")]
pub mod embedding {}

#[doc = include_str!("topics.md")]
pub mod topics {}

#[doc = include_str!("webhooks.md")]
pub mod webhooks {}

#[doc = include_str!("settings.md")]
pub mod settings {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("fleet.md")]
pub mod fleet {}

#[doc = include_str!("numbers.md")]
pub mod numbers {}

#[doc = include_str!("comparison.md")]
pub mod comparison {}
