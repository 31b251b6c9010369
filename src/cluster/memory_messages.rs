//! Messages between nodes for tests, in memory.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::messages::{MessageInbox, MessageKind, MessageListener, NotTold, check_size};

/// Says whether a listener cannot be reached at the moment.
type IsCut = Box<dyn Fn() -> bool + Send + Sync>;

/// The listeners of all nodes. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct MemoryMessages(Arc<Mutex<Vec<MemoryListener>>>);

struct MemoryListener {
    kind: MessageKind,
    inbox: MessageInbox,
    is_cut: IsCut,
}

impl MemoryMessages {
    /// Puts a message before all listeners that can be reached.
    pub(super) fn tell(&self, kind: MessageKind, body: &Bytes) -> Result<(), NotTold> {
        check_size(body)?;
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.inbox.is_closed());
        let hear = |listener: &&MemoryListener| listener.kind == kind && !(listener.is_cut)();
        listeners.iter().filter(hear).for_each(|listener| listener.inbox.put(body));
        Ok(())
    }

    /// Adds a listener.
    pub(super) fn listen(&self, kind: MessageKind, is_cut: IsCut) -> MessageListener {
        let (inbox, listener) = MessageListener::new();
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(MemoryListener { kind, inbox, is_cut });
        listener
    }
}
