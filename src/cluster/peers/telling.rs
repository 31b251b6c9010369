//! The task that tells the other nodes how this one is, and hears how they are.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::clock::{SteadyClock, until};
use super::super::messages::{
    FleetMessages, ListenedMessage, MessageKind, MessageListener, NotTold,
};
use super::list::{PeerWatch, PeersProblem};
use super::peer_status::PeerStatus;

/// Told what is wrong with the nodes as they are heard; `None` if nothing is.
pub(in crate::cluster) type TellProblem = Box<dyn Fn(Option<PeersProblem>) + Send + Sync>;

/// The task of a node that tells and hears.
pub(in crate::cluster) struct PeersTask {
    pub(in crate::cluster) messages: Arc<dyn FleetMessages>,
    pub(in crate::cluster) watch: PeerWatch,
    pub(in crate::cluster) tell_problem: TellProblem,
    /// The seed of the times between messages.
    pub(in crate::cluster) seed: u64,
}

impl PeersTask {
    /// Tells and hears for ever. A little chance is in the times, so that nodes that were started
    /// together do not go on together.
    pub(in crate::cluster) async fn run(self) -> Infallible {
        let clock = self.watch.clock.clone();
        let period = self.watch.peers().period;
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut jittered = move || period.mul_f64(random.random_range(1.0..1.25));
        let began = clock.now();
        loop {
            let mut listener = match self.messages.listen(MessageKind::Peers).await {
                Ok(listener) => listener,
                Err(error) => {
                    self.note(&error);
                    clock.sleep_until(clock.now() + jittered()).await;
                    continue;
                }
            };
            let mut next = clock.now();
            while self.hear_until(&mut listener, next, &*clock).await {
                let own = self.watch.own();
                let told = self.messages.tell(MessageKind::Peers, own.encode());
                if let Err(error) = &told {
                    self.note(error);
                }
                // While the engine is away, that is the problem, but strangers may still be there.
                let is_away = matches!(told, Err(NotTold::Away(_)));
                let problem = self.watch.peers().problem(began, clock.now());
                (self.tell_problem)(problem.filter(|it| it.is_among_strangers || !is_away));
                next = clock.now() + jittered();
            }
            clock.sleep_until(clock.now() + jittered()).await;
        }
    }

    /// Hears until this time. Returns whether the listener goes on.
    async fn hear_until(
        &self,
        listener: &mut MessageListener,
        end: Duration,
        clock: &dyn SteadyClock,
    ) -> bool {
        // Looked at after each message, so that many of them do not keep this node from telling.
        while clock.now() < end {
            match until(clock, end, listener.next()).await {
                Some(Some(ListenedMessage::Message(told))) => {
                    if let Some(status) = PeerStatus::decode(&told) {
                        self.watch.peers().hear(status, clock.now());
                    }
                }
                Some(Some(ListenedMessage::OfStranger(problem))) => {
                    self.watch.peers().hear_stranger(problem, clock.now());
                }
                Some(Some(ListenedMessage::Lost(lost))) => {
                    tracing::debug!(lost, "messages of other nodes were lost");
                }
                Some(None) => return false,
                None => {}
            }
        }
        true
    }

    fn note(&self, error: &NotTold) {
        tracing::debug!(%error, "the other nodes are not told how this one is");
    }
}
