//! The subscriptions of one client as one stream of server-sent events. Each message is a block
//! with `data:` alone.
//!
//! # Why
//!
//! The stream is made on a task of its own, and handed over piece by piece. A body is not polled
//! while its client takes nothing, and a subscription in the middle of a read would keep its turn
//! at the disk for as long. The task lets the other subscriptions go on meanwhile. No delivery is
//! written before the piece before it was taken.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::last::{STREAM, UntilLast, come_back, expired, until_last};
use crate::broker::Run;
use crate::edge::Edge;
use crate::edge::budget::{Held, Share, WaitsForRoom};
use crate::edge::clients::{Peer, share};
use crate::edge::config::FollowConfig;
use crate::edge::json::Carrier;
use crate::edge::permit::Permit;
use crate::edge::sse;
use crate::edge::subscriptions::asked::Subscribe;
use crate::edge::subscriptions::set::{Subscriptions, TurnOutcome};
use crate::edge::subscriptions::subscription::{NamedFollowing, message};
use crate::edge::subscriptions::told::ToClient;
use crate::error::Result;
use crate::polls::{self, Task, timed};

/// Bytes up to which messages that are ready are joined into one piece.
const MAX_WRITE_BYTES: usize = 8 << 10;

/// The memory of an idle stream besides its subscriptions and its request, in bytes: its task, and
/// the place for a piece.
const STREAM_BYTES: usize = 6 << 10;

/// A piece of the stream, with its memory until the body takes it.
type Handed = (Bytes, Held);

/// Returns the answer that streams the messages of all subscriptions.
///
/// # Errors
///
/// [`Error::NoRoom`](crate::Error::NoRoom); nothing was opened.
pub(super) fn answer(
    asked: Vec<Subscribe>,
    caller: (&Edge, Option<&Peer>, &Permit),
) -> Result<Response> {
    let (edge, peer, _) = caller;
    let share = share(peer);
    let held = share.take(STREAM_BYTES)?;
    let mut subscriptions = Subscriptions::new(STREAM, share.clone());
    for subscribe in asked {
        subscriptions.open(subscribe, caller).map_err(|(_, refused)| refused)?;
    }
    let (pieces, taken) = mpsc::channel(1);
    let stream = FollowStream {
        subscriptions,
        share,
        config: edge.config.clone(),
        last: until_last(caller),
        quiet_since: Instant::now(),
        is_over: false,
        pieces,
    };
    tokio::spawn(timed(Task::EventStream, async move {
        stream.run().await;
        drop(held);
    }));
    let taken = stream::unfold(taken, |mut taken: mpsc::Receiver<Handed>| async move {
        let (piece, _held) = taken.recv().await?;
        Some((Ok::<_, Infallible>(piece), taken))
    });
    let mut response = sse::stream_response(Body::from_stream(taken));
    response.extensions_mut().insert(WaitsForRoom);
    Ok(response)
}

/// The stream of one client.
struct FollowStream {
    subscriptions: Subscriptions,
    share: Share,
    config: FollowConfig,
    last: UntilLast,
    /// The time of the last piece.
    quiet_since: Instant,
    /// Whether the last message is written.
    is_over: bool,
    pieces: mpsc::Sender<Handed>,
}

impl FollowStream {
    /// Serves the stream until it is over, or its client is gone.
    async fn run(mut self) {
        let mut piece = Some(self.hello());
        while let Some(made) = piece {
            if !self.hand_over(made).await || self.is_over {
                break;
            }
            piece = self.next().await;
        }
        self.subscriptions.let_go().await;
    }

    /// Hands a piece over once the piece before it was taken, and waits until this one is, too.
    /// Returns whether the client is still there.
    async fn hand_over(&mut self, piece: Vec<u8>) -> bool {
        let held = self.share.count(piece.len());
        if self.pieces.send((piece.into(), held)).await.is_err() {
            return false;
        }
        // The subscriptions go on meanwhile, and nothing more is written.
        let no_room = match self.subscriptions.beside(self.pieces.reserve()).await {
            Ok(place) => return place.is_ok(),
            Err(no_room) => no_room,
        };
        self.subscriptions.let_go().await;
        self.is_over = true;
        let last = block(&come_back(&self.config, Some(&no_room)));
        let held = self.share.count(last.len());
        self.pieces.send((last.into(), held)).await.is_ok()
    }

    /// Returns the first message: what the client needs to know about the stream.
    fn hello(&self) -> Vec<u8> {
        let mut hello = message("hello");
        hello.insert("heartbeat_ms".to_owned(), json!(self.config.heartbeat_ms));
        hello.insert("retry_ms".to_owned(), json!(self.config.jittered_retry_ms()));
        block(&Value::Object(hello).to_string())
    }

    /// Waits for something to write, and returns it; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let outcome = match self.subscriptions.ready() {
                Some((outcome, _held)) => outcome,
                None if self.subscriptions.len() == 0 => return None,
                None => {
                    let heartbeat = Duration::from_millis(self.config.heartbeat_ms);
                    tokio::select! {
                        Some(outcome) = self.subscriptions.next() => outcome,
                        last = &mut self.last => return Some(self.end(&last)),
                        () = sleep_until(self.quiet_since + heartbeat) => {
                            self.quiet_since = Instant::now();
                            return Some(sse::HEARTBEAT.to_vec());
                        }
                        () = self.pieces.closed() => return None,
                    }
                }
            };
            let piece = self.take(outcome).await;
            if !piece.is_empty() {
                self.quiet_since = Instant::now();
                return Some(piece);
            }
        }
    }

    /// Notes that the stream is over, and returns its last block.
    fn end(&mut self, last: &str) -> Vec<u8> {
        self.is_over = true;
        block(last)
    }

    /// Returns the blocks of the outcome of a subscription, which then waits for its next one.
    async fn take(&mut self, outcome: TurnOutcome) -> Vec<u8> {
        let (piece, next) = match self.subscriptions.told(outcome) {
            ToClient::Nothing => return Vec::new(),
            ToClient::Expired(error) => return self.end(&expired(&error)),
            ToClient::Ended(_, message) => return block(&message),
            ToClient::Messages(_, messages, subscription) => {
                (messages.iter().flat_map(|message| block(message)).collect(), subscription)
            }
            ToClient::Ephemeral(subscription, event) => {
                (block(&subscription.ephemeral(&event, Carrier::DataLines)), subscription)
            }
            ToClient::Events(mut subscription, run) => {
                (gathered(&mut subscription, &run).await, subscription)
            }
        };
        self.subscriptions.wait(next);
        piece
    }
}

/// Returns the blocks of the events of `run`, and of the next runs that are in memory already.
async fn gathered(subscription: &mut NamedFollowing, run: &Run) -> Vec<u8> {
    let prefix = subscription.event_prefix();
    let mut piece = Vec::new();
    add_run(subscription, run, &prefix, &mut piece);
    polls::rest().await; // Writing them may have been a lot of work.
    while piece.len() < MAX_WRITE_BYTES
        && let Some(run) = subscription.following.next_in_memory()
    {
        add_run(subscription, &run, &prefix, &mut piece);
        polls::rest().await;
    }
    subscription.following.show_place();
    piece
}

fn add_run(subscription: &mut NamedFollowing, run: &Run, prefix: &str, piece: &mut Vec<u8>) {
    for rest in subscription.event_rests(run, Carrier::DataLines) {
        sse::encode_json(piece, |line| {
            line.extend_from_slice(prefix.as_bytes());
            line.extend_from_slice(&rest);
        });
        piece.push(b'\n');
    }
}

/// Returns the block of a message.
fn block(message: &str) -> Vec<u8> {
    let mut block = Vec::with_capacity(message.len() + 8);
    sse::encode_json(&mut block, |line| line.extend_from_slice(message.as_bytes()));
    block.push(b'\n');
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Filter;
    use crate::cursor::{OnGap, StartPoint};
    use crate::edge::disk_turns::{FOLLOWED, broker_on_disk, name, read_the_others};
    use crate::edge::selection::{TopicSelection, Wanted};
    use crate::topic::TopicName;

    fn subscribe(topic: &TopicName) -> Subscribe {
        let wanted = Wanted {
            topics: TopicSelection::One(topic.clone()),
            start: Some(StartPoint::Earliest),
            on_gap: OnGap::Resume,
            filter: Filter::default(),
            member: None,
            is_strict: false,
            consumer: None,
        };
        Subscribe { subscription: topic.to_string(), wanted }
    }

    /// Goal: streams with many subscriptions whose clients take nothing do not keep others from the
    /// disk, and end with their clients.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn clients_that_take_nothing_keep_no_turn_at_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let broker = broker_on_disk(directory.path()).await;
        let edge = Edge::new(broker.clone());
        let permit = Permit::default();
        let mut streams = Vec::new();
        for _ in 0..8 {
            let asked = (0..FOLLOWED).map(|number| subscribe(&name(number))).collect();
            streams.push(answer(asked, (&edge, None, &permit)).unwrap());
        }
        read_the_others(&broker).await;
        drop(streams);
        broker.close().await;
    }
}
