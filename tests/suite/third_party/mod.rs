//! Third-party clients and proxies in front of the real binary while it is killed and started
//! again: each client gets the acknowledged events, gaps are reported, and no event comes twice.
//!
//! The clients come from npm and PyPI, in the versions that `tests/clients` pins: `package.json`
//! with its lock file, and `requirements.txt`, which includes Node. `tests/clients/install`
//! installs them in `target/clients`. Their programs are in `tests/clients/node` and
//! `tests/clients/python`, and `page.js` is for the clients in a browser. A test without its
//! clients prints that it is skipped, and why. With `REQUIRE_CLIENTS` set, as in `.ci/run`, such a
//! test fails.
//!
//! The project's own client for browsers is here, too, in pages of a real browser behind nginx. The
//! program of these pages is `tests/web/page.js`.
//!
//! The proxies have the configurations of `data/proxy`, except for addresses and the certificate. A
//! test without its proxy is skipped, too, or fails with `REQUIRE_PROXIES` set.

mod caches;
mod client;
mod cloudevents;
mod cuts;
mod event_streams;
mod grpc;
mod own_client;
mod page;
mod page_faults;
mod page_tabs;
mod proxies;
pub(crate) mod proxy;
mod schema;
mod story;
mod web_sockets;
mod webhooks;
