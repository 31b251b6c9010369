//! The connected clients: how many there may be, and which topics each follows.
//!
//! Admission, the share of memory of an address and the list of connections are one table under one
//! lock. So admission is here and not with the sockets.
//!
//! A server puts a [`Peer`] into the extensions of its requests. A host that mounts the routes in a
//! server of its own sets none; nothing is listed then.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::budget::{AddressShare, Budget, Share};
use super::intake::Intake;
use super::overview::history::History;
use super::overview::traffic::Traffic;
use super::peer_address::PeerAddress;
use super::rates::{Caller, CallerRates, Rate, Rates};
use crate::broker::{Broker, Reader, Run};
use crate::cursor::{Cursor, Place, Position, Sequence};
use crate::edge::upgrades::Upgrades;
use crate::error::RateLimit;
use crate::topic::TopicName;

/// The limits on the number of clients, and on the memory that they hold together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientLimits {
    pub(crate) connections: u64,
    pub(crate) connections_per_address: u64,
    pub(crate) max_bytes: u64,
}

/// All connected clients.
#[derive(Debug)]
pub(crate) struct Clients {
    limits: ClientLimits,
    budget: Arc<Budget>,
    open: Mutex<OpenConnections>,
    /// The counters of live readers, on all connections.
    pub(super) traffic: Traffic,
    /// The newest minutes, for the overview.
    pub(super) history: History,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next_id: u64,
    clients: BTreeMap<u64, Arc<KnownClient>>,
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
pub(crate) struct KnownClient {
    id: u64,
    address: PeerAddress,
    /// The rates of the client's caller.
    rates: CallerRates,
    share: Share,
    /// The id of the caller, as the host's hooks have told it last.
    caller_id: Mutex<Option<Arc<str>>>,
    since: Instant,
    sent_bytes: AtomicU64,
    /// Given when the connection is to end.
    end: Notify,
    is_ended: AtomicBool,
    followed: Mutex<Vec<Arc<Followed>>>,
}

/// One subscription of a client.
#[derive(Debug)]
pub(super) struct Followed {
    protocol: &'static str,
    topics: String,
    /// The topic, if there is exactly one. `after` is a sequence then, and a position otherwise.
    topic: Option<TopicName>,
    /// The reader's place after the last write.
    after: AtomicU64,
}

impl Followed {
    /// Returns the subscription as JSON.
    pub(super) fn json(&self, broker: &Broker) -> Value {
        let (protocol, topics, lag) = (self.protocol, &self.topics, self.lag(broker));
        let after = self.after.load(Ordering::Relaxed);
        let after = match self.topic {
            Some(_) => Place::Sequence(Sequence::new(after)),
            None => Place::Position(Position::new(after)),
        };
        let cursor = Cursor { after, since: None, epoch: Some(broker.epoch()) }.to_string();
        json!({"protocol": protocol, "topics": topics, "cursor": cursor, "lag": lag})
    }

    /// Returns the topic and the sequence after which it is read, if it is one topic.
    pub(super) fn place(&self) -> Option<(&TopicName, u64)> {
        Some((self.topic.as_ref()?, self.after.load(Ordering::Relaxed)))
    }

    /// Returns how many events (of one topic) or positions (of many) the subscription is behind.
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

/// An admitted connection. Dropping it removes the client.
#[derive(Debug)]
pub(crate) struct Admitted {
    client: Arc<KnownClient>,
    clients: Arc<Clients>,
}

/// The reason for which a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The limit on all connections is reached.
    Full { limit: u64 },
    /// The limit on the connections of one address is reached.
    AddressFull { limit: u64 },
    /// The address opens connections faster than its rate allows.
    TooOften(RateLimit),
}

/// The client that sent a request, and the means to upgrade its connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(super) client: Arc<KnownClient>,
    pub(super) clients: Arc<Clients>,
    pub(super) upgrades: Upgrades,
    /// The bytes that the client has sent and nobody has taken yet.
    pub(crate) intake: Arc<Intake>,
    /// The client's certificate in DER, if it has shown one. Not in [`KnownClient`]: an event
    /// stream drops its peer, and does not hold the certificate.
    certificate: Option<Arc<[u8]>>,
}

impl Peer {
    pub(crate) fn new(admitted: &Admitted, intake: Arc<Intake>, upgrades: Upgrades) -> Self {
        let Admitted { client, clients } = admitted;
        let (client, clients) = (client.clone(), clients.clone());
        Self { client, clients, upgrades, intake, certificate: None }
    }

    /// Sets the certificate that the client has shown.
    pub(crate) fn certified(self, certificate: Option<Arc<[u8]>>) -> Self {
        Self { certificate, ..self }
    }

    /// Returns the certificate that the client has shown.
    pub(super) fn certificate(&self) -> Option<Arc<[u8]>> {
        self.certificate.clone()
    }

    /// Returns the address of the client.
    pub(crate) fn address(&self) -> PeerAddress {
        self.client.address
    }

    /// Notes the id of the caller, for the list of connections.
    pub(super) fn set_caller(&self, id: Arc<str>) {
        *self.client.caller_id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// Returns the rates of the caller.
    pub(super) fn rates(&self) -> &CallerRates {
        &self.client.rates
    }

    /// Returns how many bytes were written to the connection so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.client.sent_bytes.load(Ordering::Relaxed)
    }

    /// Returns the connection's share of the memory for clients.
    pub(crate) fn share(&self) -> &Share {
        &self.client.share
    }
}

impl CallerRates {
    /// Returns the rates of the client; no limits in a host that has no [`Peer`].
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

/// Returns the client's share of the memory for clients; an unbounded one where there is no
/// [`Peer`].
pub(crate) fn share(peer: Option<&Peer>) -> Share {
    peer.map(|peer| peer.share().clone()).unwrap_or_default()
}

impl Clients {
    pub(crate) fn new(limits: ClientLimits) -> Arc<Self> {
        let budget = Budget::new(limits.max_bytes);
        let (open, traffic, history) = Default::default();
        Arc::new(Self { limits, budget, open, traffic, history })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a client, if the limits leave room and the rates of the listener allow it.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: PeerAddress,
        rates: Option<&Arc<Rates>>,
    ) -> Result<Admitted, Denied> {
        let caller = Caller::at(address.ip());
        let rates = rates.map(|rates| rates.of(caller.clone())).unwrap_or_default();
        rates.check(Rate::Connections, 1).map_err(Denied::TooOften)?;
        let ClientLimits { connections, connections_per_address, .. } = self.limits;
        let mut open = self.open();
        if open.clients.len() as u64 >= connections {
            return Err(Denied::Full { limit: connections });
        }
        let new = || OfCaller { count: 0, share: self.budget.address() };
        let of_caller = open.by_caller.entry(caller).or_insert_with(new);
        if of_caller.count >= connections_per_address {
            return Err(Denied::AddressFull { limit: connections_per_address });
        }
        of_caller.count += 1;
        let share = of_caller.share.connection();
        open.next_id += 1;
        let client = Arc::new(KnownClient {
            id: open.next_id,
            address,
            rates,
            share,
            caller_id: Mutex::default(),
            since: Instant::now(),
            sent_bytes: AtomicU64::new(0),
            end: Notify::new(),
            is_ended: AtomicBool::new(false),
            followed: Mutex::default(),
        });
        open.clients.insert(client.id, client.clone());
        Ok(Admitted { client, clients: self.clone() })
    }

    /// Returns the limits.
    pub(super) fn limits(&self) -> ClientLimits {
        self.limits
    }

    /// Returns how many bytes all clients hold together.
    pub(super) fn held_bytes(&self) -> usize {
        self.budget.used_bytes()
    }

    /// Returns how many clients are connected.
    pub(super) fn count(&self) -> usize {
        self.open().clients.len()
    }

    /// Ends the connection with this id. Returns whether there is one.
    pub(super) fn end(&self, id: u64) -> bool {
        let client = self.open().clients.get(&id).cloned();
        client.iter().for_each(|client| {
            client.is_ended.store(true, Ordering::SeqCst);
            client.end.notify_waiters();
        });
        client.is_some()
    }

    /// Returns the client with the lowest id above `id`, and that id.
    pub(super) fn next(&self, id: u64) -> Option<(u64, Arc<KnownClient>)> {
        let open = self.open();
        let next = open.clients.range(id.saturating_add(1)..).next();
        next.map(|(id, client)| (*id, client.clone()))
    }
}

impl KnownClient {
    /// Returns the client as JSON, without its subscriptions.
    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id,
            "address": self.address.to_string(),
            "user": self.caller_id.lock().unwrap_or_else(PoisonError::into_inner).as_deref(),
            "age_ms": self.since.elapsed().as_millis() as u64,
            "sent_bytes": self.sent_bytes.load(Ordering::Relaxed),
        })
    }

    /// Waits until an administrator ends the connection.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: another call waits for the same.
    pub(crate) async fn ended(&self) {
        let mut end = pin!(self.end.notified());
        // Whoever ends the connection from here on is noticed.
        end.as_mut().enable();
        if !self.is_ended.load(Ordering::SeqCst) {
            end.await;
        }
    }

    /// Returns the client's subscriptions.
    pub(super) fn followed(&self) -> Vec<Arc<Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Admitted {
    /// Returns the client.
    pub(crate) fn client(&self) -> Arc<KnownClient> {
        self.client.clone()
    }

    /// Returns the connection's share of the memory for clients.
    pub(crate) fn share(&self) -> &Share {
        &self.client.share
    }

    /// Adds `size_bytes` to the count of sent bytes.
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

/// The entry of one subscription in the list of its client. Dropping it removes the entry.
#[derive(Debug)]
pub(super) struct ListEntry {
    clients: Option<Arc<Clients>>,
    entry: Option<(Arc<KnownClient>, Arc<Followed>)>,
}

impl ListEntry {
    /// Lists a subscription of the client that follows the topics of `reader`.
    pub(super) fn new(peer: Option<&Peer>, protocol: &'static str, reader: &Reader) -> Self {
        let entry = peer.map(|Peer { client, clients, .. }| {
            let topic = reader.topic().cloned();
            let topics = match &topic {
                Some(topic) => topic.to_string(),
                None => {
                    let patterns = reader.patterns().iter().map(|pattern| pattern.as_str());
                    patterns.collect::<Vec<_>>().join(" ")
                }
            };
            let after = AtomicU64::new(reader.cursor().after.number());
            let followed = Arc::new(Followed { protocol, topics, topic, after });
            let mut all = client.followed.lock().unwrap_or_else(PoisonError::into_inner);
            if !reads_over(&all, protocol) {
                clients.traffic.begins(protocol);
            }
            all.reserve_exact(1); // Most connections have one.
            all.push(followed.clone());
            (client.clone(), followed)
        });
        Self { clients: peer.map(|peer| peer.clients.clone()), entry }
    }

    /// Returns how many clients are connected; 0 in a host that has no [`Peer`].
    pub(super) fn connections(&self) -> usize {
        self.clients.as_ref().map_or(0, |clients| clients.count())
    }

    /// Counts events that the reader got.
    pub(super) fn delivered(&self, run: &Run) {
        if let Some(clients) = &self.clients {
            clients.traffic.delivered.add(run.about_count());
        }
    }

    /// Counts an event that is not stored, which the reader got.
    pub(super) fn delivered_one(&self) {
        self.clients.iter().for_each(|clients| clients.traffic.delivered.add(1));
    }

    /// Counts a gap that the reader was told.
    pub(super) fn told_gap(&self) {
        self.clients.iter().for_each(|clients| clients.traffic.gaps.add(1));
    }

    /// Notes the reader's place after a write.
    pub(super) fn show_place(&self, reader: &Reader) {
        if let Some((_, followed)) = &self.entry {
            followed.after.store(reader.cursor().after.number(), Ordering::Relaxed);
        }
    }
}

impl Drop for ListEntry {
    fn drop(&mut self) {
        if let Some((client, followed)) = &self.entry {
            let mut all = client.followed.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|other| !Arc::ptr_eq(other, followed));
            if let Some(clients) = &self.clients
                && !reads_over(&all, followed.protocol)
            {
                clients.traffic.ends(followed.protocol);
            }
        }
    }
}

/// Returns whether one of a client's subscriptions is of this protocol.
fn reads_over(all: &[Arc<Followed>], protocol: &str) -> bool {
    all.iter().any(|followed| followed.protocol == protocol)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn there_are_as_many_as_there_may_be_in_all_and_from_one_address() {
        let limits =
            ClientLimits { connections: 3, connections_per_address: 2, max_bytes: 1 << 20 };
        let clients = Clients::new(limits);
        let from = |ip: [u8; 4], port| PeerAddress::from(SocketAddr::from((ip, port)));
        let one = clients.admit(from([10, 0, 0, 1], 1), None).unwrap();
        let _two = clients.admit(from([10, 0, 0, 1], 2), None).unwrap();
        let refused = clients.admit(from([10, 0, 0, 1], 3), None).unwrap_err();
        assert_eq!(refused, Denied::AddressFull { limit: 2 });
        let three = clients.admit(from([10, 0, 0, 2], 1), None).unwrap();
        let refused = clients.admit(from([10, 0, 0, 3], 1), None).unwrap_err();
        assert_eq!(refused, Denied::Full { limit: 3 });
        drop(one);
        let _again = clients.admit(from([10, 0, 0, 1], 4), None).unwrap();
        drop(three);
        assert_eq!(clients.count(), 2);
        assert_eq!(clients.open().by_caller.len(), 1, "a caller without connections is forgotten");
        let (id, _again) = clients.next(2).unwrap();
        assert!(id == 4 && clients.next(id).is_none(), "{id}");
        // One customer with IPv6 has a network of 2^64 addresses.
        let limits =
            ClientLimits { connections: 9, connections_per_address: 1, max_bytes: 1 << 20 };
        let clients = Clients::new(limits);
        let of_ipv6 = |text: &str| PeerAddress::from(SocketAddr::new(text.parse().unwrap(), 1));
        let _one = clients.admit(of_ipv6("2001:db8::1"), None).unwrap();
        let refused = clients.admit(of_ipv6("2001:db8::2"), None).unwrap_err();
        assert_eq!(refused, Denied::AddressFull { limit: 1 });
        let _other = clients.admit(of_ipv6("2001:db8:0:1::1"), None).unwrap();
    }
}
