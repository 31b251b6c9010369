//! Consumers on every edge: which one a client names and may use, the forms of requests and
//! answers, and what streams tell of them.

#![doc = include_str!("../consumers.md")]

pub(in crate::edge) mod asking;
pub(in crate::edge) mod begun;
pub(in crate::edge) mod counting;
pub(in crate::edge) mod inboxes;
mod revision;
pub(in crate::edge) mod telling;
#[cfg(test)]
mod tests;

#[cfg(feature = "http")]
pub(in crate::edge) mod answers;
#[cfg(feature = "http")]
pub(in crate::edge) mod requests;

pub(in crate::edge) use self::revision::text as revision;
