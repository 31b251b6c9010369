//! A publisher of many batches: in order, over one stream, with a bounded window.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use futures_util::{Sink, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::PollSender;

use super::backoff::Backoff;
use super::connection::{Connection, Link};
use super::error::ClientError;
use super::sending::{self, BatchAck, PublishBatch};

/// A publisher of batches, from [`Client::publisher`](super::Client::publisher).
///
/// Batches are stored in the order in which they were taken, over all topics and all connections.
/// Batches that were not acknowledged when a connection broke are sent again, with the same ids, so
/// that nothing is stored twice. If a batch is refused, no batch after it is stored: each of them
/// fails with [`ClientError::NotStored`], and so does each later use; go on with a new publisher.
///
/// At most [`ClientConfig::window`](super::ClientConfig::window) batches wait for their
/// acknowledgement; then the publisher takes no more until one comes.
///
/// There are two ways to use it. [`ClientPublisher::send`] gives the acknowledgement of each batch.
/// As a `Sink` it is ready when there is room, a flush ends when all batches are acknowledged, and
/// the first refusal is the sink's error.
///
/// A dropped publisher still sends what it took. When its connection breaks then, it tries again
/// only for those who wait for an acknowledgement. [`ClientPublisher::close`] waits for all.
///
/// ```no_run
/// use leftoff::NewEvent;
/// use leftoff::client::{Client, PublishBatch};
///
/// # async fn publish(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let publisher = client.publisher();
/// let mut acks = Vec::new();
/// for number in 0..1_000_u32 {
///     let batch = PublishBatch::new("numbers".parse()?, vec![NewEvent::json(&number)?]);
///     acks.push(publisher.send(batch).await?); // Waits while the window is full.
/// }
/// for ack in acks {
///     println!("stored with sequence {}", ack.await?.acks[0].1.last().sequence);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ClientPublisher {
    batches: mpsc::Sender<Taken>,
    /// The same queue, for the sink.
    sink: PollSender<Taken>,
    /// The acknowledgements that the sink's flush waits for, at most as many as the window and the
    /// queue have room for.
    unflushed: VecDeque<PendingAck>,
    task: JoinHandle<Result<(), ClientError>>,
    /// Kept while somebody may wait for all batches.
    interest: Arc<()>,
}

/// The acknowledgement of a batch, when it comes.
///
/// # Errors
///
/// Why the batch is not stored, or is not known to be; see [`ClientError::outcome_unknown`].
///
/// # Cancel safety
///
/// A dropped one changes nothing: the batch is published all the same.
#[derive(Debug)]
#[must_use = "without its acknowledgement, nobody knows whether the batch is stored"]
pub struct PendingAck(oneshot::Receiver<Result<BatchAck, ClientError>>);

impl Future for PendingAck {
    type Output = Result<BatchAck, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.unwrap_or(Err(ClientError::Closed)))
    }
}

/// A batch that the publisher took.
#[derive(Debug)]
struct Taken {
    batch: PublishBatch,
    size_bytes: usize,
    answer: oneshot::Sender<Result<BatchAck, ClientError>>,
}

impl Taken {
    fn new(mut batch: PublishBatch) -> (Self, PendingAck) {
        batch.identify();
        let (answer, pending) = oneshot::channel();
        (Self { size_bytes: batch.size_bytes(), batch, answer }, PendingAck(pending))
    }
}

impl ClientPublisher {
    pub(super) fn start(connection: Arc<Connection>) -> Self {
        let (batches, taken) = mpsc::channel(1);
        let interest = Arc::new(());
        let publishing = Publishing {
            backoff: connection.backoff(),
            connection,
            batches: taken,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            interest: Arc::downgrade(&interest),
        };
        let task = tokio::spawn(publishing.run());
        let sink = PollSender::new(batches.clone());
        Self { batches, sink, unflushed: VecDeque::new(), task, interest }
    }

    /// Hands in a batch, and waits while the window is full. Returns what waits for the
    /// acknowledgement.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotStored`]: the publisher has ended after an earlier failure, and the batch
    /// is not stored.
    ///
    /// # Cancel safety
    ///
    /// The batch was not handed in, and is not published.
    pub async fn send(&self, batch: PublishBatch) -> Result<PendingAck, ClientError> {
        let room = self.batches.reserve().await.map_err(|_| ClientError::NotStored)?;
        let (taken, pending) = Taken::new(batch);
        room.send(taken);
        Ok(pending)
    }

    /// Takes no more, and waits until each batch that was taken has its answer.
    ///
    /// # Errors
    ///
    /// The failure that ended the publisher. The answer of each batch says whether it is stored.
    ///
    /// # Cancel safety
    ///
    /// As if the publisher was dropped.
    pub async fn close(self) -> Result<(), ClientError> {
        let Self { batches, sink, unflushed, task, interest } = self;
        drop((batches, sink));
        let ended = task.await.unwrap_or(Err(ClientError::Closed));
        drop((unflushed, interest));
        ended
    }

    /// Polls the acknowledgements that the flush waits for.
    fn poll_acks(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while let Some(oldest) = self.unflushed.front_mut() {
            let answer = ready!(Pin::new(oldest).poll(cx));
            self.unflushed.pop_front();
            answer?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Sink<PublishBatch> for ClientPublisher {
    type Error = ClientError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        if let Poll::Ready(Err(error)) = self.poll_acks(cx) {
            return Poll::Ready(Err(error));
        }
        self.sink.poll_reserve(cx).map_err(|_| ClientError::NotStored)
    }

    fn start_send(mut self: Pin<&mut Self>, batch: PublishBatch) -> Result<(), ClientError> {
        let (taken, pending) = Taken::new(batch);
        self.sink.send_item(taken).map_err(|_| ClientError::NotStored)?;
        self.unflushed.push_back(pending);
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.poll_acks(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.poll_flush(cx)
    }
}

/// The task of a publisher: it owns the batches without an answer, over all connections.
struct Publishing {
    connection: Arc<Connection>,
    batches: mpsc::Receiver<Taken>,
    /// Batches without an answer, oldest first. They are sent again on a new connection, which is
    /// safe because their events have ids.
    in_flight: VecDeque<Taken>,
    in_flight_bytes: usize,
    backoff: Backoff,
    interest: Weak<()>,
}

impl Publishing {
    /// Runs until the publisher is gone and each batch has its answer, or until a failure that no
    /// other try can mend; each batch has its answer then, too.
    async fn run(mut self) -> Result<(), ClientError> {
        loop {
            if self.in_flight.is_empty() {
                match self.batches.recv().await {
                    Some(taken) => self.take(taken),
                    None => return Ok(()),
                }
            }
            let mut link = None;
            let Err(error) = self.publish(&mut link).await else { return Ok(()) };
            if self.in_flight.is_empty() {
                // Nobody waits for anything: the next batch finds out how the broker is.
                if let Some(link) = &link {
                    self.connection.broke(link, &error);
                }
                continue;
            }
            let again = match self.is_forgotten() {
                true => Err(error),
                false => self.connection.after(link.as_ref(), error, &mut self.backoff).await,
            };
            if let Err(error) = again {
                self.fail(&error).await;
                return Err(error);
            }
        }
    }

    fn take(&mut self, taken: Taken) {
        self.in_flight_bytes += taken.size_bytes;
        self.in_flight.push_back(taken);
    }

    /// Whether nobody waits for any answer.
    fn is_forgotten(&self) -> bool {
        self.interest.strong_count() == 0
            && self.in_flight.iter().all(|taken| taken.answer.is_closed())
    }

    /// Publishes on one connection. Ends well when the publisher is gone and all is answered.
    async fn publish(&mut self, used: &mut Option<Link>) -> Result<(), ClientError> {
        let link = used.insert(self.connection.link().await?);
        let (requests, mut sent) = mpsc::channel(self.connection.config.window);
        let requested = stream::poll_fn(move |cx| sent.poll_recv(cx));
        let mut responses = sending::client(link).publish_stream(requested).await?.into_inner();
        let mut sent = 0; // The batches in flight that were sent on this connection.
        let (mut is_closed, mut is_last) = (false, false);
        loop {
            if is_last && self.in_flight.is_empty() {
                return Ok(());
            }
            let is_all_sent = sent == self.in_flight.len();
            let takes_more = !is_last && is_all_sent && self.has_room();
            tokio::select! {
                biased;
                // A stream answers all requests that it has read before it ends.
                response = responses.message() => {
                    let response = response?;
                    if sent == 0 {
                        return Err(ClientError::Ended); // There is nothing to answer.
                    }
                    self.settle(response)?;
                    sent -= 1;
                }
                room = requests.reserve(), if !is_all_sent && !is_closed => match room {
                    Ok(room) => {
                        room.send(self.in_flight[sent].batch.in_order());
                        sent += 1;
                    }
                    Err(_the_answers_say_why) => is_closed = true,
                },
                taken = self.batches.recv(), if takes_more => match taken {
                    Some(taken) => self.take(taken),
                    None => is_last = true,
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        let config = &self.connection.config;
        self.in_flight.is_empty()
            || (self.in_flight.len() < config.window && self.in_flight_bytes < config.window_bytes)
    }

    /// Gives the oldest batch its answer.
    fn settle(
        &mut self,
        response: Option<crate::edge::proto::PublishStreamResponse>,
    ) -> Result<(), ClientError> {
        let Some(oldest) = self.in_flight.front() else { return Err(ClientError::Ended) };
        let acknowledged = oldest.batch.settled(response)?;
        self.backoff.progressed();
        if let Some(oldest) = self.in_flight.pop_front() {
            self.in_flight_bytes -= oldest.size_bytes;
            let _nobody_may_wait = oldest.answer.send(Ok(acknowledged));
        }
        Ok(())
    }

    /// Answers all batches after a failure. If the broker refused the oldest one, it has stored
    /// none after it. Otherwise it is unknown what it has stored of those that were sent.
    async fn fail(&mut self, error: &ClientError) {
        let is_refused = matches!(error, ClientError::Status(_)) && !error.is_transient();
        let mut answer = error.clone();
        for taken in self.in_flight.drain(..) {
            let _nobody_may_wait = taken.answer.send(Err(answer.clone()));
            if is_refused {
                answer = ClientError::NotStored;
            }
        }
        self.batches.close();
        while let Some(taken) = self.batches.recv().await {
            let _nobody_may_wait = taken.answer.send(Err(ClientError::NotStored));
        }
    }
}
