//! Who is connected: how many there may be, and what each follows.
//!
//! A server puts a [`Peer`] into the extensions of its requests; in a host that mounts the routes
//! in a server of its own there is none, and nothing is listed.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde_json::{Value, json};

use super::budget::{AddressShare, Budget, Share};
use super::intake::Intake;
use super::rates::{Caller, CallerRates, Rate, Rates};
use crate::broker::{Broker, Reader};
use crate::edge::upgrades::Upgrades;
use crate::error::RateLimit;
use crate::topic::TopicName;

/// How many clients there may be, and what they may hold together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientLimits {
    pub(crate) connections: u64,
    pub(crate) connections_per_address: u64,
    pub(crate) max_bytes: u64,
}

/// Everybody who is connected.
#[derive(Debug)]
pub(crate) struct Clients {
    limits: ClientLimits,
    budget: Arc<Budget>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    clients: BTreeMap<u64, Arc<Client>>,
    by_caller: HashMap<Caller, OfCaller>,
}

/// The connections of one caller.
#[derive(Debug)]
struct OfCaller {
    count: u64,
    share: Arc<AddressShare>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    id: u64,
    address: SocketAddr,
    /// What its caller may ask for.
    rates: CallerRates,
    share: Share,
    since: Instant,
    sent_bytes: AtomicU64,
    followed: Mutex<Vec<Arc<Followed>>>,
}

/// What a client follows.
#[derive(Debug)]
pub(super) struct Followed {
    protocol: &'static str,
    topics: String,
    /// Its one topic, if it is one: its place is a sequence then, and a position otherwise.
    topic: Option<TopicName>,
    /// Its place after its last write.
    after: AtomicU64,
}

impl Followed {
    /// What there is to tell of it.
    pub(super) fn json(&self, broker: &Broker) -> Value {
        json!({"protocol": self.protocol, "topics": self.topics, "lag": self.lag(broker)})
    }

    /// How many events of the one topic, or how many positions, it is behind.
    fn lag(&self, broker: &Broker) -> u64 {
        let last = match &self.topic {
            Some(topic) => {
                broker.topic(topic).map_or(0, |topic| topic.extent.tail.previous().get())
            }
            None => broker.last_position().get(),
        };
        last.saturating_sub(self.after.load(Ordering::Relaxed))
    }
}

/// A connection that was let in, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Admitted {
    client: Arc<Client>,
    clients: Arc<Clients>,
}

/// Why a connection was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are as many as there may be.
    Full { limit: u64 },
    /// There are as many from this address.
    AddressFull { limit: u64 },
    /// They come faster from this address than they may.
    TooOften(RateLimit),
}

/// Where a request comes from, and what its connection may become.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(super) client: Arc<Client>,
    pub(super) clients: Arc<Clients>,
    pub(super) upgrades: Upgrades,
    /// What it has sent that nobody has taken yet.
    pub(crate) intake: Arc<Intake>,
}

impl Peer {
    pub(crate) fn new(admitted: &Admitted, intake: Arc<Intake>, upgrades: Upgrades) -> Self {
        let Admitted { client, clients } = admitted;
        Self { client: client.clone(), clients: clients.clone(), upgrades, intake }
    }

    /// What the caller may ask for.
    pub(super) fn rates(&self) -> &CallerRates {
        &self.client.rates
    }

    /// What was written to its connection so far, in bytes.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.client.sent_bytes.load(Ordering::Relaxed)
    }

    /// Its share of the memory for clients.
    pub(crate) fn share(&self) -> &Share {
        &self.client.share
    }
}

impl CallerRates {
    /// Those of whoever is at the other end; none in a host that has no [`Peer`].
    pub(super) fn of(peer: Option<&Peer>) -> Self {
        peer.map(|peer| peer.rates().clone()).unwrap_or_default()
    }
}

impl<S: Sync> FromRequestParts<S> for CallerRates {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts.extensions.get::<Peer>()))
    }
}

/// The share of the memory for clients of whoever asks; where nobody counts, there is no bound.
pub(super) fn share(peer: Option<&Peer>) -> Share {
    peer.map(|peer| peer.share().clone()).unwrap_or_default()
}

impl Clients {
    pub(crate) fn new(limits: ClientLimits) -> Arc<Self> {
        let budget = Budget::new(limits.max_bytes);
        Arc::new(Self { limits, budget, open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a client in, if there is room, and the rates of the listener allow it.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: SocketAddr,
        rates: Option<&Arc<Rates>>,
    ) -> Result<Admitted, Refused> {
        let caller = Caller::at(address.ip());
        let rates = rates.map(|rates| rates.of(caller.clone())).unwrap_or_default();
        rates.check(Rate::Connections, 1).map_err(Refused::TooOften)?;
        let ClientLimits { connections, connections_per_address, .. } = self.limits;
        let mut open = self.open();
        if open.clients.len() as u64 >= connections {
            return Err(Refused::Full { limit: connections });
        }
        let new = || OfCaller { count: 0, share: self.budget.address() };
        let of_caller = open.by_caller.entry(caller).or_insert_with(new);
        if of_caller.count >= connections_per_address {
            return Err(Refused::AddressFull { limit: connections_per_address });
        }
        of_caller.count += 1;
        let share = of_caller.share.connection();
        open.next_id += 1;
        let client = Arc::new(Client {
            id: open.next_id,
            address,
            rates,
            share,
            since: Instant::now(),
            sent_bytes: AtomicU64::new(0),
            followed: Mutex::default(),
        });
        open.clients.insert(client.id, client.clone());
        Ok(Admitted { client, clients: self.clone() })
    }

    /// What they hold together, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.budget.used_bytes()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open().clients.len()
    }

    /// The first of them that came after the one with this id, and its id.
    pub(super) fn next(&self, id: u64) -> Option<(u64, Arc<Client>)> {
        let open = self.open();
        let next = open.clients.range(id.saturating_add(1)..).next();
        next.map(|(id, client)| (*id, client.clone()))
    }
}

impl Client {
    /// What there is to tell of it, but for its streams.
    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id,
            "address": self.address.to_string(),
            "user": null,
            "age_ms": self.since.elapsed().as_millis() as u64,
            "sent_bytes": self.sent_bytes.load(Ordering::Relaxed),
        })
    }

    /// What it follows.
    pub(super) fn followed(&self) -> Vec<Arc<Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Admitted {
    /// Its share of the memory for clients.
    pub(crate) fn share(&self) -> &Share {
        &self.client.share
    }

    /// Counts what was sent.
    pub(crate) fn sent(&self, size_bytes: usize) {
        self.client.sent_bytes.fetch_add(size_bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        open.clients.remove(&self.client.id);
        let caller = Caller::at(self.client.address.ip());
        if let Some(of_caller) = open.by_caller.get_mut(&caller) {
            of_caller.count -= 1;
            if of_caller.count == 0 {
                open.by_caller.remove(&caller);
            }
        }
    }
}

/// Has what is followed listed, for as long as it is held.
#[derive(Debug)]
pub(super) struct Following {
    clients: Option<Arc<Clients>>,
    listed: Option<(Arc<Client>, Arc<Followed>)>,
}

impl Following {
    /// Of a client that follows what `reader` reads.
    pub(super) fn new(peer: Option<&Peer>, protocol: &'static str, reader: &Reader) -> Self {
        let listed = peer.map(|Peer { client, .. }| {
            let topics = match reader {
                Reader::One(one) => one.topic().to_string(),
                Reader::Many(many) => {
                    let patterns = many.patterns().iter().map(|pattern| pattern.as_str());
                    patterns.collect::<Vec<_>>().join(" ")
                }
            };
            let topic = match reader {
                Reader::One(one) => Some(one.topic().clone()),
                Reader::Many(_) => None,
            };
            let after = AtomicU64::new(reader.cursor().after.number());
            let followed = Arc::new(Followed { protocol, topics, topic, after });
            let mut all = client.followed.lock().unwrap_or_else(PoisonError::into_inner);
            all.reserve_exact(1); // Most connections have one.
            all.push(followed.clone());
            (client.clone(), followed)
        });
        Self { clients: peer.map(|peer| peer.clients.clone()), listed }
    }

    /// Among how many connections it is.
    pub(super) fn connections(&self) -> usize {
        self.clients.as_ref().map_or(0, |clients| clients.count())
    }

    /// Notes its place after a write.
    pub(super) fn note(&self, reader: &Reader) {
        if let Some((_, followed)) = &self.listed {
            followed.after.store(reader.cursor().after.number(), Ordering::Relaxed);
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some((client, followed)) = &self.listed {
            let mut all = client.followed.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|other| !Arc::ptr_eq(other, followed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_there_may_be_in_all_and_from_one_address() {
        let limits =
            ClientLimits { connections: 3, connections_per_address: 2, max_bytes: 1 << 20 };
        let clients = Clients::new(limits);
        let from = |ip: [u8; 4], port| SocketAddr::from((ip, port));
        let one = clients.admit(from([10, 0, 0, 1], 1), None).unwrap();
        let _two = clients.admit(from([10, 0, 0, 1], 2), None).unwrap();
        let refused = clients.admit(from([10, 0, 0, 1], 3), None).unwrap_err();
        assert_eq!(refused, Refused::AddressFull { limit: 2 });
        let three = clients.admit(from([10, 0, 0, 2], 1), None).unwrap();
        let refused = clients.admit(from([10, 0, 0, 3], 1), None).unwrap_err();
        assert_eq!(refused, Refused::Full { limit: 3 });
        drop(one);
        let _again = clients.admit(from([10, 0, 0, 1], 4), None).unwrap();
        drop(three);
        assert_eq!(clients.count(), 2);
        assert_eq!(clients.open().by_caller.len(), 1, "nothing is left of who is gone");
        let (id, _again) = clients.next(2).unwrap();
        assert!(id == 4 && clients.next(id).is_none(), "{id}");
        // Whoever has one address of IPv6 has 2^64 of them.
        let limits =
            ClientLimits { connections: 9, connections_per_address: 1, max_bytes: 1 << 20 };
        let clients = Clients::new(limits);
        let of_ipv6 = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        let _one = clients.admit(of_ipv6("2001:db8::1"), None).unwrap();
        let refused = clients.admit(of_ipv6("2001:db8::2"), None).unwrap_err();
        assert_eq!(refused, Refused::AddressFull { limit: 1 });
        let _other = clients.admit(of_ipv6("2001:db8:0:1::1"), None).unwrap();
    }
}
