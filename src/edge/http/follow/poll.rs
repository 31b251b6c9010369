//! The subscriptions of one client as one answer: a long poll.
//!
//! ```text
//! open all ─▶ news? ── yes ─▶ what is in memory, up to the bound of a page ─┬▶ the place of each
//!               └─ no ─▶ wait for news, at most as long as was asked ───────┘  subscription
//! ```
//!
//! An answer waits until each subscription has begun or is refused: a place that nobody was told
//! would be another one in the next request. It also waits a moment for the first events of each,
//! which may be on the disk: a subscription that is read slower than its neighbours would never
//! get any.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use futures_util::poll;
use http::header;
use rand::RngExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::last::{POLL, expired, until_last};
use crate::broker::Run;
use crate::cursor::StartPoint;
use crate::edge::Edge;
use crate::edge::budget::Held;
use crate::edge::clients::{Peer, share};
use crate::edge::json::Carrier;
use crate::edge::permit::Permit;
use crate::edge::subscriptions::asked::{RefusedSubscription, Subscribe};
use crate::edge::subscriptions::set::{Subscriptions, TurnOutcome};
use crate::edge::subscriptions::subscription::NamedFollowing;
use crate::edge::subscriptions::told::{ToClient, ToldAbout};
use crate::error::Error;
use crate::polls;

/// Bytes up to which one subscription delivers before the next one has its turn.
const MAX_TURN_BYTES: usize = 8 << 10;

/// The longest wait for the first events of a subscription, once the answer could be sent.
const FIRST_READ_WITHIN: Duration = Duration::from_secs(1);

/// What a subscription that comes back knows already, so that it is no reason to answer.
#[derive(Debug, Clone, Copy)]
struct AlreadyKnown {
    counts: bool,
    marks: bool,
}

/// An answer that is being gathered.
struct LongPoll {
    subscriptions: Subscriptions,
    /// Cancelled when nothing more is read.
    end: CancellationToken,
    /// The names of the subscriptions that have not begun yet, and of those that have begun, and of
    /// which it is not known yet whether there are events.
    opening: HashSet<String>,
    looking: HashSet<String>,
    /// The subscriptions that come back, by their names.
    known: HashMap<String, AlreadyKnown>,
    /// The messages, separated by commas, and their memory.
    list: Vec<u8>,
    held: Held,
    /// The bytes of the events, and their bound.
    delivered_bytes: usize,
    max_bytes: usize,
    /// Whether there is something for which the answer does not wait any longer.
    has_news: bool,
    is_full: bool,
}

/// Answers with the messages of all subscriptions, once one of them has news, or `wait` is over.
///
/// # Errors
///
/// [`Error::Invalid`] for a member, who would come and go with each request.
///
/// # Cancel safety
///
/// The subscriptions end, and read nothing further.
pub(super) async fn answer(
    mut asked: Vec<Subscribe>,
    wait: Duration,
    caller: (&Edge, Option<&Peer>, &Permit),
) -> Result<Response, RefusedSubscription> {
    let (edge, peer, _) = caller;
    if let Some(asked) = asked.iter().find(|asked| asked.wanted.member.is_some()) {
        let problem = "needs a stream: a member is present while a stream is open";
        let (name, error) = (asked.subscription.clone(), Error::invalid("member", problem));
        return Err(RefusedSubscription { name: Some(name), error });
    }
    let (share, end) = (share(peer), CancellationToken::new());
    let mut poll = LongPoll {
        subscriptions: Subscriptions::new(POLL, share.clone()).until(end.clone()),
        end,
        opening: asked.iter().map(|asked| asked.subscription.clone()).collect(),
        looking: HashSet::new(),
        known: asked.iter().filter_map(known).collect(),
        list: Vec::new(),
        held: share.nothing(),
        delivered_bytes: 0,
        max_bytes: edge.broker.max_page_bytes(),
        has_news: false,
        is_full: false,
    };
    // An answer may have no room for all. Beginning anywhere, each subscription gets its turn.
    let first = rand::rng().random_range(0..asked.len());
    asked.rotate_left(first);
    for subscribe in asked {
        poll.subscriptions.open(subscribe, caller).map_err(|(_, refused)| refused)?;
    }
    // Boxed, because it is large, and the request waits with it.
    let last = Box::pin(poll.gather(wait, caller)).await;
    last.iter().for_each(|message| poll.add(message.as_bytes()));
    poll.list.splice(..0, *b"{\"messages\":[");
    poll.list.extend_from_slice(b"]}");
    let media = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (media, poll.list).into_response();
    response.extensions_mut().insert(Arc::new(poll.held));
    Ok(response)
}

/// Returns what a subscription that comes back knows.
fn known(asked: &Subscribe) -> Option<(String, AlreadyKnown)> {
    let Some(StartPoint::After(_)) = asked.wanted.start else { return None };
    let marks = asked.wanted.consumer.as_ref().is_some_and(|it| it.marks_after.is_none());
    Some((asked.subscription.clone(), AlreadyKnown { counts: true, marks }))
}

impl LongPoll {
    /// Gathers the messages of the answer. Returns the last one if the answer had to end early.
    async fn gather(
        &mut self,
        wait: Duration,
        caller: (&Edge, Option<&Peer>, &Permit),
    ) -> Option<String> {
        let mut last = until_last(caller);
        let mut wait = pin!(sleep(wait));
        let mut first_read = pin!(sleep(FIRST_READ_WITHIN));
        while self.subscriptions.len() > 0 && !self.is_full {
            let is_due = self.has_news || wait.is_elapsed();
            let is_looked = self.looking.is_empty() || first_read.is_elapsed();
            let outcome = if self.opening.is_empty() && is_due && is_looked {
                polls::rest().await; // So that all that is there has its turn now.
                match poll!(pin!(self.subscriptions.next())) {
                    Poll::Ready(Some(outcome)) => outcome,
                    _ => break,
                }
            } else {
                tokio::select! {
                    Some(outcome) = self.subscriptions.next() => outcome,
                    last = &mut last => return Some(last),
                    () = &mut wait, if !is_due => continue,
                    () = &mut first_read, if !first_read.is_elapsed() => continue,
                }
            };
            if let Some(last) = self.take(outcome).await {
                return Some(last);
            }
        }
        // From here on the subscriptions say where they are, and those that still open begin.
        self.end.cancel();
        loop {
            tokio::select! {
                outcome = self.subscriptions.next() => {
                    if let Some(last) = self.take(outcome?).await {
                        return Some(last);
                    }
                }
                last = &mut last => return Some(last),
            }
        }
    }

    /// Adds the messages of the outcome of a subscription, which then waits for its next one.
    /// Returns the last message, if the caller's permission is over.
    async fn take(&mut self, outcome: TurnOutcome) -> Option<String> {
        let mut subscription = match self.subscriptions.told(outcome) {
            ToClient::Nothing => return None,
            ToClient::Expired(error) => return Some(expired(&error)),
            ToClient::Ended(name, message) => {
                self.has_news = true;
                self.opening.remove(&name);
                self.looking.remove(&name);
                self.add(message.as_bytes());
                return None;
            }
            ToClient::Messages(about, messages, subscription) => {
                self.note(about, &subscription.name);
                messages.iter().for_each(|message| self.add(message.as_bytes()));
                subscription
            }
            ToClient::Ephemeral(subscription, event) => {
                self.has_news = true;
                self.deliver_one(subscription.ephemeral(&event, Carrier::Whole).as_bytes());
                subscription
            }
            ToClient::Events(mut subscription, run) => {
                self.has_news = true;
                self.looking.remove(&subscription.name);
                self.deliver(&mut subscription, &run).await;
                subscription
            }
        };
        if self.is_full || self.end.is_cancelled() {
            subscription.moved().iter().for_each(|place| self.add(place.as_bytes()));
        } else {
            self.subscriptions.wait(subscription);
        }
        None
    }

    /// Notes what messages say about a subscription, and whether they are a reason to answer.
    fn note(&mut self, about: ToldAbout, name: &str) {
        match about {
            ToldAbout::Begun | ToldAbout::Denied => {
                self.opening.remove(name);
                self.looking.insert(name.to_owned());
            }
            // The place in the gap of one topic of many is before the gaps of the others: a client
            // that came back from there would be told of this one again.
            ToldAbout::Gap => {
                self.looking.insert(name.to_owned());
            }
            ToldAbout::CaughtUp | ToldAbout::Place => {
                self.looking.remove(name);
            }
            ToldAbout::Counts | ToldAbout::AllMarks | ToldAbout::Marks => {}
        }
        let is_known = match (about, self.known.get_mut(name)) {
            (ToldAbout::Begun | ToldAbout::CaughtUp | ToldAbout::Place, _)
            | (ToldAbout::Denied, Some(_)) => true,
            (ToldAbout::Counts, Some(known)) => std::mem::take(&mut known.counts),
            (ToldAbout::AllMarks, Some(known)) => std::mem::take(&mut known.marks),
            _ => false,
        };
        self.has_news |= !is_known;
    }

    /// Adds the events of `run`, and of the next runs that are in memory already.
    async fn deliver(&mut self, subscription: &mut NamedFollowing, run: &Run) {
        let (prefix, begin) = (subscription.event_prefix(), self.list.len());
        self.add_run(subscription, run, &prefix);
        polls::rest().await; // Writing them may have been a lot of work.
        while !self.is_full
            && self.list.len() - begin < MAX_TURN_BYTES
            && let Some(run) = subscription.following.next_in_memory()
        {
            self.add_run(subscription, &run, &prefix);
            polls::rest().await;
        }
        subscription.following.show_place();
    }

    fn add_run(&mut self, subscription: &mut NamedFollowing, run: &Run, prefix: &str) {
        for rest in subscription.event_rests(run, Carrier::Whole) {
            self.deliver_one(&[prefix.as_bytes(), &rest].concat());
        }
    }

    /// Adds the message of an event. The answer is full when its events have as many bytes as those
    /// of a page may have.
    fn deliver_one(&mut self, message: &[u8]) {
        self.add(message);
        self.delivered_bytes += message.len();
        self.is_full |= self.delivered_bytes >= self.max_bytes;
    }

    /// Adds a message. The answer is full when there is no room for more.
    fn add(&mut self, message: &[u8]) {
        if !self.list.is_empty() {
            self.list.push(b',');
        }
        self.list.extend_from_slice(message);
        let size_bytes = message.len() + 1;
        if self.held.grow(size_bytes).is_err() {
            self.held.count(size_bytes); // It was read, and is lost otherwise.
            self.is_full = true;
        }
    }
}
