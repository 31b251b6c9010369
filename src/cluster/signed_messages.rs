//! Messages between nodes, signed with the secret of their fleet.
//!
//! `name: 8` is a field of 8 bytes; numbers are big-endian.
//!
//! ```text
//! message | form: 1 | sender: 8 | time_ms: 8 | number: 8 | signature: 32 | body |
//! ```
//!
//! The signature is of the fleet's name, the kind of the message, the three numbers and the body.
//! `sender` is drawn by each process, `number` counts its messages.
//!
//! # Why
//!
//! Who can publish in the account of NATS and does not know the secret could name a false node,
//! from which a node that joins would load its log. What is not rightly signed is as if it had
//! never come; it is counted, and told once a minute.
//!
//! **Repeats.** Somebody may hear a message and tell it again. Of each process the numbers that
//! were heard are known, a bounded number of them, so each message is heard once. A listener that
//! has just begun knows none. For it the time counts: messages that are older than [`MAX_AGE_MS`]
//! are refused. So somebody can have it hear the last words of a process that has ended lately,
//! once, and nothing false. That age is long, because the clocks of two nodes may be an hour wrong
//! each, in different directions; a shorter one would cost more than the repeats do.
//!
//! **No secret.** Without one nothing is signed, and only what is signed is refused: whoever
//! reaches NATS is trusted. Such a fleet has no access rules either (`access.mode = "required"`
//! needs a secret), and its nodes give nobody a backup. Nodes with a secret and without one do not
//! hear each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{Buf as _, BufMut as _, Bytes};

use super::messages::{FleetMessages, ListenedMessage, MessageKind, MessageListener, NotTold};
use super::seldom::Seldom;
use super::signature::{SIGNATURE_BYTES, is_signed, sign};
use super::stream::StreamFuture;
use crate::event::Timestamp;
use crate::secret::Secret;

/// The form that is written. The bodies of messages begin with other bytes, so a node without a
/// secret takes a signed message for none that it knows.
const FORM: u8 = 0xA1;

/// The bytes before the body.
const HEADER_BYTES: usize = 1 + 8 + 8 + 8 + SIGNATURE_BYTES;

/// What is signed, so that no signature of anything else fits.
const PURPOSE: &str = "leftoff fleet message 1";

/// The largest difference between the time of a message and the listener's clock, in milliseconds.
const MAX_AGE_MS: u64 = 3 * 60 * 60 * 1_000;

/// The most processes whose numbers a listener remembers.
const MAX_SENDERS: usize = 256;

/// How far a number may be below the highest one of its process: threads tell at the same time.
const REORDERED: u64 = 64;

/// What tells the time since 1970, in milliseconds.
type WallClock = fn() -> u64;

/// Messages that are signed, and heard if they are signed rightly. Cheap to clone.
#[derive(Clone)]
pub(super) struct SignedMessages {
    carrier: Arc<dyn FleetMessages>,
    /// `None`: nothing is signed.
    signing: Option<Arc<Signing>>,
    refused: Arc<RefusedMessages>,
}

/// What a process signs with.
struct Signing {
    fleet: Box<str>,
    secret: Secret,
    sender: u64,
    next_number: AtomicU64,
    clock: WallClock,
}

/// The messages that were refused.
#[derive(Debug, Default)]
struct RefusedMessages {
    count: AtomicU64,
    warning: Seldom,
}

impl SignedMessages {
    /// Returns messages over `carrier`, of the fleet with this name.
    pub(super) fn new(
        carrier: Arc<dyn FleetMessages>,
        fleet: &str,
        secret: Option<Secret>,
    ) -> Self {
        Self::with_clock(carrier, fleet, secret, || Timestamp::now().as_ms())
    }

    fn with_clock(
        carrier: Arc<dyn FleetMessages>,
        fleet: &str,
        secret: Option<Secret>,
        clock: WallClock,
    ) -> Self {
        let fleet = fleet.into();
        let (sender, next_number) = (rand::random(), AtomicU64::new(1));
        let signing =
            secret.map(|secret| Arc::new(Signing { fleet, secret, sender, next_number, clock }));
        Self { carrier, signing, refused: Arc::default() }
    }

    /// Returns the number of messages that were refused here, because they were not signed rightly.
    pub(super) fn refused(&self) -> u64 {
        self.refused.count.load(Ordering::Relaxed)
    }
}

impl FleetMessages for SignedMessages {
    fn tell(&self, kind: MessageKind, body: Bytes) -> Result<(), NotTold> {
        let message = match &self.signing {
            Some(signing) => signing.signed(kind, &body),
            None => body,
        };
        self.carrier.tell(kind, message)
    }

    fn listen(&self, kind: MessageKind) -> StreamFuture<'_, Result<MessageListener, NotTold>> {
        Box::pin(async move {
            let listener = self.carrier.listen(kind).await?;
            let (signing, refused) = (self.signing.clone(), self.refused.clone());
            let mut heard = HeardSenders::default();
            Ok(listener.checked(Box::new(move |message| {
                let opened = match &signing {
                    Some(signing) => signing.open(kind, message, &mut heard),
                    None => unsigned(message),
                };
                match opened {
                    Ok(body) => Some(ListenedMessage::Message(body)),
                    Err(MessageRefusal::OfStranger(problem)) => {
                        refused.note(kind, problem);
                        Some(ListenedMessage::OfStranger(problem))
                    }
                    Err(MessageRefusal::NotNew(problem)) => {
                        refused.note(kind, problem);
                        None
                    }
                }
            })))
        })
    }
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageRefusal {
    /// The sender does not have the secret of this node, or only one of the two has any.
    OfStranger(&'static str),
    /// The message may be a repeat.
    NotNew(&'static str),
}

/// Returns a message as it came, for a node without a secret.
///
/// # Errors
///
/// The message is signed, so it would not be understood.
fn unsigned(message: Bytes) -> Result<Bytes, MessageRefusal> {
    match message.first() {
        Some(&FORM) => Err(MessageRefusal::OfStranger("signed: is fleet.secret set on all nodes?")),
        _ => Ok(message),
    }
}

impl RefusedMessages {
    fn note(&self, kind: MessageKind, problem: &str) {
        let refused = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if self.warning.is_due(Instant::now()) {
            let kind = kind.name();
            tracing::warn!(kind, problem, refused, "messages of other nodes are refused");
        }
    }
}

impl Signing {
    /// Returns the message with this body.
    fn signed(&self, kind: MessageKind, body: &[u8]) -> Bytes {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let head = head(self.sender, (self.clock)(), number);
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.put_slice(&head);
        message.put_slice(&sign(&self.secret, PURPOSE, &self.parts(kind, &head, body)));
        message.put_slice(body);
        message.into()
    }

    fn parts<'a>(&'a self, kind: MessageKind, head: &'a [u8], body: &'a [u8]) -> [&'a [u8]; 4] {
        [self.fleet.as_bytes(), kind.name().as_bytes(), head, body]
    }

    /// Returns the body of a message that is signed rightly and was not heard before.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    fn open(
        &self,
        kind: MessageKind,
        mut message: Bytes,
        heard: &mut HeardSenders,
    ) -> Result<Bytes, MessageRefusal> {
        use MessageRefusal::{NotNew, OfStranger};
        if message.first() != Some(&FORM) || message.len() < HEADER_BYTES {
            return Err(OfStranger("not signed: is fleet.secret set on all nodes?"));
        }
        let head = message.split_to(HEADER_BYTES - SIGNATURE_BYTES);
        let signature = message.split_to(SIGNATURE_BYTES);
        if !is_signed(&self.secret, PURPOSE, &self.parts(kind, &head, &message), &signature) {
            let problem = "signed with another secret: is fleet.secret the same on all nodes?";
            return Err(OfStranger(problem));
        }
        let mut numbers = &head[1..];
        let (sender, time_ms, number) = (numbers.get_u64(), numbers.get_u64(), numbers.get_u64());
        let now_ms = (self.clock)();
        if time_ms.abs_diff(now_ms) > MAX_AGE_MS {
            let problem = "hours old or of hours to come: are the clocks of all nodes right?";
            return Err(NotNew(problem));
        }
        match heard.is_new(sender, number, time_ms) {
            true => Ok(message),
            false => Err(NotNew("told again: somebody repeats messages")),
        }
    }
}

/// Returns what comes before the signature.
fn head(sender: u64, time_ms: u64, number: u64) -> [u8; HEADER_BYTES - SIGNATURE_BYTES] {
    let mut head = [FORM; HEADER_BYTES - SIGNATURE_BYTES];
    head[1..9].copy_from_slice(&sender.to_be_bytes());
    head[9..17].copy_from_slice(&time_ms.to_be_bytes());
    head[17..].copy_from_slice(&number.to_be_bytes());
    head
}

/// The numbers of the messages that were heard, of each process.
#[derive(Debug, Default)]
struct HeardSenders(BTreeMap<u64, HeardNumbers>);

#[derive(Debug, Default)]
struct HeardNumbers {
    /// The highest number.
    highest: u64,
    /// Which of the numbers up to the highest one were heard: bit 0 is the highest one's.
    below: u64,
    /// The time of the newest message.
    time_ms: u64,
}

impl HeardSenders {
    /// Whether a message was not heard before; it is from now on.
    fn is_new(&mut self, sender: u64, number: u64, time_ms: u64) -> bool {
        if !self.0.contains_key(&sender) && self.0.len() >= MAX_SENDERS {
            // The process that has been silent longest has most probably ended.
            let oldest = self.0.iter().min_by_key(|(_, heard)| heard.time_ms);
            if let Some(oldest) = oldest.map(|(sender, _)| *sender) {
                self.0.remove(&oldest);
            }
        }
        let heard = self.0.entry(sender).or_default();
        heard.time_ms = heard.time_ms.max(time_ms);
        heard.takes(number)
    }
}

impl HeardNumbers {
    fn takes(&mut self, number: u64) -> bool {
        if number > self.highest {
            let higher = number - self.highest;
            self.below = if higher < REORDERED { self.below << higher | 1 } else { 1 };
            self.highest = number;
            return true;
        }
        let lower = self.highest - number;
        let is_new = lower < REORDERED && self.below >> lower & 1 == 0;
        if is_new {
            self.below |= 1 << lower;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_messages::MemoryMessages;
    use super::super::messages::ListenedMessage;
    use super::*;

    const KIND: MessageKind = MessageKind::Peers;
    const NOW_MS: u64 = 1_800_000_000_000;
    const HOUR_MS: u64 = 60 * 60 * 1_000;

    impl FleetMessages for MemoryMessages {
        fn tell(&self, kind: MessageKind, body: Bytes) -> Result<(), NotTold> {
            MemoryMessages::tell(self, kind, &body)
        }

        fn listen(&self, kind: MessageKind) -> StreamFuture<'_, Result<MessageListener, NotTold>> {
            let listener = MemoryMessages::listen(self, kind, Box::new(|| false));
            Box::pin(std::future::ready(Ok(listener)))
        }
    }

    fn node(
        carrier: &MemoryMessages,
        fleet: &str,
        secret: &str,
        clock: WallClock,
    ) -> SignedMessages {
        let secret = Some(secret).filter(|secret| !secret.is_empty()).map(Secret::from);
        SignedMessages::with_clock(Arc::new(carrier.clone()), fleet, secret, clock)
    }

    fn on_time() -> u64 {
        NOW_MS
    }

    /// Returns what is heard up to the message `end`.
    async fn heard(listener: &mut MessageListener) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            match listener.next().await {
                Some(ListenedMessage::Message(body)) if body == "end" => return heard,
                Some(ListenedMessage::Message(body)) => {
                    heard.push(String::from_utf8_lossy(&body).into_owned());
                }
                Some(ListenedMessage::OfStranger(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Goal: only messages of nodes with the same secret, of the same fleet and kind are heard,
    /// whole and once.
    #[tokio::test]
    async fn what_is_not_signed_with_the_secret_of_the_fleet_is_not_heard() {
        let carrier = MemoryMessages::default();
        let (one, other) =
            (node(&carrier, "f", "secret", on_time), node(&carrier, "f", "secret", on_time));
        let mut listener = one.listen(KIND).await.unwrap();
        let mut wire = carrier.listen(KIND, Box::new(|| false));
        other.tell(KIND, "hello".into()).unwrap();
        let Some(ListenedMessage::Message(told)) = wire.next().await else { panic!("it is told") };
        assert!(told.ends_with(b"hello") && !told.windows(6).any(|bytes| bytes == b"secret"));
        let mut refused = 0;
        for byte in 0..told.len() {
            let mut altered = told.to_vec();
            altered[byte] ^= 1;
            carrier.tell(KIND, &altered.into()).unwrap();
            carrier.tell(KIND, &told.slice(..byte)).unwrap();
            carrier.tell(KIND, &told).unwrap(); // Heard before.
            refused += 3;
        }
        for (fleet, secret) in [("f", "another"), ("g", "secret"), ("f", "")] {
            node(&carrier, fleet, secret, on_time).tell(KIND, "false".into()).unwrap();
            refused += 1;
        }
        // A message of one kind is none of another.
        let mut wire = carrier.listen(MessageKind::Ephemeral, Box::new(|| false));
        other.tell(MessageKind::Ephemeral, "event".into()).unwrap();
        let Some(ListenedMessage::Message(event)) = wire.next().await else { panic!("it is told") };
        carrier.tell(KIND, &event).unwrap();
        other.tell(KIND, "end".into()).unwrap();
        assert_eq!(heard(&mut listener).await, ["hello"]);
        assert_eq!((one.refused(), other.refused()), (refused + 1, 0));
    }

    /// Goal: clocks that are an hour wrong, each in another direction, keep nobody from being
    /// heard; what was told long ago is refused, also by a listener that has never heard its
    /// sender.
    #[tokio::test]
    async fn clocks_may_differ_by_two_hours_and_old_messages_are_refused() {
        let carrier = MemoryMessages::default();
        let here = node(&carrier, "f", "secret", || NOW_MS + HOUR_MS);
        let mut listener = here.listen(KIND).await.unwrap();
        let clocks: [(WallClock, &str); 4] = [
            (|| NOW_MS - HOUR_MS, "two hours behind"),
            (|| NOW_MS + 3 * HOUR_MS, "two hours ahead"),
            (|| NOW_MS - 2 * HOUR_MS - 1, "old"),
            (|| NOW_MS + 4 * HOUR_MS + 1, "to come"),
        ];
        for (clock, body) in clocks {
            node(&carrier, "f", "secret", clock).tell(KIND, body.into()).unwrap();
        }
        here.tell(KIND, "end".into()).unwrap();
        assert_eq!(heard(&mut listener).await, ["two hours behind", "two hours ahead"]);
        assert_eq!(here.refused(), 2);
    }

    #[tokio::test]
    async fn nodes_with_different_secrets_or_without_one_know_each_other_as_strangers() {
        let carrier = MemoryMessages::default();
        let secrets = ["", "secret", "another"];
        for (here, there) in secrets.iter().flat_map(|one| secrets.map(|other| (*one, other))) {
            let mut listener = node(&carrier, "f", here, on_time).listen(KIND).await.unwrap();
            node(&carrier, "f", there, on_time).tell(KIND, "{}".into()).unwrap();
            let heard = listener.next().await.unwrap();
            match here == there {
                true => assert_eq!(heard, ListenedMessage::Message("{}".into())),
                false => assert!(
                    matches!(heard, ListenedMessage::OfStranger(why)
                    if why.contains("fleet.secret")),
                    "{here:?} heard {there:?}: {heard:?}"
                ),
            }
        }
    }

    #[test]
    fn numbers_come_a_little_out_of_order_and_each_counts_once() {
        let mut heard = HeardSenders::default();
        let order = [3, 1, 2, 66, 4, 5, 67, 500, 436, 437];
        for number in order {
            assert_eq!(heard.is_new(7, number, 1), !matches!(number, 436), "{number}");
        }
        assert!(order.iter().all(|number| !heard.is_new(7, *number, 1)));
        for sender in 0..2 * MAX_SENDERS as u64 {
            assert!(heard.is_new(100 + sender, 1, sender));
            assert!(heard.0.len() <= MAX_SENDERS);
        }
        let newest = 100 + 2 * MAX_SENDERS as u64 - 1;
        assert!(!heard.is_new(newest, 1, 9_999));
    }
}
