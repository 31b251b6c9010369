//! Clients and proxies that others wrote, in front of the real binary while it is killed and started
//! again: what each client saw is what was acknowledged, gaps are told, nothing comes twice.
//!
//! The clients are of npm and PyPI, in the versions that `tests/clients` pins: `package.json` with
//! its lock file, and `requirements.txt`, which has Node, too. `tests/clients/install` puts them into
//! `target/clients`; their programs are in `tests/clients/node` and `tests/clients/python`. A test
//! that does not find them says that it is skipped, and why; it fails instead where
//! `REQUIRE_CLIENTS` is set, as `.ci/run` does.

mod client;
mod event_streams;
mod story;
mod web_sockets;
