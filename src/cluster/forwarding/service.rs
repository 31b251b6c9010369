//! The leader's end: decides the commands that other nodes send, as if their callers were its own.
//!
//! ```text
//! stream of a node ──▶ reading: into the queue, in order ──▶ answering: as the outcomes come ──▶
//! ```
//!
//! The order is kept for each publisher, and around changes of topics. A publish that must wait for
//! the ids of its topic, which are read once after a restart, holds up no other publisher.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use super::failures::failure;
use super::handing_in::WaitingPublishes;
use super::link::MAX_MESSAGE_BYTES;
use super::messages::{self, ReadCommand};
use crate::broker::{Ack, Broker, ForwardedAppend, InOrder};
use crate::cluster::links::check_proof;
use crate::cluster::proto::forwarding_server::{Forwarding, ForwardingServer};
use crate::cluster::proto::{
    AskRequest, AskResponse, CommandOutcome, CommandOutcomes, ForwardedCommand, ForwardedCommands,
};
use crate::cluster::replicated_log::ReplicatedLog;
use crate::error::Result;
use crate::secret::Secret;

/// The commands of one node that are decided at the same time. The queue's bytes bound them, too.
const MAX_DECIDED: usize = 65_536;

/// The commands that were handed in and are not yet waited for, and the messages that wait for a
/// node that reads slowly.
const MAX_HANDED_IN: usize = 64;
const MAX_MESSAGES: usize = 4;

/// The most outcomes of one message.
const MAX_OUTCOMES: usize = 1_024;

/// The service of a node for the others of its fleet. Serve it where [`NodeConfig::advertise`]
/// says. Cheap to clone.
///
/// [`NodeConfig::advertise`]: crate::cluster::NodeConfig::advertise
#[derive(Clone)]
pub struct ForwardingService {
    broker: Broker,
    log: Arc<ReplicatedLog>,
    secret: Option<Secret>,
    /// Where others reach this node.
    address: Arc<str>,
}

impl fmt::Debug for ForwardingService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardingService").finish_non_exhaustive()
    }
}

/// A command whose outcome is waited for.
type Deciding = BoxFuture<'static, (u64, Result<Vec<Ack>>)>;

type Outcomes = mpsc::Sender<std::result::Result<CommandOutcomes, Status>>;

impl ForwardingService {
    pub(in crate::cluster) fn new(
        broker: Broker,
        log: Arc<ReplicatedLog>,
        secret: Option<Secret>,
        address: &str,
    ) -> Self {
        Self { broker, log, secret, address: address.into() }
    }

    /// Returns the service, to be added to a server.
    pub(crate) fn served(
        self,
    ) -> InterceptedService<ForwardingServer<Self>, impl Interceptor + Clone> {
        let (secret, address) = (self.secret.clone(), self.address.clone());
        let served = ForwardingServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES);
        // Before anything of a message is read: messages of nodes may be large.
        InterceptedService::new(served, move |request: Request<()>| {
            check_proof(request.metadata(), secret.as_ref(), &address).map(|()| request)
        })
    }

    async fn serve(self, commands: Streaming<ForwardedCommands>, outcomes: Outcomes) {
        let listens = Ok(CommandOutcomes::default());
        if outcomes.send(listens).await.is_err() {
            return;
        }
        let (hand_in, handed_in) = mpsc::channel(MAX_HANDED_IN);
        tokio::join!(self.read(commands, hand_in), self.answer(handed_in, outcomes));
    }

    /// Hands in the commands of a node in their order, until it sends no more.
    async fn read(
        &self,
        mut commands: Streaming<ForwardedCommands>,
        decide: mpsc::Sender<Deciding>,
    ) {
        let mut reading =
            CommandsOfNode { publishers: Publishers::default(), waiting: WaitingPublishes::new() };
        loop {
            let message = tokio::select! {
                message = commands.message(), if reading.waiting.has_room() => message,
                HandedIn(deciding) = reading.waiting.next(|publish| self.hand_in(publish)) => {
                    if decide.send(deciding).await.is_err() {
                        return; // Nobody reads the answers.
                    }
                    continue;
                }
                () = self.broker.draining() => return,
            };
            let Ok(Some(ForwardedCommands { answered_below, commands })) = message else { return };
            reading.publishers.forget_below(answered_below);
            for command in commands {
                if self.take(command, &mut reading, &decide).await.is_none() {
                    return;
                }
            }
        }
    }

    /// Takes one command. `None` if nobody reads the answers.
    async fn take(
        &self,
        ForwardedCommand { number, command }: ForwardedCommand,
        reading: &mut CommandsOfNode,
        decide: &mpsc::Sender<Deciding>,
    ) -> Option<()> {
        let publisher = messages::publisher_of(command.as_ref());
        match messages::read_command(command) {
            Ok(ReadCommand::Publish { publisher, is_independent, appends }) => {
                let order = reading.publishers.order_of(publisher, number);
                let order = if is_independent { order.independent() } else { order };
                let bytes = appends.iter().map(|append| append.records.size_bytes()).sum();
                let publish = HandedPublish { number, order, appends };
                reading.waiting.add(publisher, (publish, bytes), |publish| self.hand_in(publish));
                // Most need not wait for anything.
                while let Some(deciding) = reading.handed_in(self) {
                    decide.send(deciding).await.ok()?;
                }
                Some(())
            }
            Ok(other) => {
                // A change may rest on the publishes before it, and those after it on the change.
                self.hand_in_all(reading, decide).await?;
                decide.send(self.other(number, other).await).await.ok()
            }
            Err(error) => {
                self.hand_in_all(reading, decide).await?;
                // Nothing after it is stored, either.
                let order = publisher.map(|it| reading.publishers.order_of(it, number));
                let error = match order {
                    Some(order) => order.refuse(error),
                    None => error,
                };
                decide.send(ready(number, Err(error))).await.ok()
            }
        }
    }

    /// Waits until all publishes are handed in that wait. `None` if nobody reads the answers.
    async fn hand_in_all(
        &self,
        reading: &mut CommandsOfNode,
        decide: &mpsc::Sender<Deciding>,
    ) -> Option<()> {
        while !reading.waiting.is_empty() {
            let handed_in = reading.waiting.next(|publish| self.hand_in(publish)).await;
            decide.send(handed_in.0).await.ok()?;
        }
        Some(())
    }

    /// Puts a publish into the queue. Returns what waits for its outcome.
    fn hand_in(&self, publish: HandedPublish) -> BoxFuture<'static, HandedIn> {
        let (broker, HandedPublish { number, order, appends }) = (self.broker.clone(), publish);
        Box::pin(async move {
            HandedIn(match broker.submit_forwarded(appends, &order).await {
                Ok(pending) => Box::pin(async move { (number, pending.acks().await) }),
                Err(error) => ready(number, Err(error)),
            })
        })
    }

    /// Carries a command out that is no publish. Returns what waits for its outcome.
    async fn other(&self, number: u64, command: ReadCommand) -> Deciding {
        let broker = self.broker.clone();
        match command {
            ReadCommand::Publish { .. } => unreachable!("it is handed in"),
            // The next command may rest on it.
            ReadCommand::Change { topic, change } => {
                let changed = broker.change_forwarded(&topic, change).await;
                ready(number, changed.map(|()| Vec::new()))
            }
            ReadCommand::Purge { topic, earliest } => Box::pin(async move {
                let purged = broker.purge_forwarded(&topic, earliest).await;
                (number, purged.map(|()| Vec::new()))
            }),
        }
    }

    /// Tells a node the outcomes of its commands, until it asks for no more.
    async fn answer(&self, mut handed_in: mpsc::Receiver<Deciding>, outcomes: Outcomes) {
        let mut deciding = FuturesUnordered::new();
        let mut is_over = false;
        while !(is_over && deciding.is_empty()) {
            let mut told: Vec<CommandOutcome> = Vec::new();
            tokio::select! {
                next = handed_in.recv(), if !is_over && deciding.len() < MAX_DECIDED => {
                    match next {
                        Some(next) => deciding.push(next),
                        None => is_over = true,
                    }
                }
                Some(decided) = deciding.next() => told.push(self.outcome(decided)),
            }
            while told.len() < MAX_OUTCOMES
                && !told.is_empty()
                && let Some(Some(decided)) = deciding.next().now_or_never()
            {
                told.push(self.outcome(decided));
            }
            if !told.is_empty() {
                let message = Ok(CommandOutcomes { outcomes: told });
                if outcomes.send(message).await.is_err() {
                    return; // The node is gone. What it has handed in is decided all the same.
                }
            }
        }
    }

    fn outcome(&self, (number, outcome): (u64, Result<Vec<Ack>>)) -> CommandOutcome {
        messages::outcome(number, self.log.place().stream.get(), outcome)
    }
}

fn ready(number: u64, outcome: Result<Vec<Ack>>) -> Deciding {
    Box::pin(std::future::ready((number, outcome)))
}

/// A publish that is to be handed in.
struct HandedPublish {
    number: u64,
    order: InOrder,
    appends: Vec<ForwardedAppend>,
}

/// A publish that is handed in, whose outcome is waited for.
struct HandedIn(Deciding);

/// The commands of one node, while they are read.
struct CommandsOfNode {
    publishers: Publishers,
    waiting: WaitingPublishes<HandedPublish, HandedIn>,
}

impl CommandsOfNode {
    /// Returns a publish that is handed in by now, if there is one.
    fn handed_in(&mut self, service: &ForwardingService) -> Option<Deciding> {
        let next = self.waiting.next(|publish| service.hand_in(publish));
        next.now_or_never().map(|handed_in| handed_in.0)
    }
}

/// The orders of a node's publishers, by the numbers that it has given them.
#[derive(Default)]
struct Publishers {
    orders: HashMap<u64, (InOrder, u64)>,
    /// The number of orders at which those are looked for that are not needed any more.
    full: usize,
}

impl Publishers {
    /// Returns the order of a publisher, whose publish has this number.
    fn order_of(&mut self, publisher: u64, number: u64) -> InOrder {
        let (order, last) = self.orders.entry(publisher).or_default();
        *last = number;
        order.clone()
    }

    /// Forgets the publishers whose publishes are all answered: the node knows of a failure by now,
    /// and sends nothing after it.
    fn forget_below(&mut self, answered_below: u64) {
        if self.orders.len() > self.full {
            self.orders.retain(|_, (_, last)| *last >= answered_below);
            self.full = 2 * self.orders.len() + 64;
        }
    }
}

#[tonic::async_trait]
impl Forwarding for ForwardingService {
    type ForwardStream =
        Pin<Box<dyn Stream<Item = std::result::Result<CommandOutcomes, Status>> + Send>>;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardedCommands>>,
    ) -> std::result::Result<Response<Self::ForwardStream>, Status> {
        let (outcomes, told) = mpsc::channel(MAX_MESSAGES);
        tokio::spawn(self.clone().serve(request.into_inner(), outcomes));
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn ask(
        &self,
        request: Request<AskRequest>,
    ) -> std::result::Result<Response<AskResponse>, Status> {
        let AskRequest { kind, request } = request.into_inner();
        let answer = self.broker.answer_question(&kind, request).await;
        Ok(Response::new(match answer {
            Ok(response) => AskResponse { response, failure: None },
            Err(error) => {
                AskResponse { response: bytes::Bytes::new(), failure: Some(failure(&error)) }
            }
        }))
    }
}
