//! A fleet of real nodes over real NATS servers.

mod broken_chain;
mod browsers;
mod clients;
mod faults;
#[allow(dead_code, reason = "tests of the library use the rest")]
mod nats_servers;
mod repairing;
mod serving;
mod small_fleet;
mod views;
