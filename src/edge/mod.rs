//! Protocol edges: they translate and refuse, and decide nothing.
//!
//! Every edge promises the same:
//!
//! - A bad request changes nothing, and is answered with the name, the value and the limit.
//! - An error has one meaning on all protocols: `status.rs` is the one map from errors to codes.
//! - A reader gets the same events, cursors and gaps: every edge reads through the one [`Reader`],
//!   of one topic or of many.
//! - A client holds a bounded amount of memory, and is disconnected when it is too slow.
//!
//! # How to add a transport
//!
//! 1. **Mount.** Everything is made from an [`Edge`] (`mounting.rs`): the broker, the settings, the
//!    hooks and the counters. A route of HTTP: in `http/mod.rs`, in one of its [`Parts`], with its
//!    operation in `http/openapi/operations.rs`. A service of gRPC: in `grpc/mod.rs`. A protocol
//!    inside of HTTP, as gRPC is: routes beside those of gRPC in `server/builder.rs`. For all of
//!    them, the server or the host's `HostGuard` puts a `Peer` into the extensions of each request:
//!    the client's address, rates and memory. Origin and host (`origins.rs`) and the rates of
//!    requests (`rates/layer.rs`) are checked before the route.
//!
//!    A protocol of its own on the port, such as MQTT: the server has to recognise it. Add it to
//!    `Protocol` in `server/socket.rs`, which tells protocols apart by their first bytes, and serve
//!    it in `server/connection.rs`, which makes the `Peer`. No layer of HTTP checks anything for
//!    such a protocol, so it takes from the rates of its `Peer` itself.
//! 2. **Ask.** Every caller has a `Permit` (`permit.rs`), with or without hooks. `Permit::ask` says
//!    who the caller is, before the body is read. `Permit::check` says whether it may do a thing
//!    with a topic, `check_administers` whether it may do one with the whole broker, and `listed`
//!    which topics a list shows; `selection.rs` checks the topics of readers by itself. Ask about a
//!    stream of publishes again for each publish: the grant may be over. Add the transport's
//!    operations to `tests/suite/hooks/matrix.rs`, which fails for an operation without a rule.
//! 3. **Select.** `selection.rs` has topics, start, filter and member for all protocols, and opens
//!    the reader. `cursor.rs` alone parses cursors and the starts in `from`. Before that,
//!    `http/asked.rs` prepares the id in `Last-Event-ID`: on a stream it takes the last of several
//!    ids, without its quotes, and on streams and pages it knows the words `earliest` and `latest`.
//! 4. **Count.** Take the memory that the client holds from its share (`budget.rs`) before the
//!    bytes are allocated: patterns, an incomplete message, an answer that waits. Dropping the
//!    `Held` gives the memory back.
//! 5. **Follow.** Open a `Following` (`following.rs`), and loop over its `next`: events, gap,
//!    caught up, ephemeral event, silence, stopping. Write one delivery before the next is read:
//!    the memory of a client that takes nothing depends on that (`src/docs/architecture.md`, "The
//!    memory of a slow client"). On silence, send the cursor if it moved. On stopping, wait for
//!    `turn_to_end`, and tell the client when to come back. `Following` and `PermittedPage` tell
//!    the hooks of what is delivered, and end the stream with its grant, at once: give the client
//!    the cursor of `told` then. Tell also what is `left_out`. A connection that outlives its
//!    messages asks with `Permit::ask_refreshable`, and takes new tokens with `refresh`.
//!    Where one client has many subscriptions at once, `subscriptions/` opens them, waits for them,
//!    and makes the messages of all of them.
//! 6. **Write.** The wire forms of a block are built once and shared: `Run::encoded` with a slot of
//!    `forms.rs`; a new form takes a new slot, and `broker/tail/form.rs` has the number of slots.
//!    JSON of events is in `json.rs`, of CloudEvents in `cloudevents/`.
//! 7. **Refuse.** Return [`Error`]; `status.rs` has its codes. Tell gaps with all their numbers.
//! 8. **Publish.** `publishing.rs` has the topics of a publish, one or a list, and its way from
//!    there to the acknowledgement. `receiving.rs` counts the bytes that are not submitted yet, and
//!    has the hooks change or refuse each event (`Permit::intercept`) before it is checked. A
//!    transport that waits for acknowledgements itself tells `Permit::acknowledged` of each.
//!    Long work on a body goes through `effort.rs`, away from the runtime's workers.
//! 9. **Prove.** Add the transport to `tests/suite/ways.rs` and to the soak's transports: these
//!    test every promise to readers on the new transport, too.
//! 10. **Configure.** If the transport has settings, give it a section: `config.rs` says where its
//!     parts go. Its crates are optional dependencies in `Cargo.toml`, of the feature `http` or
//!     `grpc`, or of a cargo feature of its own.
//! 11. **Describe.** Write a page for its clients, as `sse.md` is one, link it from the README, and
//!     add the transport to `src/docs/interfaces.md` and `src/docs/reading.md`.
//!
//! [`Error`]: crate::Error
//! [`Reader`]: crate::broker::Reader

mod acts;
pub(crate) mod bounds;
pub(crate) mod budget;
mod checked_body;
pub(crate) mod clients;
pub(crate) mod cloudevents;
mod config;
pub(crate) mod consumers;
pub(crate) mod counters;
mod cut_topics;
#[cfg(test)]
#[cfg(feature = "http")]
mod disk_turns;
mod effort;
mod error_form;
#[cfg(feature = "http")]
mod event_lines;
pub(crate) mod fleet;
mod following;
#[cfg(feature = "http")]
mod forms;
mod frames;
#[cfg(all(any(test, fuzzing), feature = "http"))]
pub(crate) mod fuzzing;
mod gaps;
mod granted;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod hooks;
#[cfg(feature = "http")]
pub mod http;
pub(crate) mod intake;
#[cfg(feature = "http")]
pub mod json;
pub(crate) mod json_problem;
mod media;
pub(crate) mod mounting;
#[cfg(feature = "http")]
pub mod ndjson;
mod new_token;
mod object;
#[cfg(feature = "server")]
pub(crate) mod origins;
pub(crate) mod overview;
pub(crate) mod pace;
mod page_token;
mod parts;
mod peer_address;
pub(crate) mod permit;
mod permitted_page;
mod placed_hooks;
pub mod proto;
mod publishing;
pub(crate) mod rates;
pub(crate) mod receiving;
#[cfg(feature = "server")]
pub(crate) mod refused;
mod revoker;
mod selection;
#[cfg(feature = "http")]
mod selection_forms;
#[cfg(feature = "grpc")]
pub mod served;
#[cfg(feature = "http")]
mod sse;
mod stamp;
pub(crate) mod status;
#[cfg(feature = "http")]
mod subscriptions;
pub(crate) mod upgrades;
#[cfg(feature = "http")]
mod websocket;
mod wire;
mod work;

pub use config::FollowConfig;
pub use mounting::Edge;
pub use parts::Parts;
pub use peer_address::PeerAddress;
pub use rates::RatesConfig;
