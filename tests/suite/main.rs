//! One file per promise. Everything goes through real sockets, the real binary or the public API.

#![allow(clippy::unwrap_used, reason = "what a test unwraps is what it asserts")]

mod backup;
mod bounds;
mod browser;
mod changes_while_open;
mod cli;
mod clients;
mod cloudevents;
mod common;
mod compaction;
mod conditions;
mod crashes;
mod damage;
mod dedup;
mod disk;
mod dropped_ids;
mod durability;
mod ephemeral;
mod everywhere;
mod feeds;
mod flips;
mod forgetful;
mod full_disk;
mod gaps;
mod grpc;
mod http;
mod idle;
mod in_order;
mod memory_order;
mod model;
mod names;
mod positions;
mod power;
mod reads;
mod real_input;
mod shutdown;
mod small_bounds;
mod soak;
mod sse;
mod storage_failure;
mod tidy;
mod topics;
mod ways;
mod webdriver;
mod websocket;
