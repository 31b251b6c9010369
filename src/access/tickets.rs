//! Tickets: short random texts for `?ticket=`, where a browser cannot send a header. A ticket
//! stands for the caller who asked for it, with the caller's permission or a part of it.
//!
//! | kind | opens | can be used | survives a restart |
//! |---|---|---|---|
//! | `once` | a WebSocket, which may live as long as the credential | once, for 30 seconds | no |
//! | `stream` | reads of events by `GET`, such as an `EventSource` | until it is over | yes |
//!
//! # The risk
//!
//! A URL ends up in logs of proxies and in histories. Whoever finds a ticket `once` there finds it
//! used. Whoever finds one of kind `stream` can read its topics until it is over, and nothing else:
//! so it is bound to topics, ends with the credential at the latest, and is refused once the caller
//! is revoked.
//!
//! # The topic
//!
//! An `EventSource` comes back to the same URL after a restart of the broker. So the tickets of
//! kind `stream` are events of [`TOPIC`]: the key is the SHA-256 of the ticket, and the event
//! expires with the ticket. In a fleet, each node has them by that; those `once` are with the
//! leader (`once_tickets.rs`). A node to which an unknown one is brought first applies all that the
//! fleet has stored. The text of a ticket is nowhere but in the answer.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, header};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{error, warn};

use super::config::TicketsConfig;
use super::identity::{CallerIdentity, Proof, Proved};
use super::keys::{CredentialHash, hash_of};
use super::once_tickets::{OnceForm, TicketQuestion, from_bytes, to_bytes};
use super::revocations::Revocations;
use super::rights::MAX_PATTERNS;
use super::shared_runs::SharedRuns;
use super::stored_ticket::{StoredTicket, hash_in, key_of};
use super::ticket_table::{Ticket, TicketBounds, TicketKind, TicketTable};
use crate::broker::{Answerer, Broker, EventRef, Publish};
use crate::edge::hooks::{Connecting, Refusal};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::lists;
use crate::own_topics::{self, FollowedTopic};
use crate::permission::{Action, Permission, Permitted};
use crate::polls;
use crate::topic::{TopicName, TopicPattern};

/// The name of the topic with the tickets for streams.
const TOPIC: &str = "$tickets";

/// The kind of the questions that nodes of a fleet ask the leader.
const QUESTIONS: &str = "tickets";

/// The type of its events.
const EVENT_TYPE: &str = "access.ticket";

/// The most questions of a kind that the leader answers this node at once, and the longest wait for
/// the turn of one, and for its answer: whoever brings tickets that nobody has made must not keep
/// the leader from its work.
const MAX_QUESTIONS: usize = 64;
const MAX_ANSWER: Duration = Duration::from_secs(5);

/// The longest wait for this node to apply the tickets that the fleet has stored.
const MAX_BEHIND: Duration = Duration::from_secs(2);

/// The beginning of every ticket, by which it is found where it leaked.
pub(super) const TICKET_PREFIX: &str = "lot_";

/// The random bytes of a ticket.
const TICKET_BYTES: usize = 24;

/// The paths on which a ticket opens a WebSocket.
const WEB_SOCKET_PATH: &str = "/v1/ws";

/// The one answer to a ticket that is not good, so that a used one and one that never was look
/// alike.
const NOT_GOOD: &str = "the ticket is not known, used, over or revoked, or is not for this \
                        request: one of kind once opens a WebSocket, one of kind stream reads \
                        events by GET";

/// A request for a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TicketRequest {
    /// The kind: `once` or `stream`.
    pub(crate) kind: TicketKind,
    /// The topics to follow and read, and to be present in. Default: all that the caller may, and
    /// none if `publish` is given.
    pub(crate) subscribe: Option<Vec<TopicPattern>>,
    /// The topics to publish to. Default: all that the caller may, and none if `subscribe` is
    /// given.
    pub(crate) publish: Option<Vec<TopicPattern>>,
    /// The life of the ticket, in seconds. A longer one than may be is cut down.
    pub(crate) expires_s: Option<u64>,
}

/// A ticket that was made. Its text is here alone.
#[derive(Clone, Serialize)]
pub(crate) struct IssuedTicket {
    pub(crate) ticket: String,
    pub(crate) kind: TicketKind,
    /// The time from which the ticket cannot be used.
    pub(crate) expires: Timestamp,
    /// The topics that the ticket is for.
    pub(crate) subscribe: Vec<TopicPattern>,
    pub(crate) publish: Vec<TopicPattern>,
}

impl fmt::Debug for IssuedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedTicket").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The use that a request makes of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TicketUse {
    /// It opens a WebSocket.
    WebSocket,
    /// It reads events.
    Read,
    /// Anything else: no ticket is for it.
    Other,
}

impl TicketUse {
    /// Returns the use that a request makes.
    pub(super) fn of(request: &Connecting<'_>) -> Self {
        let (method, path) = (request.method(), request.uri().path());
        let is_get = [Method::GET, Method::HEAD].contains(method);
        let topic = path.strip_prefix("/v1/topics/").and_then(|rest| rest.split_once('/'));
        let reads = path == "/v1/events" || topic.is_some_and(|(_, of)| of == "events");
        let upgrade = request.headers().get(header::UPGRADE).map(|it| it.as_bytes());
        let is_upgrade = upgrade.is_some_and(|it| it.eq_ignore_ascii_case(b"websocket"));
        match path {
            WEB_SOCKET_PATH if is_get && is_upgrade || method == Method::CONNECT => Self::WebSocket,
            _ if is_get && reads => Self::Read,
            _ => Self::Other,
        }
    }

    fn takes(self, kind: TicketKind) -> bool {
        match kind {
            TicketKind::Once => self == Self::WebSocket,
            TicketKind::Stream => self == Self::Read,
        }
    }
}

/// The tickets. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Tickets(Arc<TicketParts>);

#[derive(Debug)]
struct TicketParts {
    config: TicketsConfig,
    broker: Broker,
    topic: TopicName,
    revocations: Revocations,
    table: Mutex<TicketTable>,
    /// The task that applies what comes to the topic.
    follower: OnceLock<FollowedTopic>,
    /// The questions that may be asked of the leader at once: to keep a ticket, and to take one,
    /// which anybody can have asked.
    keeping: Semaphore,
    taking: Semaphore,
    /// The waits for what the fleet has stored. One is for all who wait, whatever tickets they
    /// bring.
    catching_up: SharedRuns,
}

impl Tickets {
    /// Opens the tickets that are stored, and follows their topic from then on.
    ///
    /// # Errors
    ///
    /// As [`Broker::set_topic`] and [`Broker::subscribe`].
    ///
    /// # Cancel safety
    ///
    /// The topic may exist afterwards.
    pub(crate) async fn open(
        config: &TicketsConfig,
        broker: &Broker,
        revocations: &Revocations,
    ) -> Result<Self> {
        let topic = own_topics::prepare(broker, TOPIC, own_topics::keyed()).await?;
        let number = |most: u64| usize::try_from(most).unwrap_or(usize::MAX);
        let bounds = TicketBounds {
            in_all: number(config.max_tickets),
            per_caller: number(config.max_tickets_per_caller),
        };
        let parts = Arc::new(TicketParts {
            config: config.clone(),
            broker: broker.clone(),
            topic,
            revocations: revocations.clone(),
            table: Mutex::new(TicketTable::new(bounds)),
            follower: OnceLock::new(),
            keeping: Semaphore::new(MAX_QUESTIONS),
            taking: Semaphore::new(MAX_QUESTIONS),
            catching_up: SharedRuns::default(),
        });
        let weak = Arc::downgrade(&parts);
        let apply = move |event: &EventRef<'_>| {
            if let Some(parts) = weak.upgrade() {
                parts.apply_stored(event, SystemTime::now());
            }
        };
        let follower = own_topics::follow(broker, &parts.topic, apply).await?;
        let _first = parts.follower.set(follower);
        let weak = Arc::downgrade(&parts);
        let answerer: Answerer = Arc::new(move |question| {
            let answer = match weak.upgrade() {
                Some(parts) => parts.answer(&question, SystemTime::now()),
                None => Err(Error::ShuttingDown),
            };
            Box::pin(std::future::ready(answer))
        });
        broker.answer_questions(QUESTIONS, answerer);
        Ok(Self(parts))
    }

    /// Makes a ticket for a caller. One of kind `stream` is durable when this returns.
    ///
    /// # Errors
    ///
    /// No ticket was made then. [`Error::Unauthenticated`], [`Error::Denied`]: the caller has no
    /// credential, has a ticket itself, or has none of the permissions. [`Error::Invalid`],
    /// [`Error::OverLimit`]: the request breaks a rule. [`Error::Full`]: there are too many. As
    /// [`Broker::publish`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, there may be a ticket whose text nobody knows.
    pub(crate) async fn issue(
        &self,
        caller: &CallerIdentity,
        request: &TicketRequest,
        now: SystemTime,
    ) -> Result<IssuedTicket> {
        let parts = &self.0;
        let ticket = parts.made(caller, request, now).await?;
        let text = format!("{TICKET_PREFIX}{}", URL_SAFE_NO_PAD.encode(random()));
        let hash = hash_of(&text);
        if ticket.kind == TicketKind::Once && !parts.broker.leads() {
            parts.ask_leader(&TicketQuestion::keep(&hash, &ticket, now)).await?;
        } else {
            parts.table().insert(hash, ticket.clone(), now)?;
        }
        if ticket.kind == TicketKind::Stream
            && let Err(error) = parts.store(&hash, &ticket, now).await
        {
            parts.table().remove(&hash);
            return Err(error);
        }
        let Ticket { kind, usable_until, subscribe, publish, .. } = ticket;
        Ok(IssuedTicket { ticket: text, kind, expires: usable_until.into(), subscribe, publish })
    }

    /// Has the ticket here if it is anywhere in the fleet. Takes one for one use from the node that
    /// leads: the node to which it is brought has it from then on. Waits for one for streams that
    /// is stored and not applied here yet. Call this before [`Self::redeem`].
    pub(super) async fn fetch(&self, ticket: &str, purpose: TicketUse, now: SystemTime) {
        let (parts, hash) = (&self.0, hash_of(ticket));
        let may_be_missing = match purpose {
            TicketUse::WebSocket => !parts.broker.leads(),
            // The leader, too, applies what others have made a moment after it is stored.
            TicketUse::Read => !parts.broker.is_alone(),
            TicketUse::Other => false,
        };
        if !may_be_missing || parts.table().has(&hash) {
            return;
        }
        if purpose == TicketUse::Read {
            if let Err(error) = parts.catch_up().await {
                warn!(%error, "tickets of other nodes may be missing here");
            }
            return;
        }
        let answer = parts.ask_leader(&TicketQuestion::take(&hash)).await;
        match answer.and_then(|answer| from_bytes::<Option<OnceForm>>(&answer)) {
            Ok(Some(ticket)) => {
                if let Err(error) = parts.table().insert(hash, ticket.ticket(now), now) {
                    warn!(%error, "there is no room for a ticket of another node");
                }
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "the leader cannot be asked for a ticket"),
        }
    }

    /// Returns what a ticket proves, and uses it up if it is for one use.
    ///
    /// # Errors
    ///
    /// A refusal, which is the same whatever is wrong with the ticket.
    pub(super) fn redeem(
        &self,
        ticket: &str,
        purpose: TicketUse,
        now: SystemTime,
    ) -> Result<Proved, Refusal> {
        let (parts, hash) = (&self.0, hash_of(ticket));
        let found = parts.table().take(&hash, now, |found| purpose.takes(found.kind));
        let ticket = found.ok_or_else(|| Refusal::unauthenticated(NOT_GOOD))?;
        if parts.revocations.is_revoked(&ticket.caller, ticket.issued) {
            parts.table().remove(&hash);
            return Err(Refusal::unauthenticated(NOT_GOOD));
        }
        let patterns = Permitted::Patterns;
        let permission = Permission::default()
            .permitting(Action::Subscribe, patterns(ticket.subscribe))
            .permitting(Action::Presence, patterns(ticket.presence))
            .permitting(Action::Publish, patterns(ticket.publish));
        Ok(Proved {
            id: ticket.caller,
            proof: Proof::Ticket,
            issued: ticket.issued,
            expires: ticket.expires,
            permission,
            key: None,
        })
    }

    /// Forgets the tickets of a caller that were made with revoked credentials. They are refused
    /// without this, too; but they take room.
    pub(crate) fn forget_revoked(&self, caller: &str) {
        let parts = &self.0;
        let is_over = |it: &Ticket| parts.revocations.is_revoked(caller, it.issued);
        parts.table().remove_of(caller, is_over);
    }
}

/// Returns the bytes of a new ticket.
fn random() -> [u8; TICKET_BYTES] {
    rand::random()
}

impl TicketParts {
    fn table(&self) -> MutexGuard<'_, TicketTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the ticket that a caller gets for a request.
    async fn made(
        &self,
        caller: &CallerIdentity,
        request: &TicketRequest,
        now: SystemTime,
    ) -> Result<Ticket> {
        match caller.proof {
            Proof::Anonymous => {
                let reason = "a ticket is for callers with a credential: send a key or a token";
                return Err(Error::Unauthenticated { reason: reason.to_owned() });
            }
            Proof::Ticket => {
                let reason = "a ticket makes no other ticket".to_owned();
                return Err(Error::Denied { reason });
            }
            Proof::Key | Proof::Token { .. } | Proof::Certificate => {}
        }
        let usable_until = self.end(caller, request, now)?;
        let (subscribe, publish) = cut_down(caller, request).await?;
        let may = caller.grant.permission();
        let presence = parts_of(may.of(Action::Presence), &subscribe).await?;
        let expires = match request.kind {
            TicketKind::Once => caller.expires,
            TicketKind::Stream => Some(usable_until),
        };
        let (kind, caller, issued) = (request.kind, caller.id.clone(), caller.issued);
        Ok(Ticket { kind, caller, issued, usable_until, expires, subscribe, publish, presence })
    }

    /// Returns the time from which a new ticket cannot be used.
    fn end(
        &self,
        caller: &CallerIdentity,
        request: &TicketRequest,
        now: SystemTime,
    ) -> Result<SystemTime> {
        let longest_s = match request.kind {
            TicketKind::Once => self.config.once_s,
            TicketKind::Stream => self.config.stream_s,
        };
        if request.expires_s == Some(0) {
            return Err(Error::invalid("expires_s", "is 0; 1 is the least"));
        }
        let life_s = request.expires_s.map_or(longest_s, |wanted_s| wanted_s.min(longest_s));
        let end = now.checked_add(Duration::from_secs(life_s));
        let end = end.ok_or_else(|| Error::invalid("expires_s", "is after the end of time"))?;
        Ok(caller.expires.map_or(end, |credential| credential.min(end)))
    }

    /// Asks the leader, when it is the turn of the question.
    ///
    /// # Errors
    ///
    /// [`Error::Crowded`]: its turn has not come in time, and nothing was asked.
    /// [`Error::DeadlineExceeded`]. As [`Broker::ask_leader`].
    async fn ask_leader(&self, question: &TicketQuestion) -> Result<Bytes> {
        let turns = match question {
            TicketQuestion::Keep { .. } => &self.keeping,
            TicketQuestion::Take { .. } => &self.taking,
        };
        let question = to_bytes(question)?;
        let crowded = |_| Error::crowded("answers about tickets", MAX_QUESTIONS as u64);
        let turn = timeout(MAX_ANSWER, turns.acquire()).await.map_err(crowded)?;
        let _turn = turn.map_err(|_closed| Error::ShuttingDown)?;
        // A ticket for one use is taken by the question: the answer has its time for itself.
        in_time(self.broker.ask_leader(QUESTIONS, question)).await
    }

    /// Waits until all tickets are applied that the fleet has stored by now.
    async fn catch_up(&self) -> Result<()> {
        match self.follower.get() {
            Some(follower) => {
                let catching_up =
                    async { follower.catch_up(&self.broker, MAX_BEHIND).await.map(drop) };
                in_time(self.catching_up.run(catching_up)).await
            }
            None => Ok(()),
        }
    }

    /// Answers another node of the fleet.
    fn answer(&self, question: &[u8], now: SystemTime) -> Result<Bytes> {
        let question: TicketQuestion = from_bytes(question)?;
        let hash = question.hash()?;
        match question {
            TicketQuestion::Keep { ticket, .. } => {
                self.table().insert(hash, ticket.ticket(now), now)?;
                Ok(Bytes::new())
            }
            TicketQuestion::Take { .. } => {
                let taken = self.table().take(&hash, now, |it| it.kind == TicketKind::Once);
                to_bytes(&taken.map(|taken| OnceForm::of(&taken, now)))
            }
        }
    }

    /// Stores a ticket until it is over.
    async fn store(&self, hash: &CredentialHash, ticket: &Ticket, now: SystemTime) -> Result<()> {
        let life = ticket.usable_until.duration_since(now).unwrap_or_default();
        let event = NewEvent::json(&StoredTicket::from(ticket))?
            .with_key(key_of(hash))
            .with_type(EVENT_TYPE)
            .with_ttl(life.max(Duration::from_millis(1)));
        own_topics::open(&self.broker, TOPIC, own_topics::keyed()).await?;
        self.broker.publish(Publish::one(self.topic.clone(), event)).await.map(drop)
    }

    /// Applies an event of the topic: a ticket, or the end of one. What is neither is passed over.
    fn apply_stored(&self, event: &EventRef<'_>, now: SystemTime) {
        let Some(hash) = hash_in(event.key) else { return };
        if event.payload.is_empty() {
            self.table().remove(&hash);
            return;
        }
        let ticket = match serde_json::from_slice::<StoredTicket>(event.payload) {
            Ok(stored) => Ticket::from(stored),
            Err(problem) => {
                error!(sequence = %event.sequence, %problem, "an event is no ticket");
                let problem = format!("event {} is no ticket: {problem}", event.sequence);
                return self.broker.note_unread(&self.topic, Some(problem));
            }
        };
        let is_revoked = self.revocations.is_revoked(&ticket.caller, ticket.issued);
        if is_revoked || ticket.usable_until <= now {
            return;
        }
        if let Err(error) = self.table().insert(hash, ticket, now) {
            warn!(%error, "a stored ticket is not taken over");
        }
    }
}

/// Waits for an answer for a bounded time.
///
/// # Errors
///
/// [`Error::DeadlineExceeded`]. As `asking`.
async fn in_time<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    let limit_ms = MAX_ANSWER.as_millis() as u64;
    timeout(MAX_ANSWER, asking).await.unwrap_or(Err(Error::DeadlineExceeded { limit_ms }))
}

/// Returns the topics that a ticket is for, to subscribe and to publish: those of the request that
/// the caller may do it with.
async fn cut_down(
    caller: &CallerIdentity,
    request: &TicketRequest,
) -> Result<(Vec<TopicPattern>, Vec<TopicPattern>)> {
    let TicketRequest { kind, subscribe, publish, .. } = request;
    if *kind == TicketKind::Stream {
        if subscribe.as_ref().is_none_or(Vec::is_empty) {
            let problem = "is missing: a ticket of kind stream is bound to topics";
            return Err(Error::invalid("subscribe", problem));
        }
        if publish.is_some() {
            let problem = "is not for a ticket of kind stream, which only reads";
            return Err(Error::invalid("publish", problem));
        }
    }
    if subscribe.is_none() && publish.is_none() {
        let whole = |action| whole(caller.grant.permission().of(action));
        return Ok((whole(Action::Subscribe)?, whole(Action::Publish)?));
    }
    let asked = |action, asked| asked_of(caller, action, asked);
    let subscribe = asked(Action::Subscribe, subscribe.as_deref().unwrap_or_default()).await?;
    Ok((subscribe, asked(Action::Publish, publish.as_deref().unwrap_or_default()).await?))
}

/// Returns all that is permitted.
fn whole(permitted: &Permitted) -> Result<Vec<TopicPattern>> {
    let patterns = match permitted {
        Permitted::Patterns(patterns) => patterns.clone(),
        _ => permitted.part_of(&TopicPattern::new(">")?),
    };
    lists::check("patterns of a ticket", patterns.len(), MAX_PATTERNS)?;
    Ok(patterns)
}

/// Returns the parts of the patterns that the caller may do `action` with: at least one, if any is
/// asked for.
async fn asked_of(
    caller: &CallerIdentity,
    action: Action,
    asked: &[TopicPattern],
) -> Result<Vec<TopicPattern>> {
    lists::check("patterns of a ticket", asked.len(), MAX_PATTERNS)?;
    let parts = parts_of(caller.grant.permission().of(action), asked).await?;
    match asked.first() {
        Some(first) if parts.is_empty() => {
            let what = format!("{} {:?}", action.as_str(), first.as_str());
            Err(Error::Denied { reason: format!("{} may not {what}", caller.id) })
        }
        _ => Ok(parts),
    }
}

/// Returns the parts of the patterns that are permitted, each once.
///
/// # Errors
///
/// [`Error::OverLimit`]: a thousand patterns, cut down by as many, may be a million parts.
async fn parts_of(permitted: &Permitted, asked: &[TopicPattern]) -> Result<Vec<TopicPattern>> {
    let (mut all, mut known) = (Vec::new(), HashSet::new());
    for pattern in asked {
        polls::rest().await; // All of them together take a while.
        all.extend(
            permitted.part_of(pattern).into_iter().filter(|part| known.insert(part.clone())),
        );
        lists::check("patterns of a ticket", all.len(), MAX_PATTERNS)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
