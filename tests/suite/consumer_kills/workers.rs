//! Workers of a shared consumer, and what they were given and told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::asking::{Asker, ms_of, now_ms};

/// The settings of the consumer: leases are longer than a restart, and shorter than the test.
pub(super) const LEASE_MS: u64 = 2_000;
pub(super) const MAX_TRIES: u64 = 3;

/// No worker can finish an event whose sequence is a multiple of this.
const FAILING: u64 = 13;

const PULL: &str = "/v1/consumers/crew/pull?topic=jobs";
const SETTLE: &str = "/v1/consumers/crew/settle?topic=jobs";

/// The difference up to which two times of one clock say nothing about their order, in
/// milliseconds.
const MARGIN_MS: u64 = 5;

/// A lease that a worker was given. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) id: String,
    pub(super) sequence: u64,
    pub(super) key: String,
    pub(super) tries: u64,
    /// The time at which the pull was sent, and the time at which its answer was there.
    pub(super) asked_ms: u64,
    pub(super) given_ms: u64,
    /// The end of the lease that the broker has promised.
    pub(super) until_ms: u64,
    /// The time at which the worker began to give it back or to fail it.
    pub(super) returned_ms: Option<u64>,
    /// Whether the worker gave it back unused, which never makes a dead letter of the event.
    pub(super) is_released: bool,
    /// The time at which the worker first began to acknowledge it.
    pub(super) acking_ms: Option<u64>,
    /// The time at which the acknowledgement was answered with `done`.
    pub(super) acked_ms: Option<u64>,
}

/// All leases that were given, in the order in which they became known.
pub(super) type Leases = Arc<Mutex<Vec<Lease>>>;

/// What a worker does with its leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Diligence {
    /// It finishes some, fails others, and forgets some.
    Mixed,
    /// It finishes all that can be finished, until there has been nothing for longer than a lease.
    Full,
}

/// One worker: its name, and the leases that it still has, by their places in the list of all.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) has: Vec<usize>,
    pub(super) random: StdRng,
}

impl Worker {
    pub(super) fn new(number: u64, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed ^ number);
        Self { name: format!("w{number}"), has: Vec::new(), random }
    }

    /// Works until the broker is gone, or nothing is left to do.
    pub(super) async fn work(
        mut self,
        at: SocketAddr,
        leases: Leases,
        diligence: Diligence,
    ) -> Self {
        let asker = Asker::new(at);
        // The leases from before a kill still hold.
        if !self.settle(&asker, &leases, diligence).await {
            return self;
        }
        let mut last_ms = now_ms();
        loop {
            match self.pull(&asker, &leases).await {
                None => return self,
                Some(0) if diligence == Diligence::Full => {
                    if now_ms() > last_ms + LEASE_MS + 500 {
                        return self;
                    }
                }
                Some(_) => last_ms = now_ms(),
            }
            let pause = Duration::from_millis(self.random.random_range(0..15));
            tokio::time::sleep(pause).await;
            if !self.settle(&asker, &leases, diligence).await {
                return self;
            }
        }
    }

    /// Pulls, and returns the number of new leases; `None` if the broker is gone.
    async fn pull(&mut self, asker: &Asker, leases: &Leases) -> Option<usize> {
        let limit = self.random.random_range(1..8);
        let body = json!({"worker": self.name, "limit": limit, "wait_ms": 100});
        let asked_ms = now_ms();
        let (status, told) = asker.ask("POST", PULL, &body).await?;
        assert_eq!(status, 200, "{told}");
        let given = told["leases"].as_array().unwrap();
        let mut leases = leases.lock().unwrap();
        for lease in given {
            let event = &lease["event"];
            self.has.push(leases.len());
            leases.push(Lease {
                id: lease["lease"].as_str().unwrap().to_owned(),
                sequence: event["sequence"].as_u64().unwrap(),
                key: event["key"].as_str().unwrap_or_default().to_owned(),
                tries: lease["tries"].as_u64().unwrap(),
                asked_ms,
                given_ms: now_ms(),
                until_ms: ms_of(&lease["until"]),
                returned_ms: None,
                is_released: false,
                acking_ms: None,
                acked_ms: None,
            });
        }
        Some(given.len())
    }

    /// Settles leases, some of them in each way. Returns whether the broker is there.
    async fn settle(&mut self, asker: &Asker, leases: &Leases, diligence: Diligence) -> bool {
        let mut body = json!({"ack": [], "nack": [], "extend": [], "release": []});
        let mut sent: [Vec<usize>; 4] = Default::default();
        {
            let mut leases = leases.lock().unwrap();
            for at in std::mem::take(&mut self.has) {
                let lease = &mut leases[at];
                let choice = match diligence {
                    _ if lease.sequence.is_multiple_of(FAILING) => 70,
                    Diligence::Mixed => self.random.random_range(0..100),
                    Diligence::Full => 0,
                };
                let id = &lease.id;
                match choice {
                    0..70 => {
                        body["ack"].as_array_mut().unwrap().push(json!(id));
                        lease.acking_ms.get_or_insert_with(now_ms); // It may be said again.
                        sent[0].push(at);
                    }
                    70..82 => {
                        let delay_ms = self.random.random_range(0..2) * 30;
                        let nack = json!({"lease": id, "delay_ms": delay_ms, "reason": "no paper"});
                        body["nack"].as_array_mut().unwrap().push(nack);
                        lease.returned_ms = Some(now_ms());
                        sent[1].push(at);
                    }
                    82..90 => {
                        let extend = json!({"lease": id, "for_ms": LEASE_MS});
                        body["extend"].as_array_mut().unwrap().push(extend);
                        sent[2].push(at);
                        self.has.push(at);
                    }
                    90..96 => {
                        body["release"].as_array_mut().unwrap().push(json!(id));
                        (lease.returned_ms, lease.is_released) = (Some(now_ms()), true);
                        sent[3].push(at);
                    }
                    96..98 => self.has.push(at), // It is worked on for longer.
                    _ => {}                      // It is forgotten.
                }
            }
        }
        if sent.iter().all(Vec::is_empty) {
            return true;
        }
        let Some((status, told)) = asker.ask("POST", SETTLE, &body).await else {
            // Some clients say it again, until it is answered.
            let again = self.random.random_bool(0.5);
            self.has.extend(sent[0].iter().filter(|_| again));
            return false;
        };
        assert_eq!(status, 200, "{told}");
        let mut leases = leases.lock().unwrap();
        note(&told, &sent, &mut leases);
        true
    }
}

/// Notes outcomes. A lease whose time is not over is still the worker's.
fn note(told: &Value, sent: &[Vec<usize>; 4], leases: &mut [Lease]) {
    let now_ms = now_ms();
    for (name, places) in ["ack", "nack", "extend", "release"].into_iter().zip(sent) {
        for (index, place) in places.iter().enumerate() {
            let (lease, outcome) = (&mut leases[*place], &told[name][index]);
            let is_over = outcome["outcome"] == "over";
            // What was said before a kill may have been done, and is repeated as an `ack` only.
            let may_be_over =
                now_ms + MARGIN_MS >= lease.until_ms || name != "ack" && lease.acking_ms.is_some();
            assert!(!is_over || may_be_over, "{name}: {outcome}: {lease:?} at {now_ms}");
            match name {
                "ack" if !is_over => lease.acked_ms = Some(now_ms),
                "extend" if !is_over => lease.until_ms = ms_of(&outcome["until"]),
                _ => {}
            }
        }
    }
}
