//! Leftoff.
pub mod broker;
pub mod config;
pub mod cursor;
pub mod edge;
pub mod error;
pub mod event;
pub mod log;
pub mod server;
pub mod shutdown;
pub mod topic;
pub use broker::*;
pub use config::Config;
pub use error::{Error, Result};
pub use topic::TopicName;
