//! One WebSocket: the requests and the subscriptions of its client, on one task.
//!
//! The file is long, because it is one loop, and each arm of the loop needs the whole state.
//!
//! # Why
//!
//! While the client takes nothing, no further events are read for it (`subscriptions/mod.rs`), and
//! none of its messages is read.

#[cfg(test)]
mod echo;
mod refreshed;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

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
use super::protocol::Refused;
use super::reference::Reference;
use super::waiting::{done, next};
use super::working::Workers;
use crate::broker::{InOrder, Run};
use crate::edge::Edge;
use crate::edge::bounds::max_request_bytes;
use crate::edge::budget::Share;
use crate::edge::clients::{Peer, share};
use crate::edge::counters::TimeLimit;
use crate::edge::json::{Carrier, ReceiptJson, topic_receipts};
use crate::edge::mounting::EdgeConsumers;
use crate::edge::pace::PacedSocket;
use crate::edge::permit::Permit;
use crate::edge::publishing::Acknowledged;
use crate::edge::rates::{CallerRates, Rate, Temper};
use crate::edge::status;
use crate::edge::subscriptions::asked::Subscribe;
use crate::edge::subscriptions::set::{Subscriptions, TurnOutcome};
use crate::edge::subscriptions::subscription::{NamedFollowing, message};
use crate::edge::subscriptions::told::ToClient;
use crate::error::{Error, Result};
use crate::polls::{self, Task, timed};

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
    subscriptions: Subscriptions,
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
        session.subscriptions.let_go().await;
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
        let (rates, share) = (CallerRates::of(peer.as_ref()), share(peer.as_ref()));
        Self {
            temper: rates.temper(),
            hearing: Hearing {
                broker: edge.broker.clone(),
                consumers: edge.consumers_if_any().map(EdgeConsumers::in_order),
                rates,
                permit,
                publisher: InOrder::default().independent(),
            },
            heard: None,
            edge,
            subscriptions: Subscriptions::new("websocket", share.clone()),
            share,
            peer,
            socket,
            unsent_bytes: 0,
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
        let client = self.peer.as_ref().map(|peer| peer.client.clone());
        let mut ended = std::pin::pin!(async move {
            match &client {
                Some(client) => client.ended().await,
                None => std::future::pending().await,
            }
        });
        // Boxed, because most grants have no end.
        let mut over = Box::pin(self.hearing.permit.clone().over());
        loop {
            if let Some((outcome, _held)) = self.subscriptions.ready() {
                self.take(outcome).await?;
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
                Some(outcome) = self.subscriptions.next() => self.take(outcome).await?,
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
                () = &mut ended => {
                    return Err(SessionEnd::ended(self.edge.config.jittered_retry_ms()));
                }
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
                let room = limit.saturating_sub(self.subscriptions.len());
                let begun = self.workers.go_on(work, heard, room);
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
            Heard::Ping(reference) => {
                let mut message = message("pong");
                message.extend(reference.map(|own| ("ref".to_owned(), json!(own))));
                let heartbeat_ms = self.edge.config.heartbeat_ms;
                message.insert("heartbeat_ms".to_owned(), json!(heartbeat_ms));
                self.send(message).await?;
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
        let caller = (&self.edge, self.peer.as_ref(), &self.hearing.permit);
        self.subscriptions.open(subscribe, caller).map_err(|(name, error)| Refused {
            reference: None,
            subscription: Some(name),
            error,
        })
    }

    async fn unsubscribe(&mut self, name: String) -> Result<Result<(), Refused>, SessionEnd> {
        if !self.subscriptions.close(&name) {
            let error = Error::invalid("subscription", format!("{name:?} is not open"));
            return Ok(Err(Refused { reference: None, subscription: Some(name), error }));
        }
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

    /// Writes the outcome of a subscription, which then waits for its next one.
    async fn take(&mut self, outcome: TurnOutcome) -> Result<(), SessionEnd> {
        let next = match self.subscriptions.told(outcome) {
            ToClient::Nothing => return Ok(()),
            ToClient::Expired(error) => return Err(SessionEnd::expired(&error)),
            ToClient::Messages(_, messages, subscription) => {
                for message in messages {
                    self.send_text(message).await?;
                }
                subscription
            }
            ToClient::Events(mut subscription, run) => {
                self.deliver(&mut subscription, &run).await?;
                subscription
            }
            ToClient::Ephemeral(subscription, event) => {
                self.send_text(subscription.ephemeral(&event, Carrier::Whole)).await?;
                subscription
            }
            ToClient::Ended(_, message) => return self.send_text(message).await,
        };
        self.subscriptions.wait(next);
        Ok(())
    }

    /// Writes the events of `run`, and of the next runs that are in memory already.
    async fn deliver(
        &mut self,
        subscription: &mut NamedFollowing,
        run: &Run,
    ) -> Result<(), SessionEnd> {
        let prefix = subscription.event_prefix();
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
        let rests = subscription.event_rests(run, Carrier::Whole);
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
        self.send_text(Value::Object(message).to_string()).await
    }

    async fn send_text(&mut self, message: String) -> Result<(), SessionEnd> {
        self.feed(Message::text(message)).await?;
        self.flush().await
    }

    /// Puts a message into the next write. Bytes that wait for the client are counted meanwhile.
    async fn feed(&mut self, message: Message) -> Result<(), SessionEnd> {
        self.unsent_bytes += message.len();
        let feed = self.socket.feed(message);
        let feed = self.share.waiting_with(self.unsent_bytes, feed);
        Ok(self.subscriptions.beside(feed).await.map_err(|_| SessionEnd::no_room())??)
    }

    /// Writes the messages that were fed.
    async fn flush(&mut self) -> Result<(), SessionEnd> {
        let flush = self.share.waiting_with(self.unsent_bytes, self.socket.flush());
        self.subscriptions.beside(flush).await.map_err(|_| SessionEnd::no_room())??;
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
