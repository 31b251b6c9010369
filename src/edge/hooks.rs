//! Hooks: how a host says who may do what with which topic, and sees each event. All edges ask the
//! same hooks, in the same places (`permit.rs`).
//!
//! ```text
//! request ─▶ connect ─▶ Grant: caller, permission, member, filter, until
//!              │                 │ settles most questions alone
//!              ▼                 ▼
//!           Refusal           allow, for topics that the permission leaves to be asked
//!                                │
//!            publish ─▶ intercept ─▶ order ─▶ acknowledged
//!            follow, read ─────────────────▶ delivered
//! ```

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts as RequestHead;
use http::{Extensions, HeaderMap, HeaderValue, Method, Uri};
use hyper::upgrade::OnUpgrade;

pub use super::acts::{ActKind, ActOutcome, AdminAct};
use super::clients::Peer;
use super::peer_address::PeerAddress;
pub use super::revoker::Revoker;
pub(crate) use super::revoker::WeakRevoker;
use crate::broker::{Ack, Filter, Run};
use crate::event::NewEvent;
use crate::permission::{Action, Permission};
use crate::topic::{TopicName, TopicPattern};

/// The header of an event that names who has published it. The broker sets it where a topic's
/// settings say so ([`TopicConfig::stamp_publisher`](crate::TopicConfig)), with the caller of the
/// grant; hooks may, in [`Hooks::intercept`]. An event of a publisher that has it already is
/// refused, on every edge and with or without hooks.
pub const PUBLISHER_HEADER: &str = "leftoff-publisher";

/// The longest reason of a refusal that a client is told, in bytes.
const MAX_REASON_BYTES: usize = 256;

/// The answer of a hook that may wait for others, such as a database.
pub type HookAnswer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// The decisions and observations of a host, for all edges alike.
///
/// A hook that panics ends the request or the WebSocket that it was asked about, and over HTTP/1.1
/// the request's connection. Nothing else ends. The hooks that are not asynchronous run on the
/// runtime's workers, or on a thread for long work, and must not block.
///
/// ```
/// use leftoff::edge::hooks::{Connecting, Grant, HookAnswer, Hooks, Refusal};
/// use leftoff::permission::{Action, Permission};
///
/// /// Callers with a key may publish orders and follow everything.
/// struct Keys;
///
/// impl Hooks for Keys {
///     fn connect<'a>(&'a self, request: &'a Connecting<'a>) -> HookAnswer<'a, Grant> {
///         Box::pin(async move {
///             match request.headers().get("x-key").map(|key| key.as_bytes()) {
///                 Some(b"secret") => {
///                     let permission = Permission::default()
///                         .with(Action::Publish, ["orders.>"])
///                         .and_then(|it| it.with(Action::Subscribe, [">"]))
///                         .map_err(|error| Refusal::denied(error.to_string()))?;
///                     Ok(Grant::new("orders-service", permission))
///                 }
///                 _ => Err(Refusal::unauthenticated("send a key in x-key")),
///             }
///         })
///     }
/// }
/// ```
pub trait Hooks: Send + Sync + 'static {
    /// Says who asks, and what the caller may do. Asked once for each request of HTTP, each call of
    /// gRPC and each WebSocket, before anything is done for it, and again when the grant is over,
    /// or the client of a WebSocket sends a new token. `/healthz`, `/readyz`, the OpenAPI document,
    /// `grpc.health.v1` and reflection are not asked for; but see [`Self::guards_readyz`].
    fn connect<'a>(&'a self, request: &'a Connecting<'a>) -> HookAnswer<'a, Grant>;

    /// Decides about a topic or a pattern for which the grant says
    /// [`Permitted::Ask`](crate::permission::Permitted::Ask). A pattern that is allowed is
    /// followed, and each topic that comes to match it is asked about before its first event is
    /// delivered. An answer holds as long as the grant; some are forgotten, and asked for again,
    /// when there are more than 1,024. By default refused.
    fn allow<'a>(&'a self, grant: &'a Grant, access: Access<'a>) -> HookAnswer<'a, ()> {
        let reason = format!("{} may not {access}", grant.caller());
        Box::pin(async move { Err(Refusal::denied(reason)) })
    }

    /// Whether a list of topics shows `topic` to a caller for whom
    /// [`Permitted::Ask`](crate::permission::Permitted::Ask) is granted. By default not.
    fn lists(&self, grant: &Grant, topic: &TopicName) -> bool {
        let _nothing_is_listed = (grant, topic);
        false
    }

    /// Whether `/readyz` is for callers alone to whom [`Self::connect`] grants anything. By default
    /// it is for everybody.
    fn guards_readyz(&self) -> bool {
        false
    }

    /// Changes an event, or refuses it, before it is ordered. Asked once for each event that is
    /// published over an edge, stored or ephemeral. The changed event must keep the limits.
    ///
    /// # Errors
    ///
    /// A refusal: nothing of the publish is stored.
    fn intercept(
        &self,
        grant: &Grant,
        topic: &TopicName,
        event: &mut NewEvent,
    ) -> Result<(), Refusal> {
        let _unchanged = (grant, topic, event);
        Ok(())
    }

    /// Told of each acknowledged publish of stored events, before the client is. A publish whose
    /// client is gone by then may be stored although this is not called.
    fn acknowledged(&self, grant: &Grant, topic: &TopicName, ack: &Ack) {
        let _unseen = (grant, topic, ack);
    }

    /// Told of events of a stream or a page that are about to be written to a client. Not told of
    /// ephemeral events, of the latest events of keys (`/state`, `ReadState`), of pages with the
    /// newest events first and of inboxes, of leases of shared work, and of backups.
    fn delivered(&self, grant: &Grant, run: &Run) {
        let _unseen = (grant, run);
    }

    /// Told of each refusal, with what is known of the request: also of a topic that a reader of
    /// many names in vain, but not of topics that a list or a pattern leaves out.
    fn refused(&self, context: &RefusalContext<'_>) {
        let _unseen = context;
    }

    /// Told of each act of administration that a caller was permitted to do, after it is done or
    /// has failed: changes of topics, purges, maintenance, backups.
    fn administered(&self, grant: &Grant, act: &AdminAct<'_>) {
        let _unseen = (grant, act);
    }
}

/// A refusal, with what is known of the request.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RefusalContext<'a> {
    /// The refusal.
    pub refusal: &'a Refusal,
    /// The caller's grant; `None` if the caller was refused as a whole.
    pub grant: Option<&'a Grant>,
    /// The address of the client; `None` in a server of the host's own without guards.
    pub address: Option<PeerAddress>,
    /// The path of the request, without its query; `None` if the caller was known already.
    pub path: Option<&'a str>,
}

/// The head of a request whose caller is to be found out.
#[derive(Clone)]
pub struct Connecting<'h> {
    /// Borrowed for as long as a request is answered; copied where it is kept.
    pub(super) head: Cow<'h, RequestHead>,
    pub(super) address: Option<PeerAddress>,
    pub(super) certificate: Option<Arc<[u8]>>,
    pub(super) is_renewal: bool,
}

impl fmt::Debug for Connecting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and query may hold credentials.
        f.debug_struct("Connecting")
            .field("method", &self.head.method)
            .field("path", &self.head.uri.path())
            .finish_non_exhaustive()
    }
}

impl Connecting<'_> {
    /// Returns a copy that can be kept: without the rest of the connection.
    pub(crate) fn owned(&self) -> Connecting<'static> {
        let mut head = self.head.clone().into_owned();
        head.extensions.remove::<OnUpgrade>();
        head.extensions.remove::<Peer>();
        let Self { address, certificate, is_renewal, .. } = self.clone();
        Connecting { head: Cow::Owned(head), address, certificate, is_renewal }
    }

    /// Copies the texts of the head. They are parts of the buffer from which the connection was
    /// read, and a head that is kept would keep all of that buffer: 16 KiB more for each WebSocket.
    pub(super) fn detach(&mut self) {
        let head = self.head.to_mut();
        for value in head.headers.values_mut() {
            let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
        if let Ok(copy) = Uri::try_from(head.uri.to_string()) {
            head.uri = copy;
        }
    }

    /// Returns the method; that of a gRPC call is `POST`.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// Returns the path and the query. That of a gRPC call is `/package.Service/Call`.
    pub fn uri(&self) -> &Uri {
        &self.head.uri
    }

    /// Returns the headers, or the metadata of a gRPC call.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Returns what the layers of the host have put beside the request.
    pub fn extensions(&self) -> &Extensions {
        &self.head.extensions
    }

    /// Returns the address of the client; `None` in a server of the host's own without guards.
    pub fn address(&self) -> Option<PeerAddress> {
        self.address
    }

    /// Returns the client's certificate in DER, without those of its issuers: it is verified, and
    /// the client has its key. `None` if the client showed none, without TLS, and in a server of
    /// the host's own.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Returns whether the caller was permitted before, and is asked about again: its grant is
    /// over, or it has sent a new token. The head is that of the same request. After a new token,
    /// the head has it as `Authorization: Bearer …`, and its cookies and the `ticket` and
    /// `access_token` of its query are gone.
    pub fn is_renewal(&self) -> bool {
        self.is_renewal
    }
}

/// A question about topics.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Access<'a> {
    /// The action that the caller wants to do.
    pub action: Action,
    /// The topics with which the caller wants to do it.
    pub topics: AccessTopics<'a>,
}

/// The topics of a question.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum AccessTopics<'a> {
    /// One topic.
    Topic(&'a TopicName),
    /// All topics that match a pattern, now and later.
    Pattern(&'a TopicPattern),
}

impl AccessTopics<'_> {
    /// Returns the name or the pattern as a text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Topic(topic) => topic.as_str(),
            Self::Pattern(pattern) => pattern.as_str(),
        }
    }
}

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.action.as_str(), self.topics.as_str())
    }
}

/// The rights that a caller is granted: its permission, and the bounds of it. Cheap to clone: hooks
/// that give the same grant to many connections let them share its memory.
#[derive(Debug, Clone)]
pub struct Grant(Arc<GrantParts>);

#[derive(Debug, Clone)]
struct GrantParts {
    caller: Arc<str>,
    permission: Permission,
    member: Option<Arc<str>>,
    filter: Filter,
    until: Option<SystemTime>,
    revoker: Option<Revoker>,
    is_final: bool,
    is_of_strangers: bool,
}

impl Grant {
    /// Grants `permission` to `caller`, whose id is shown in the list of connections and in log
    /// lines.
    pub fn new(caller: impl Into<Arc<str>>, permission: Permission) -> Self {
        Self(Arc::new(GrantParts {
            caller: caller.into(),
            permission,
            member: None,
            filter: Filter::default(),
            until: None,
            revoker: None,
            is_final: false,
            is_of_strangers: false,
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut GrantParts)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Sets the id under which the caller is present in topics. A client that names another id is
    /// refused. Without it, the client chooses its id.
    #[must_use]
    pub fn member(self, id: impl Into<Arc<str>>) -> Self {
        self.with(|it| it.member = Some(id.into()))
    }

    /// Adds a filter: the caller gets only events that it picks, whatever the client asks for.
    #[must_use]
    pub fn filter(self, filter: Filter) -> Self {
        self.with(|it| it.filter = filter)
    }

    /// Sets the end of the grant. What lives on then, such as a stream, is asked about again
    /// ([`Connecting::is_renewal`]), and ends if it is refused. A stream ends also if the new grant
    /// does not permit all that it reads, or has another filter or member.
    ///
    /// If a caller was proved by several things, give the earliest of their ends.
    #[must_use]
    pub fn until(self, end: SystemTime) -> Self {
        self.with(|it| it.until = Some(end))
    }

    /// Lets `revoker` end the grant, at any time: as if its end had come. Streams, WebSockets,
    /// waiting pages and uploads notice at once.
    #[must_use]
    pub fn revoked_by(self, revoker: Revoker) -> Self {
        self.with(|it| it.revoker = Some(revoker))
    }

    /// Makes the end of the grant final: the hooks are not asked again, and what lives on then
    /// ends. Without it, the head of the request is kept as long as the stream, to ask again.
    #[must_use]
    pub fn without_renewal(self) -> Self {
        self.with(|it| it.is_final = true)
    }

    /// Says that anybody may have the grant, such as whoever has no credential. What the broker
    /// keeps for a caller is for one caller: strangers read consumers, and set no checkpoint and
    /// no mark, and do no shared work.
    #[must_use]
    pub fn of_strangers(self) -> Self {
        self.with(|it| it.is_of_strangers = true)
    }

    /// Returns the id of the caller.
    pub fn caller(&self) -> &str {
        &self.0.caller
    }

    /// Returns the id of the caller, to be shared.
    pub(super) fn shared_caller(&self) -> Arc<str> {
        self.0.caller.clone()
    }

    /// Returns what the caller may do.
    pub fn permission(&self) -> &Permission {
        &self.0.permission
    }

    /// Returns the id under which the caller is present.
    pub fn member_id(&self) -> Option<&str> {
        self.0.member.as_deref()
    }

    /// Returns the filter on everything that the caller reads.
    pub fn read_filter(&self) -> &Filter {
        &self.0.filter
    }

    /// Returns the end of the grant.
    pub fn end(&self) -> Option<SystemTime> {
        self.0.until
    }

    /// Returns what ends the grant before its time.
    pub fn revoker(&self) -> Option<&Revoker> {
        self.0.revoker.as_ref()
    }

    /// Returns whether anybody may have the grant.
    pub fn is_of_strangers(&self) -> bool {
        self.0.is_of_strangers
    }

    /// Returns whether the hooks are not asked again at the end of the grant.
    pub fn is_final(&self) -> bool {
        self.0.is_final
    }

    /// Returns whether the grant is over at `now`: its end has come, or it is revoked.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.end().is_some_and(|end| end <= now) || self.revoker().is_some_and(Revoker::is_revoked)
    }

    /// Returns whether this is the same grant as `other`, and not merely an equal one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The refusal of a caller, or of an action. The client is told the reason, up to 256 bytes of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    is_unauthenticated: bool,
    reason: String,
}

impl Refusal {
    /// Refuses a caller that did not prove who it is: 401, `UNAUTHENTICATED`.
    pub fn unauthenticated(reason: impl Into<String>) -> Self {
        Self { is_unauthenticated: true, reason: cut(reason.into()) }
    }

    /// Refuses what a caller may not do: 403, `PERMISSION_DENIED`.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self { is_unauthenticated: false, reason: cut(reason.into()) }
    }

    /// Returns whether the caller did not prove who it is.
    pub fn is_unauthenticated(&self) -> bool {
        self.is_unauthenticated
    }

    /// Returns the reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

fn cut(mut reason: String) -> String {
    let is_boundary = |end: &usize| reason.is_char_boundary(*end);
    if reason.len() > MAX_REASON_BYTES {
        let end = (0..=MAX_REASON_BYTES).rev().find(is_boundary).unwrap_or_default();
        reason.truncate(end);
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_where_a_letter_ends() {
        let long = Refusal::denied(format!("a{}", "é".repeat(300)));
        assert_eq!(long.reason().len(), MAX_REASON_BYTES - 1);
        assert_eq!(Refusal::denied("short").reason(), "short");
    }
}
