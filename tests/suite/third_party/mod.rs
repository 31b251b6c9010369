//! Clients and proxies that others wrote, in front of the real binary while it is killed and
//! started again: what each client saw is what was acknowledged, gaps are told, nothing comes
//! twice.
//!
//! The clients are of npm and PyPI, in the versions that `tests/clients` pins: `package.json` with
//! its lock file, and `requirements.txt`, which has Node, too. `tests/clients/install` puts them
//! into `target/clients`; their programs are in `tests/clients/node` and `tests/clients/python`,
//! and `page.js` is for those in a browser. A test that does not find them says that it is skipped,
//! and why; it fails instead where `REQUIRE_CLIENTS` is set, as `.ci/run` does.
//!
//! The proxies have the configurations of `data/proxy`, but for addresses and the certificate. They
//! are looked for in the same way, and `REQUIRE_PROXIES` says that they must be there.

mod caches;
mod client;
mod cloudevents;
mod cuts;
mod event_streams;
mod grpc;
mod proxies;
mod proxy;
mod schema;
mod story;
mod web_sockets;
