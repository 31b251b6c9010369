//! Access control: who a caller is, and what it may do. One implementation of the hooks that every
//! host has ([`Hooks`](crate::edge::hooks::Hooks)); the broker and its edges know nothing of it.
//!
//! ```text
//! request ─▶ credential ─┬▶ static key ──────┐
//!                        ├▶ token (JWT) ─────┤
//!                        ├▶ certificate ─────┼▶ identity ─▶ revoked? ─▶ Grant ─▶ the edges' Permit
//!                        ├▶ ticket ──────────┤   id, permission, end
//!                        └▶ none: anonymous ─┘
//! ```

// Keys of issuers are fetched, and certificates read, with TLS alone.
#![cfg_attr(
    not(feature = "tls"),
    allow(dead_code, unused_imports, reason = "their callers need TLS")
)]

mod audit;
#[cfg(feature = "tls")]
pub(crate) mod certificates;
mod claims;
mod config;
mod control;
mod credentials;
mod explain;
#[cfg(feature = "tls")]
mod fetching;
mod hooks;
mod identity;
mod issuers;
mod jwk;
mod jwks;
mod keys;
#[cfg(test)]
mod minting;
mod once_tickets;
mod prover;
mod refusal_limit;
mod remembered;
mod requests;
mod revocations;
mod revokers;
mod rights;
mod roles;
mod routes;
mod service;
mod shared_runs;
mod stored_ticket;
mod ticket_table;
mod tickets;
mod tokens;
mod validation;
mod verification;

pub use crate::secret::Secret;
pub use config::{
    AccessConfig, AccessMode, AnonymousConfig, IssuerConfig, KeyConfig, RoleConfig, TicketsConfig,
};
pub(crate) use control::AccessControl;
pub use explain::{Explanation, Presented, explain};
pub(crate) use service::GrpcAccess;
