//! Handles whose changes are decided in the order in which they are begun. `line.rs` says how.

use super::Consumers;
use super::id::ConsumerId;
use super::line::{ChangeOrder, InLine};

impl Consumers {
    /// Returns a handle whose changes need not wait for each other's answers: those of one consumer
    /// are decided in the order in which their futures were first polled, and one that looks at
    /// marks sees what those before it did. Clones of the handle share the order; changes of
    /// other consumers and of other handles have none.
    ///
    /// A change goes on only while its future is polled, so poll all of them: one that is neither
    /// polled nor dropped holds up those that come after it.
    ///
    /// ```
    /// # use leftoff::{Broker, consumers::*, cursor::Sequence, NewEvent, OpenConfig, Publish};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), leftoff::Error> {
    /// # let broker = Broker::in_memory(&OpenConfig::default())?;
    /// # broker.publish(Publish::one("a".parse()?, NewEvent::new("x").with_id("order-7"))).await?;
    /// let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await?.in_order();
    /// let inbox = ConsumerId::new("a".parse()?, "inbox".parse()?);
    /// let by_id = MarkedEvents::Named(vec![EventName::Id { id: "order-7".to_owned() }]);
    /// let first = MarkedEvents::Named(vec![EventName::Sequence(Sequence::FIRST)]);
    /// let read = consumers.mark(&inbox, MarkRequest::of(by_id).mark(Mark::Read), "me");
    /// let unread = consumers.mark(&inbox, MarkRequest::of(first).unmark(Mark::Read), "me");
    /// let (read, unread) = tokio::join!(biased; read, unread);
    /// assert!(read?.changed && unread?.changed);
    /// # broker.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn in_order(&self) -> Self {
        Self(self.0.clone(), self.1, Some(ChangeOrder::default()))
    }

    /// Returns a place in the line of a consumer. A handle without an order has a line for each
    /// change.
    pub(super) fn in_line(&self, id: &ConsumerId) -> InLine {
        match &self.2 {
            Some(order) => order.in_line(id),
            None => InLine::default(),
        }
    }
}
