//! One WebSocket: the requests and the subscriptions of its client, on one task.
//!
//! The file is long, because it is one loop, and each arm of the loop needs the whole state.
//!
//! # Why
//!
//! A subscription is a place in its topics, and no queue: its next delivery is read when the
//! previous one is written. So at most one delivery of each subscription waits for the client.
//! While the client takes nothing, no further events are read for it, and none of its messages is
//! read.

#[cfg(test)]
mod echo;
mod refreshed;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt, poll};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::task::AbortOnDropHandle;

use super::ending::{ABUSIVE, DRAINING, SessionEnd, TOO_SLOW, UNANSWERED};
use super::hearing::{Heard, Hearing};
use super::protocol::{Refused, Subscribe};
use super::reference::Reference;
use super::subscription::{NamedFollowing, SubscriptionTurn, message, rests};
use super::waiting::{Waiting, beside, done, next};
use super::working::Workers;
use crate::broker::{Delivery, InOrder, Run, Waited};
use crate::edge::Edge;
use crate::edge::bounds::max_request_bytes;
use crate::edge::budget::{Held, Share};
use crate::edge::clients::{Peer, share};
use crate::edge::counters::TimeLimit;
use crate::edge::following::{FollowTurn, Following};
use crate::edge::json::{Carrier, ReceiptJson, topic_receipts, write_ephemeral};
use crate::edge::pace::PacedSocket;
use crate::edge::permit::Permit;
use crate::edge::publishing::Acknowledged;
use crate::edge::rates::{CallerRates, Rate, Temper};
use crate::edge::{forms, gaps, status};
use crate::error::{Error, Result};
use crate::polls::{self, Task, in_turn, timed};

/// The size of the buffer that a connection reads into, in bytes. It exists as long as the
/// connection.
const READ_BUFFER_BYTES: usize = 2 << 10;

/// Bytes up to which messages that are ready are joined into one write.
const MAX_WRITE_BYTES: usize = 8 << 10;

/// The longest message that is ever written, in bytes: an event with the largest allowed payload,
/// each byte of which may take six bytes in JSON.
const MAX_MESSAGE_BYTES: usize = 6 * (16 << 20) + (1 << 20);

/// The number of messages, refused one after the other, at which the connection is closed.
const MAX_REFUSED: u32 = 16;

/// The time for a client to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The bytes of a control frame from a client besides its payload: two bytes and a mask. The
/// payload is no longer than 125 bytes. Source: RFC 6455, 5.2 and 5.5.
const CONTROL_FRAME_BYTES: usize = 6;

/// A request in flight: its reference, and the message that answers it.
type RequestInFlight =
    Pin<Box<dyn Future<Output = (Option<Reference>, Result<Map<String, Value>>)> + Send>>;

/// A connection with its client's requests and subscriptions.
pub(super) struct Session<S> {
    edge: Edge,
    peer: Option<Peer>,
    share: Share,
    socket: WebSocketStream<PacedSocket<S>>,
    /// The bytes that were fed since the last flush.
    unsent_bytes: usize,
    /// The subscriptions, by the client's names for them.
    names: HashMap<String, AbortHandle>,
    waiting: FuturesUnordered<Waiting>,
    /// Outcomes of subscriptions from while the session waited for its client, with their memory.
    ready: VecDeque<(Result<SubscriptionTurn, Aborted>, Held)>,
    in_flight: FuturesUnordered<RequestInFlight>,
    workers: Workers,
    hearing: Hearing,
    /// The message that is being handled. No other one is read meanwhile.
    heard: Option<AbortOnDropHandle<Heard>>,
    /// The number of messages that were refused since the last good one.
    refused: u32,
    /// The messages that the rates refused, less those that they let through.
    temper: Temper,
    /// The time of the client's last bytes.
    alive: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Serves a connection whose handshake is over, for as long as it lasts.
    pub(super) async fn run(
        edge: Edge,
        (peer, permit): (Option<Peer>, Permit),
        socket: PacedSocket<S>,
    ) {
        let mut session = Self::new(edge, (peer, permit), socket).await;
        let Err(end) = session.serve().await;
        session.let_go().await;
        session.end(end).await;
    }

    /// Returns a session that has read no message yet.
    async fn new(
        edge: Edge,
        (peer, permit): (Option<Peer>, Permit),
        socket: PacedSocket<S>,
    ) -> Self {
        let max_bytes = max_request_bytes(edge.broker.limits()) as usize;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(MAX_WRITE_BYTES)
            // The first message has room in any case. Beyond it there are only pongs, and the last
            // pong is enough.
            .max_write_buffer_size(MAX_WRITE_BYTES.saturating_add(MAX_MESSAGE_BYTES))
            .max_message_size(Some(max_bytes))
            .max_frame_size(Some(max_bytes));
        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await;
        let rates = CallerRates::of(peer.as_ref());
        Self {
            temper: rates.temper(),
            hearing: Hearing {
                broker: edge.broker.clone(),
                consumers: edge.consumers_if_any().cloned(),
                rates,
                permit,
                publisher: InOrder::default().independent(),
            },
            heard: None,
            edge,
            share: share(peer.as_ref()),
            peer,
            socket,
            unsent_bytes: 0,
            names: HashMap::new(),
            waiting: FuturesUnordered::new(),
            ready: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            workers: Workers::default(),
            refused: 0,
            alive: Instant::now(),
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, SessionEnd> {
        let heartbeat = Duration::from_millis(self.edge.config.heartbeat_ms);
        let max_in_flight = self.edge.config.max_in_flight as usize;
        let mut ping = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
        let draining = self.edge.broker.clone();
        let mut draining = std::pin::pin!(draining.draining());
        // Once the broker stops, `turn` is the wait for this connection's turn to end.
        let mut is_stopping = false;
        let mut turn = std::pin::pin!(tokio::time::sleep(Duration::MAX));
        // Boxed, because most grants have no end.
        let mut over = Box::pin(self.hearing.permit.clone().over());
        loop {
            if let Some((turn, _held)) = self.ready.pop_front() {
                self.take(turn).await?;
                continue;
            }
            let is_read = self.heard.is_none() && self.in_flight.len() < max_in_flight;
            tokio::select! {
                message = next(&mut self.socket), if is_read => {
                    self.hear(message.ok_or(SessionEnd::Gone)??).await?;
                }
                heard = done(&mut self.heard), if self.heard.is_some() => {
                    self.answer_to(heard).await?;
                }
                Some(turn) = self.waiting.next() => self.take(turn).await?,
                turn = self.workers.next() => {
                    if let Some(text) = Workers::text(&turn).await {
                        self.feed(Message::text(text)).await?;
                        self.flush().await?;
                    }
                    self.workers.told(turn);
                }
                Some((reference, outcome)) = self.in_flight.next() => {
                    self.answer(reference, outcome).await?;
                }
                _ = ping.tick() => {
                    if !is_read {
                        self.alive = Instant::now(); // A pong may wait to be read.
                    }
                    // The ping before this one was not answered for a whole heartbeat.
                    if self.alive.elapsed() > heartbeat * 3 / 2 {
                        return Err(SessionEnd::Dead);
                    }
                    self.feed(Message::Ping(Default::default())).await?;
                    self.flush().await?;
                }
                error = &mut over => return Err(SessionEnd::expired(&error)),
                // Submitted events are answered first.
                () = &mut turn,
                    if is_stopping && self.heard.is_none() && self.in_flight.is_empty() =>
                {
                    let reason = format!("retry_ms={}", self.edge.config.jittered_retry_ms());
                    return Err(SessionEnd::Close(DRAINING.into(), reason));
                }
                () = &mut draining, if !is_stopping => {
                    let connections = self.peer.as_ref().map_or(0, |peer| peer.clients.count());
                    is_stopping = true;
                    turn.set(self.edge.config.turn_to_end(connections));
                }
            }
        }
    }

    /// Begins to handle a message. The session goes on meanwhile.
    async fn hear(&mut self, message: Message) -> Result<(), SessionEnd> {
        self.alive = Instant::now();
        let control_bytes = match &message {
            Message::Ping(payload) | Message::Pong(payload) => {
                Some(CONTROL_FRAME_BYTES + payload.len())
            }
            _ => None,
        };
        self.socket.get_mut().whole(control_bytes);
        match message {
            Message::Text(text) => {
                let mut hearing = Box::pin(self.hearing.clone().hear(text));
                if let Poll::Ready(heard) = poll!(hearing.as_mut()) {
                    return self.answer_to(heard).await;
                }
                // The message waits for a place among large work, or for memory. On a task of its
                // own it gets its turn also while this task waits for the client.
                let heard = tokio::spawn(timed(Task::WebSocket, hearing));
                self.heard = Some(AbortOnDropHandle::new(heard));
                return Ok(());
            }
            Message::Binary(bytes) => {
                return self.answer_to(self.hearing.binary(bytes.len())).await;
            }
            // Pongs and answers to a close are written by the library.
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Frame(_) => return Ok(()),
            Message::Close(_) => return Err(SessionEnd::Gone),
        }
        let size_bytes = control_bytes.unwrap_or_default();
        // Only these bytes are taken: a message that has begun stays counted.
        self.took(size_bytes);
        self.control(size_bytes)
    }

    /// Stops counting `size_bytes` of the received bytes: they are handled.
    fn took(&self, size_bytes: usize) {
        if let Some(peer) = &self.peer {
            peer.intake.took(size_bytes);
        }
    }

    /// Answers a message that is handled.
    async fn answer_to(&mut self, heard: Heard) -> Result<(), SessionEnd> {
        self.alive = Instant::now(); // Bytes that came meanwhile wait to be read.
        let done = match heard {
            Heard::OverRate(refused) => self.over_rate(refused).await,
            heard => {
                self.temper.taken();
                self.go_on(heard).await
            }
        };
        self.took(usize::MAX); // The message was counted until now.
        done
    }

    async fn go_on(&mut self, heard: Heard) -> Result<(), SessionEnd> {
        let refused = match heard {
            Heard::OverRate(refused) | Heard::Refused(refused) => Err(refused),
            Heard::Subscribe(subscribe) => self.subscribe(subscribe),
            Heard::Unsubscribe(subscription) => self.unsubscribe(subscription).await?,
            Heard::Publish(reference, mut submitted) => {
                let permit = self.hearing.permit.clone();
                let ready = async move {
                    (reference, submitted.ready(&permit).await.map(|it| acknowledged(&it)))
                };
                self.in_flight.push(Box::pin(ready));
                Ok(())
            }
            Heard::Keeping(reference, keeping) => {
                self.in_flight.push(Box::pin(async move { (reference, keeping.await) }));
                Ok(())
            }
            Heard::Work(reference, work, heard) => {
                let limit = self.edge.config.max_subscriptions as usize;
                let begun = self.workers.go_on(work, heard, limit.saturating_sub(self.names.len()));
                match begun {
                    Ok(answer) => {
                        self.in_flight.push(Box::pin(async move { (reference, answer.await) }));
                        Ok(())
                    }
                    Err(error) => Err(Refused { reference, subscription: None, error }),
                }
            }
            Heard::Unpublished(reference, error) => {
                self.answer(reference, Err(error)).await?;
                Ok(())
            }
            Heard::Refreshed(reference, until) => {
                self.refreshed(reference, until).await?;
                Ok(())
            }
            Heard::Ephemeral(reference, receivers) => {
                let mut message = message("ack");
                message.extend(reference.map(|own| ("ref".to_owned(), json!(own))));
                message.insert("ephemeral".to_owned(), json!(true));
                message.extend(receivers.map(|count| ("receivers".to_owned(), json!(count))));
                self.send(message).await?;
                Ok(())
            }
        };
        match refused {
            Ok(()) => self.refused = 0,
            Err(refused) => self.refuse(refused).await?,
        }
        Ok(())
    }

    /// Tells the client when to retry, or ends the connection of a client that does not slow down.
    async fn over_rate(&mut self, refused: Refused) -> Result<(), SessionEnd> {
        self.temper.refused();
        self.tell(refused).await?;
        match self.temper.abuse() {
            Some(reason) => Err(SessionEnd::Close(ABUSIVE.into(), reason)),
            None => Ok(()),
        }
    }

    /// Counts a ping or a pong. One that is over a rate is not answered with an error.
    fn control(&mut self, size_bytes: usize) -> Result<(), SessionEnd> {
        if self.hearing.rates.other(Rate::Requests, size_bytes).is_ok() {
            return Ok(());
        }
        self.temper.refused();
        match self.temper.abuse() {
            Some(reason) => Err(SessionEnd::Close(ABUSIVE.into(), reason)),
            None => Ok(()),
        }
    }

    async fn tell(&mut self, refused: Refused) -> Result<(), SessionEnd> {
        let Refused { reference, subscription, error } = refused;
        let mut message = message("error");
        message.extend(reference.map(|own| ("ref".to_owned(), json!(own))));
        message.extend(subscription.map(|text| ("subscription".to_owned(), json!(text))));
        message.insert("error".to_owned(), status::problem_json(&error));
        self.send(message).await
    }

    async fn refuse(&mut self, refused: Refused) -> Result<(), SessionEnd> {
        self.refused += 1;
        self.tell(refused).await?;
        if self.refused >= MAX_REFUSED {
            let reason = format!("{MAX_REFUSED} messages were refused one after the other");
            return Err(SessionEnd::Close(CloseCode::Policy, reason));
        }
        Ok(())
    }

    fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), Refused> {
        let Subscribe { subscription: name, wanted } = subscribe;
        let limit = self.edge.config.max_subscriptions as usize;
        let refused = match self.names.len() {
            _ if self.names.contains_key(&name) => {
                Some(Error::invalid("subscription", format!("{name:?} is open already")))
            }
            count if count >= limit => Some(Error::over("subscriptions", count + 1, limit)),
            _ => None,
        };
        if let Some(error) = refused {
            return Err(Refused { reference: None, subscription: Some(name), error });
        }
        let (edge, peer, named) = (self.edge.clone(), self.peer.clone(), name.clone());
        let permit = self.hearing.permit.clone();
        let open = async move {
            let caller = (peer.as_ref(), permit);
            let opening = Following::open(wanted, "websocket", &edge, caller);
            let opened = opening
                .await
                .map(|following| Box::new(NamedFollowing { name: named.clone(), following }));
            SubscriptionTurn::Opened(named, opened)
        };
        let (handle, registration) = AbortHandle::new_pair();
        self.names.insert(name, handle);
        self.waiting.push(in_turn(Abortable::new(Box::pin(open), registration)));
        Ok(())
    }

    async fn unsubscribe(&mut self, name: String) -> Result<Result<(), Refused>, SessionEnd> {
        let Some(handle) = self.names.remove(&name) else {
            let error = Error::invalid("subscription", format!("{name:?} is not open"));
            return Ok(Err(Refused { reference: None, subscription: Some(name), error }));
        };
        handle.abort();
        let mut message = message("unsubscribed");
        message.insert("subscription".to_owned(), json!(name));
        self.send(message).await.map(Ok)
    }

    async fn answer(
        &mut self,
        reference: Option<Reference>,
        outcome: Result<Map<String, Value>>,
    ) -> Result<(), SessionEnd> {
        match outcome {
            Ok(mut message) => {
                message.extend(reference.map(|own| ("ref".to_owned(), json!(own))));
                self.send(message).await
            }
            Err(error) => {
                let mut message = message("error");
                message.extend(reference.map(|own| ("ref".to_owned(), json!(own))));
                message.insert("error".to_owned(), status::problem_json(&error));
                self.send(message).await
            }
        }
    }

    /// Writes the outcome of a subscription, and begins to wait for its next one.
    async fn take(&mut self, turn: Result<SubscriptionTurn, Aborted>) -> Result<(), SessionEnd> {
        let Ok(turn) = turn else { return Ok(()) };
        if let SubscriptionTurn::Opened(_, Err(error @ Error::Unauthenticated { .. }))
        | SubscriptionTurn::Waited(_, Err(error @ Error::Unauthenticated { .. })) = &turn
        {
            return Err(SessionEnd::expired(error));
        }
        let (mut subscription, waited) = match turn {
            SubscriptionTurn::Opened(name, Err(error)) => return self.ended(&name, &error).await,
            SubscriptionTurn::Opened(_, Ok(mut subscription)) => {
                let (earliest, tail) = subscription.following.reader().bounds();
                let mut message = subscription.tell("subscribed");
                message.insert("earliest".to_owned(), json!(earliest));
                message.insert("tail".to_owned(), json!(tail));
                let followed = subscription.following.cut_to();
                if !followed.is_empty() {
                    message.insert("topics".to_owned(), json!(followed));
                }
                self.send(message).await?;
                if let Some(denied) = subscription.denied() {
                    self.send(denied).await?;
                }
                return self.wait(subscription);
            }
            SubscriptionTurn::Waited(subscription, Ok(turn))
                if subscription.following.is_outdated() =>
            {
                self.look_again(subscription, turn);
                return Ok(());
            }
            SubscriptionTurn::Waited(subscription, Ok(FollowTurn::News(news))) => {
                self.send(subscription.news(&news)).await?;
                return self.wait(subscription);
            }
            SubscriptionTurn::Waited(subscription, Ok(FollowTurn::Waited(waited))) => {
                (subscription, Ok(waited))
            }
            SubscriptionTurn::Waited(subscription, Err(error)) => (subscription, Err(error)),
        };
        match waited {
            Ok(Waited::Silence) if !subscription.following.has_moved() => {}
            Ok(Waited::Silence) => {
                let message = subscription.tell("cursor");
                self.send(message).await?;
            }
            Ok(Waited::Stopping) => return Ok(()), // The connection is closed at once.
            Ok(Waited::Delivery(Delivery::CaughtUp)) => {
                let message = subscription.tell("caught_up");
                self.send(message).await?;
            }
            Ok(Waited::Delivery(Delivery::Ephemeral(event))) => {
                let name = Value::from(subscription.name.as_str());
                let rest = event.encoded(forms::MESSAGE, |event| {
                    let mut rest = Vec::new();
                    write_ephemeral(event, Carrier::Whole, &mut rest);
                    rest.push(b'}');
                    rest.into()
                });
                let text = format!(
                    r#"{{"type":"ephemeral","subscription":{name},"event":{}"#,
                    String::from_utf8_lossy(&rest)
                );
                self.feed(Message::text(text)).await?;
                self.flush().await?;
            }
            Ok(Waited::Delivery(Delivery::Gap(gap))) => {
                let mut message = subscription.tell("gap");
                message.insert("gap".to_owned(), gaps::json(&gap));
                self.send(message).await?;
            }
            Ok(Waited::Delivery(Delivery::Events(run))) => {
                self.deliver(&mut subscription, &run).await?;
            }
            Err(error) => return self.ended(&subscription.name, &error).await,
        }
        self.wait(subscription)
    }

    /// Begins to wait for the next delivery of a subscription, beside all others.
    fn wait(&mut self, mut subscription: Box<NamedFollowing>) -> Result<(), SessionEnd> {
        let (handle, registration) = AbortHandle::new_pair();
        // The subscription may have been ended while its delivery was written.
        let Some(known) = self.names.get_mut(&subscription.name) else { return Ok(()) };
        *known = handle;
        let wait = async move {
            let turn = subscription.following.next().await;
            SubscriptionTurn::Waited(subscription, turn)
        };
        self.waiting.push(in_turn(Abortable::new(Box::pin(wait), registration)));
        Ok(())
    }

    async fn ended(&mut self, name: &str, error: &Error) -> Result<(), SessionEnd> {
        self.names.remove(name);
        let mut message = message("ended");
        message.insert("subscription".to_owned(), json!(name));
        message.insert("error".to_owned(), status::problem_json(error));
        self.send(message).await
    }

    /// Writes the events of `run`, and of the next runs that are in memory already.
    async fn deliver(
        &mut self,
        subscription: &mut NamedFollowing,
        run: &Run,
    ) -> Result<(), SessionEnd> {
        let name = Value::from(subscription.name.as_str());
        let prefix = format!(r#"{{"type":"event","subscription":{name},"#);
        let mut written = self.feed_run(&prefix, subscription, run).await?;
        while written < MAX_WRITE_BYTES
            && let Some(run) = subscription.following.next_in_memory()
        {
            written += self.feed_run(&prefix, subscription, &run).await?;
        }
        subscription.following.show_place();
        let started = Instant::now();
        self.flush().await?;
        if started.elapsed() > Duration::from_millis(self.edge.config.heartbeat_ms) {
            self.alive = Instant::now(); // A pong may have come meanwhile.
        }
        Ok(())
    }

    /// Puts the events of `run` into the next write. Returns the number of their bytes.
    async fn feed_run(
        &mut self,
        prefix: &str,
        subscription: &mut NamedFollowing,
        run: &Run,
    ) -> Result<usize, SessionEnd> {
        let mut size_bytes = 0;
        subscription.following.tell_events(run);
        let rests = rests(subscription.following.reader(), run);
        polls::rest().await; // Writing them may have been a lot of work.
        for rest in rests {
            let text = format!("{prefix}{}", String::from_utf8_lossy(&rest));
            size_bytes += text.len();
            self.feed(Message::text(text)).await?;
        }
        polls::rest().await;
        Ok(size_bytes)
    }

    async fn send(&mut self, message: Map<String, Value>) -> Result<(), SessionEnd> {
        self.feed(Message::text(Value::Object(message).to_string())).await?;
        self.flush().await
    }

    /// Puts a message into the next write. Bytes that wait for the client are counted meanwhile.
    async fn feed(&mut self, message: Message) -> Result<(), SessionEnd> {
        self.unsent_bytes += message.len();
        let feed = self.socket.feed(message);
        let feed = self.share.waiting_with(self.unsent_bytes, feed);
        beside(feed, &mut self.waiting, &mut self.ready, &self.share).await
    }

    /// Writes the messages that were fed.
    async fn flush(&mut self) -> Result<(), SessionEnd> {
        let flush = self.share.waiting_with(self.unsent_bytes, self.socket.flush());
        beside(flush, &mut self.waiting, &mut self.ready, &self.share).await?;
        self.unsent_bytes = 0;
        Ok(())
    }

    /// Closes the connection, and waits for the client's answer, up to [`CLOSE_WAIT`].
    async fn end(&mut self, end: SessionEnd) {
        let frame = match end {
            SessionEnd::Gone => None,
            SessionEnd::Dead => {
                self.edge.counters.dead_peers.add(1);
                self.edge.counters.time_limit(TimeLimit::Ping);
                let heartbeat_ms = self.edge.config.heartbeat_ms;
                let reason = format!("no ping was answered for {} ms", heartbeat_ms * 3 / 2);
                Some(CloseFrame { code: UNANSWERED.into(), reason: reason.into() })
            }
            SessionEnd::Close(code, reason) => {
                if code == TOO_SLOW.into() {
                    self.edge.counters.slow_peers.add(1);
                }
                let reason: String = reason.chars().take(100).collect();
                Some(CloseFrame { code, reason: reason.into() })
            }
        };
        let closing = async {
            if let Some(frame) = frame {
                self.socket.close(Some(frame)).await?;
            }
            // The answer to the client's own close is written by the library, too.
            while self.socket.next().await.transpose()?.is_some() {}
            // After a fault the library reads no more, and unread bytes would reset the connection.
            self.socket.get_mut().shutdown().await?;
            Ok::<_, tungstenite::Error>(())
        };
        let _gone_or_closed = tokio::time::timeout(CLOSE_WAIT, closing).await;
    }

    /// Drops the subscriptions one by one, with pauses: hundreds of them may each hold much memory.
    async fn let_go(&mut self) {
        self.names.values().for_each(AbortHandle::abort);
        while self.waiting.next().await.is_some() {}
        while self.ready.pop_front().is_some() {
            polls::rest().await;
        }
    }
}

/// Returns the message that acknowledges a publish.
fn acknowledged(acknowledged: &Acknowledged) -> Map<String, Value> {
    let mut message = message("ack");
    let receipts = match acknowledged {
        Acknowledged::One(ack) => json!(ReceiptJson::of(ack, ack.count - 1)),
        Acknowledged::Each(acks) => json!({"topics": topic_receipts(acks)}),
    };
    if let Value::Object(receipts) = receipts {
        message.extend(receipts);
    }
    message
}
