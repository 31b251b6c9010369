//! The server: binds the sockets, serves every protocol on them, and stops in order. A host program
//! has its own routes, layers and services served beside the broker's (`builder.rs`).
//!
//! # Why
//!
//! Connections are accepted and served here, not by the servers of axum or tonic: one port has to
//! carry gRPC, HTTP/1.1 and h2c, and a stop has to end within a bound even if some streams are open
//! (tokio-rs/axum#2673, hyperium/hyper#2787).

mod activity;
mod answers;
mod builder;
#[cfg(feature = "tls")]
mod certificates;
mod checks;
mod config;
mod connection;
#[cfg(feature = "fleet")]
mod fleet;
mod guarded;
mod half_closed;
mod heads;
#[cfg(feature = "fleet")]
mod joining;
mod listener;
mod refusing;
mod requests;
mod running;
mod security;
mod services;
mod shutdown;
mod socket;
mod stalls;
mod stream;
#[cfg(feature = "tls")]
mod tls_socket;
mod transport;

pub use builder::ServerBuilder;
#[cfg(feature = "tls")]
pub use certificates::CertificateReload;
pub use checks::RouteLayer;
pub use config::ServerConfig;
pub use guarded::{GuardedClient, GuardedListener, GuardedSocket, HostGuard};
pub use listener::{Listener, Protocols};
pub use running::Server;
pub use shutdown::Shutdown;
