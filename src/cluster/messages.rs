//! Messages between the nodes of a fleet that need not be kept: how each node is, for example.
//!
//! A node tells all nodes that listen. Each message may be lost, and nobody is told of that but by
//! [`ListenedMessage::Lost`], which counts what the listener itself had no room for. Messages of
//! one node come in order; those of different nodes in any. While the engine is away nothing is
//! kept for later: what a node wanted to tell then is refused.
//!
//! A node that listens hears what it tells itself, too. So it notices when messages do not pass.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::stream::StreamFuture;

/// The largest message, in bytes, with its signature.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;

/// The most messages that wait for one listener, and the most bytes of them.
const MAX_WAITING_MESSAGES: usize = 1_024;
const MAX_WAITING_BYTES: usize = 8 << 20;

/// What a message is about. A listener hears messages of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// How a node is.
    Peers,
    /// Ephemeral events.
    Ephemeral,
    /// Who is present at a node.
    Members,
}

impl MessageKind {
    /// Returns the kind's part of a subject.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Ephemeral => "ephemeral",
            Self::Members => "members",
        }
    }
}

/// Why a message was not sent to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotTold {
    /// The engine does not answer.
    #[error("the engine does not answer: {0}")]
    Away(String),
    /// Too much waits to be sent already.
    #[error("too much waits to be sent to the engine")]
    Busy,
    /// The message is too large.
    #[error("the message has {0} bytes; {MAX_MESSAGE_BYTES} are the most")]
    TooLarge(usize),
}

/// What carries messages between the nodes of one fleet.
pub trait FleetMessages: Send + Sync + 'static {
    /// Sends a message to all nodes that listen, this one included, without waiting. It may be lost
    /// all the same.
    ///
    /// # Errors
    ///
    /// [`NotTold`]: the message goes to nobody.
    fn tell(&self, kind: MessageKind, body: Bytes) -> Result<(), NotTold>;

    /// Begins to listen. What is told from here on is heard, as far as it is not lost, also after
    /// the engine was away.
    ///
    /// # Errors
    ///
    /// [`NotTold::Away`].
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    fn listen(&self, kind: MessageKind) -> StreamFuture<'_, Result<MessageListener, NotTold>>;
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenedMessage {
    /// A message.
    Message(Bytes),
    /// A message that is not signed with the secret of this node, and what is wrong with it.
    OfStranger(&'static str),
    /// This many messages came since the last call and are lost, because too many waited, or they
    /// were too large.
    Lost(u64),
}

/// Returns what is heard of a message; `None` if nothing is.
pub(super) type MessageCheck = Box<dyn FnMut(Bytes) -> Option<ListenedMessage> + Send + Sync>;

/// A listener of messages of one kind. A bounded number waits for it; what comes beyond that is
/// lost.
pub struct MessageListener {
    waiting: mpsc::Receiver<WaitingMessage>,
    lost: Arc<AtomicU64>,
    /// `None`: each message is heard as it came.
    check: Option<MessageCheck>,
}

impl fmt::Debug for MessageListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageListener").field("lost", &self.lost).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct WaitingMessage {
    body: Bytes,
    /// The message's share of the bytes that may wait.
    _space: OwnedSemaphorePermit,
}

/// The end of a listener that takes the messages in.
#[derive(Debug)]
pub(super) struct MessageInbox {
    waiting: mpsc::Sender<WaitingMessage>,
    space: Arc<Semaphore>,
    lost: Arc<AtomicU64>,
}

impl MessageListener {
    /// Returns a listener and its inbox.
    pub(super) fn new() -> (MessageInbox, Self) {
        let (sender, waiting) = mpsc::channel(MAX_WAITING_MESSAGES);
        let lost = Arc::new(AtomicU64::new(0));
        let space = Arc::new(Semaphore::new(MAX_WAITING_BYTES));
        let inbox = MessageInbox { waiting: sender, space, lost: lost.clone() };
        (inbox, Self { waiting, lost, check: None })
    }

    /// Returns this listener, of whose messages only what `check` returns is heard.
    pub(super) fn checked(self, check: MessageCheck) -> Self {
        Self { check: Some(check), ..self }
    }

    /// Waits for the next message; `None` when the connection has ended for good.
    ///
    /// # Cancel safety
    ///
    /// Safe: what is not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<ListenedMessage> {
        loop {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                return Some(ListenedMessage::Lost(lost));
            }
            let body = self.waiting.recv().await?.body;
            let heard = match &mut self.check {
                Some(check) => check(body),
                None => Some(ListenedMessage::Message(body)),
            };
            if heard.is_some() {
                return heard;
            }
        }
    }
}

impl MessageInbox {
    /// Puts a message before the listener, or counts it as lost.
    pub(super) fn put(&self, body: &[u8]) {
        if !self.has_put(body) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn has_put(&self, body: &[u8]) -> bool {
        let Some(bytes) = u32::try_from(body.len()).ok().filter(|_| fits(body)) else {
            return false;
        };
        let Ok(space) = self.space.clone().try_acquire_many_owned(bytes) else { return false };
        // A copy, because the bytes may be a small part of a large buffer.
        let body = Bytes::copy_from_slice(body);
        self.waiting.try_send(WaitingMessage { body, _space: space }).is_ok()
    }

    /// Waits until the listener is gone.
    pub(super) async fn closed(&self) {
        self.waiting.closed().await;
    }

    /// Whether the listener is gone.
    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.waiting.is_closed()
    }
}

/// Whether a message is small enough.
fn fits(body: &[u8]) -> bool {
    body.len() <= MAX_MESSAGE_BYTES
}

/// Checks the size of a message.
///
/// # Errors
///
/// [`NotTold::TooLarge`].
pub(super) fn check_size(body: &Bytes) -> Result<(), NotTold> {
    if fits(body) { Ok(()) } else { Err(NotTold::TooLarge(body.len())) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Waits for a message whose body is `wanted`, and returns how many were heard before it.
    async fn hear(listener: &mut MessageListener, wanted: &[u8]) -> usize {
        let waiting = async {
            let mut before = 0;
            loop {
                match listener.next().await.expect("the connection lives") {
                    ListenedMessage::Message(body) if body == wanted => return before,
                    _ => before += 1,
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.expect("it comes")
    }

    /// Checks that what a node tells is heard by all that listen, once and in order, also after
    /// the engine was away, and that it is refused meanwhile.
    pub(in crate::cluster) async fn messages_pass(
        [one, other]: [&dyn FleetMessages; 2],
        away: impl AsyncFnOnce(),
        back: impl AsyncFnOnce(),
    ) {
        let kind = MessageKind::Peers;
        let large = Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]);
        assert_eq!(one.tell(kind, large), Err(NotTold::TooLarge(MAX_MESSAGE_BYTES + 1)));
        let mut listeners = [one.listen(kind).await.unwrap(), other.listen(kind).await.unwrap()];
        for listener in &mut listeners {
            heard_at_last(one, listener, b"begin").await;
        }
        for number in 0..100_u8 {
            one.tell(kind, vec![number; 1 + 600 * usize::from(number)].into()).unwrap();
        }
        for listener in &mut listeners {
            for number in 0..100_u8 {
                let repeated = hear(listener, &vec![number; 1 + 600 * usize::from(number)]).await;
                assert!(number == 0 || repeated == 0, "{number}");
            }
        }
        away().await;
        let refused = async {
            while !matches!(one.tell(kind, "lost".into()), Err(NotTold::Away(_))) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), refused).await.expect("refused");
        back().await;
        for listener in &mut listeners {
            heard_at_last(one, listener, b"again").await;
        }
    }

    /// Tells until it is heard. Returns how many other messages were heard before.
    pub(in crate::cluster) async fn heard_at_last(
        one: &dyn FleetMessages,
        listener: &mut MessageListener,
        body: &[u8],
    ) -> usize {
        let telling = async {
            loop {
                // Refused while the engine is away.
                let _refused = one.tell(MessageKind::Peers, Bytes::copy_from_slice(body));
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            before = hear(listener, body) => before,
            never = telling => never,
        }
    }

    /// Goal: what waits for a listener is bounded in number and in bytes, and the listener is told
    /// how many messages it has lost.
    #[tokio::test]
    async fn a_listener_has_bounded_room_and_is_told_what_it_has_lost() {
        for (size, room) in
            [(1, MAX_WAITING_MESSAGES), (MAX_MESSAGE_BYTES, MAX_WAITING_BYTES / MAX_MESSAGE_BYTES)]
        {
            let (inbox, mut listener) = MessageListener::new();
            for number in 0..room + 3 {
                inbox.put(&vec![number as u8; size]);
            }
            inbox.put(&vec![0; MAX_MESSAGE_BYTES + 1]);
            assert_eq!(listener.next().await, Some(ListenedMessage::Lost(4)));
            for number in 0..room {
                let expected = ListenedMessage::Message(vec![number as u8; size].into());
                assert_eq!(listener.next().await, Some(expected));
            }
            inbox.put(b"there is room again");
            assert_eq!(hear(&mut listener, b"there is room again").await, 0);
            drop(inbox);
            assert_eq!(listener.next().await, None);
        }
    }
}
