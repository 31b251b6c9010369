//! Messages between the nodes of a fleet over core NATS, on the connection of the stream.
//!
//! The subjects are beside that of the stream's records, and no stream has them.

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::NatsStream;
use crate::cluster::messages::{FleetMessages, MessageKind, MessageListener, NotTold, check_size};
use crate::cluster::stream::StreamFuture;

impl FleetMessages for NatsStream {
    fn tell(&self, kind: MessageKind, body: Bytes) -> Result<(), NotTold> {
        check_size(&body)?;
        self.at.connection.tell_now(self.at.names.subject_of(kind), body)
    }

    fn listen(&self, kind: MessageKind) -> StreamFuture<'_, Result<MessageListener, NotTold>> {
        Box::pin(async move {
            let subject = self.at.names.subject_of(kind);
            let messages = self.at.connection.subscribe_to(subject).await;
            let mut messages = messages.map_err(NotTold::Away)?;
            let (inbox, listener) = MessageListener::new();
            // The client has room for many messages, so they are taken from it at once.
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = inbox.closed() => return,
                        message = messages.next() => match message {
                            Some(message) => inbox.put(&message.payload),
                            None => return,
                        },
                    }
                }
            });
            Ok(listener)
        })
    }
}
