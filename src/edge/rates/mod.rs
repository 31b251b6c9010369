//! Rates: the limits on the work that one caller may request per second.
//!
//! ```text
//! connection ─▶ its caller's limits, found once ─▶ each request, publish and subscription takes
//!               (two callers share nothing)        from them, without a lock, or is refused
//! ```
//!
//! # Why
//!
//! The limits of a caller are looked up when it connects, and kept with the connection. So a
//! publish costs a few atomic operations, and none where rates are off. A caller without a
//! connection is remembered until its limits would be full again; then forgetting it changes
//! nothing. Nothing iterates over all callers: each new connection forgets one caller whose time
//! has passed.
//!
//! The file is long, because the settings, the remembered callers and the allowance of one caller
//! use private parts of one another, and a fifth of the file is tests.

#[cfg(feature = "server")]
pub(crate) mod layer;
mod limit;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt;
use serde::{Deserialize, Serialize};

use limit::{Allowed, Limit, Monotonic};

use super::counters::Counters;
use crate::broker::{LimitsConfig, all_within};
use crate::edge::bounds::max_request_bytes;
use crate::error::{Error, RateLimit, Result};

/// The least number of address bits that identify one customer of an IPv6 provider. Source: RFC
/// 6177 and RIPE-690, which give a site a /56 or a /48; a single link has a /64 (RFC 4291, 2.5.1).
const IPV6_NETWORK_BITS: u32 = 64;

/// A refused caller is told to wait a random time longer than necessary: up to this, in
/// milliseconds, or up to half of the necessary time, if that is more.
const JITTER_MS: u64 = 1_000;

/// The rate limits of one caller. A caller is an address, or a /64 of IPv6.
///
/// A rate that is not set has no limit on a listener on the loopback device, and its default on any
/// other. 0 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RatesConfig {
    /// Events published per second. Default: 20,000 beyond the loopback device.
    pub publishes_per_second: Option<u64>,
    /// Bytes of bodies and messages received per second. Default: 33,554,432 (32 MiB) beyond the
    /// loopback device.
    pub receive_bytes_per_second: Option<u64>,
    /// Subscriptions begun per second: event streams, `Subscribe`, and those of WebSockets.
    /// Default: 200 beyond the loopback device.
    pub subscriptions_per_second: Option<u64>,
    /// Connections accepted per second. Default: 200 beyond the loopback device.
    pub connections_per_second: Option<u64>,
    /// Requests and calls per second, and messages of a WebSocket that neither publish nor
    /// subscribe, pings and pongs included. Default: 2,000 beyond the loopback device.
    pub requests_per_second: Option<u64>,
    /// A caller that has paused may use the allowance of this time at once, in milliseconds. One
    /// publish of the largest size always fits. Default: 10,000.
    pub burst_ms: u64,
    /// On one stream or WebSocket, the refused messages may outnumber the accepted ones by this
    /// many. Then the stream is ended. Default: 256.
    pub max_refused: u64,
    /// Callers without a connection whose rates are remembered, each in at most half a KiB.
    /// Default: 100,000.
    pub max_callers: u64,
}

impl Default for RatesConfig {
    fn default() -> Self {
        Self {
            publishes_per_second: None,
            receive_bytes_per_second: None,
            subscriptions_per_second: None,
            connections_per_second: None,
            requests_per_second: None,
            burst_ms: 10_000,
            max_refused: 256,
            max_callers: 100_000,
        }
    }
}

impl RatesConfig {
    /// Checks each value.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the setting, the value and the bounds.
    pub fn validate(&self) -> Result<()> {
        let rate = |rate: Option<u64>| rate.unwrap_or(0);
        all_within(&[
            ("rates.publishes_per_second", rate(self.publishes_per_second), 0, 1 << 40),
            ("rates.receive_bytes_per_second", rate(self.receive_bytes_per_second), 0, 1 << 40),
            ("rates.subscriptions_per_second", rate(self.subscriptions_per_second), 0, 1 << 40),
            ("rates.connections_per_second", rate(self.connections_per_second), 0, 1 << 40),
            ("rates.requests_per_second", rate(self.requests_per_second), 0, 1 << 40),
            ("rates.burst_ms", self.burst_ms, 1, 3_600_000),
            ("rates.max_refused", self.max_refused, 1, 1 << 20),
            ("rates.max_callers", self.max_callers, 1, 1 << 24),
        ])
    }

    /// Returns the limit per second; `None` if there is none.
    fn per_second(&self, rate: Rate, is_loopback: bool) -> Option<u64> {
        let (set, otherwise) = match rate {
            Rate::Publishes => (self.publishes_per_second, 20_000),
            Rate::Bytes => (self.receive_bytes_per_second, 32 << 20),
            Rate::Subscriptions => (self.subscriptions_per_second, 200),
            Rate::Connections => (self.connections_per_second, 200),
            Rate::Requests => (self.requests_per_second, 2_000),
        };
        let per_second = set.unwrap_or(if is_loopback { 0 } else { otherwise });
        Some(per_second).filter(|per_second| *per_second > 0)
    }

    fn allowed(&self, rate: Rate, is_loopback: bool, limits: &LimitsConfig) -> Option<Allowed> {
        let per_second = self.per_second(rate, is_loopback)?;
        let at_least = match rate {
            Rate::Publishes => limits.max_batch_events,
            Rate::Bytes => max_request_bytes(limits),
            Rate::Subscriptions | Rate::Connections | Rate::Requests => 1,
        };
        let burst = u128::from(per_second) * u128::from(self.burst_ms) / 1_000;
        let burst = u64::try_from(burst).unwrap_or(u64::MAX).max(at_least);
        Some(Allowed { per_second, burst })
    }
}

/// A kind of rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    /// Published events.
    Publishes,
    /// Bytes of bodies and messages, as they are received.
    Bytes,
    Subscriptions,
    Connections,
    Requests,
}

impl Rate {
    pub(super) const ALL: [Self; 5] =
        [Self::Publishes, Self::Bytes, Self::Subscriptions, Self::Connections, Self::Requests];

    /// Returns the name in answers and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Publishes => "publishes",
            Self::Bytes => "bytes",
            Self::Subscriptions => "subscriptions",
            Self::Connections => "connections",
            Self::Requests => "requests",
        }
    }
}

/// The identity of a caller, and the key of all that is known of it. A caller that has
/// authenticated will be another variant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// All clients of this network: one address of IPv4, or 64 bits of IPv6.
    Network(IpAddr),
}

impl Caller {
    /// Returns the caller at an address, of which nothing else is known.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let bits = address.to_bits() & (u128::MAX << (128 - IPV6_NETWORK_BITS));
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        })
    }
}

/// The rates of all callers of a listener.
#[derive(Debug)]
pub(crate) struct Rates {
    /// In the order of [`Rate::ALL`].
    allowed: [Option<Allowed>; 5],
    /// The time after which an idle caller has its full allowance of every rate.
    window: Duration,
    max_refused: u32,
    max_callers: usize,
    counters: Arc<Counters>,
    known: Mutex<Known>,
}

/// The callers that are remembered.
#[derive(Debug, Default)]
struct Known {
    callers: HashMap<Caller, Entry>,
    /// The callers without a connection, in the order in which they left.
    left: BTreeMap<u64, (Instant, Caller)>,
    next_departure: u64,
}

#[derive(Debug)]
struct Entry {
    limits: Arc<CallerLimits>,
    connections: u64,
    /// The caller's key in `left`, if it has no connection.
    departure: Option<u64>,
}

/// The remaining allowance of one caller, in the order of [`Rate::ALL`].
type CallerLimits = [Option<Limit>; 5];

impl Rates {
    /// Returns the rates of a listener; `None` if there are no limits.
    pub(crate) fn new(
        config: &RatesConfig,
        is_loopback: bool,
        limits: &LimitsConfig,
        counters: Arc<Counters>,
    ) -> Option<Arc<Self>> {
        let allowed = Rate::ALL.map(|rate| config.allowed(rate, is_loopback, limits));
        let window = allowed.iter().flatten().map(|allowed| allowed.window()).max()?;
        Some(Arc::new(Self {
            allowed,
            window,
            max_refused: u32::try_from(config.max_refused).unwrap_or(u32::MAX),
            max_callers: usize::try_from(config.max_callers).unwrap_or(usize::MAX),
            counters,
            known: Mutex::default(),
        }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new connection of a caller, and returns its rates. Dropping the last clone ends the
    /// connection's count.
    pub(crate) fn of(self: &Arc<Self>, caller: Caller) -> CallerRates {
        let mut known = self.known();
        let known = &mut *known;
        if let Some((stamp, (since, _))) = known.left.first_key_value()
            && since.elapsed() >= self.window
        {
            let stamp = *stamp;
            known.forget(stamp);
        }
        let entry = known.callers.entry(caller.clone()).or_insert_with(|| {
            let limit = |allowed: Option<Allowed>| Some(Limit::new(allowed?, Monotonic));
            let limits = Arc::new(self.allowed.map(limit));
            Entry { limits, connections: 0, departure: None }
        });
        entry.connections += 1;
        if let Some(departure) = entry.departure.take() {
            known.left.remove(&departure);
        }
        let limits = entry.limits.clone();
        CallerRates(Some(Arc::new(Connected { rates: self.clone(), caller, limits })))
    }

    /// Counts one connection less of a caller.
    fn leave(&self, caller: &Caller) {
        let mut known = self.known();
        let known = &mut *known;
        let Some(entry) = known.callers.get_mut(caller) else { return };
        entry.connections -= 1;
        if entry.connections > 0 {
            return;
        }
        known.next_departure += 1;
        entry.departure = Some(known.next_departure);
        known.left.insert(known.next_departure, (Instant::now(), caller.clone()));
        if known.left.len() > self.max_callers
            && let Some((&first, _)) = known.left.first_key_value()
        {
            known.forget(first);
        }
    }
}

impl Known {
    fn forget(&mut self, departure: u64) {
        if let Some((_, caller)) = self.left.remove(&departure) {
            self.callers.remove(&caller);
        }
    }
}

/// The rates of a connection's caller; none where rates are off. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallerRates(Option<Arc<Connected>>);

/// A connection of a caller.
#[derive(Debug)]
struct Connected {
    rates: Arc<Rates>,
    caller: Caller,
    limits: Arc<CallerLimits>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.rates.leave(&self.caller);
    }
}

impl CallerRates {
    /// Whether any rate is limited.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether this rate is limited.
    pub(super) fn has(&self, rate: Rate) -> bool {
        self.0.as_ref().is_some_and(|connected| connected.rates.allowed[rate as usize].is_some())
    }

    /// Takes `amount`, or nothing if less is left. An amount of 0 counts as 1.
    ///
    /// # Errors
    ///
    /// The limit, and the time after which enough is left.
    pub(crate) fn check(&self, rate: Rate, amount: usize) -> Result<(), RateLimit> {
        let Some(Connected { rates, limits, .. }) = self.0.as_deref() else { return Ok(()) };
        let limit = limits[rate as usize].as_ref().zip(rates.allowed[rate as usize]);
        let Some((limit, allowed)) = limit else { return Ok(()) };
        limit.take(allowed, amount as u64).map_err(|exhausted| {
            rates.counters.refused_by_rate[rate as usize].add(1);
            let wait_ms = u64::try_from(exhausted.wait.as_micros().div_ceil(1_000));
            let wait_ms = wait_ms.unwrap_or(u64::MAX / 4);
            let jitter_ms = rand::rng().random_range(0..=JITTER_MS.max(wait_ms / 2));
            RateLimit {
                rate: rate.name(),
                per_second: allowed.per_second,
                burst: allowed.burst,
                remaining: exhausted.left,
                retry_after_ms: wait_ms + jitter_ms,
            }
        })
    }

    /// Takes `amount` as [`Self::check`] does.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`].
    pub(super) fn take(&self, rate: Rate, amount: usize) -> Result<()> {
        self.check(rate, amount).map_err(Error::RateLimited)
    }

    /// Takes the events and the bytes of a publish on a stream. `size` is called only if bytes are
    /// limited.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`].
    pub(super) fn publish(&self, events: usize, size: impl FnOnce() -> usize) -> Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        if self.has(Rate::Bytes) {
            self.take(Rate::Bytes, size())?;
        }
        self.take(Rate::Publishes, events)
    }

    /// Takes the bytes of a message that publishes nothing, and one of `rate`.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`].
    pub(super) fn other(&self, rate: Rate, size_bytes: usize) -> Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        self.take(Rate::Bytes, size_bytes)?;
        self.take(rate, 1)
    }

    /// Returns the state that counts refused messages of one stream.
    pub(super) fn temper(&self) -> Temper {
        let max_refused = self.0.as_ref().map_or(u32::MAX, |connected| connected.rates.max_refused);
        Temper { refused: 0, max_refused }
    }
}

/// A count of refused messages, which shows whether a client slows down. A client that sends ahead
/// and slows down when it is refused stays far below the limit. A client that continues is ended
/// soon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Temper {
    /// Messages that a rate refused, less those that were accepted; at least 0.
    refused: u32,
    max_refused: u32,
}

impl Temper {
    /// Counts an accepted message.
    pub(super) fn taken(&mut self) {
        self.refused = self.refused.saturating_sub(1);
    }

    /// Counts a refused message.
    pub(super) fn refused(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// Returns the reason to end the stream, if too many messages were refused.
    pub(super) fn abuse(&self) -> Option<String> {
        (self.refused > self.max_refused).then(|| {
            format!("{} messages more were refused by a rate than were taken", self.refused)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(config: &RatesConfig, is_loopback: bool) -> Option<Arc<Rates>> {
        Rates::new(config, is_loopback, &LimitsConfig::default(), Arc::default())
    }

    fn caller(number: u32) -> Caller {
        Caller::at(IpAddr::V4(number.into()))
    }

    #[test]
    fn rates_are_off_on_loopback_and_have_their_defaults_elsewhere_unless_they_are_set() {
        let unset = RatesConfig::default();
        assert!(rates(&unset, true).is_none());
        let beyond = rates(&unset, false).unwrap();
        let per_second = beyond.allowed.map(|allowed| allowed.unwrap().per_second);
        assert_eq!(per_second, [20_000, 32 << 20, 200, 200, 2_000]);
        let bursts = beyond.allowed.map(|allowed| allowed.unwrap().burst);
        assert_eq!(bursts, [200_000, 320 << 20, 2_000, 2_000, 20_000]);
        let set = RatesConfig {
            publishes_per_second: Some(5),
            receive_bytes_per_second: Some(0),
            ..RatesConfig::default()
        };
        let here = rates(&set, true).unwrap();
        let limits = LimitsConfig::default();
        let publishes = Allowed { per_second: 5, burst: limits.max_batch_events };
        assert_eq!(here.allowed, [Some(publishes), None, None, None, None]);
        let beyond = rates(&set, false).unwrap();
        assert_eq!(
            beyond.allowed.map(|allowed| allowed.is_some()),
            [true, false, true, true, true]
        );
        let none = RatesConfig {
            publishes_per_second: Some(0),
            receive_bytes_per_second: Some(0),
            subscriptions_per_second: Some(0),
            connections_per_second: Some(0),
            requests_per_second: Some(0),
            ..RatesConfig::default()
        };
        assert!(rates(&none, false).is_none());
    }

    #[test]
    fn a_caller_is_an_address_or_a_network_of_ipv6() {
        let at = |text: &str| Caller::at(text.parse().unwrap());
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
    }

    #[test]
    fn callers_share_nothing_and_the_connections_of_one_share_all() {
        let config =
            RatesConfig { requests_per_second: Some(1), burst_ms: 3_000, ..Default::default() };
        let rates = rates(&config, true).unwrap();
        let (one, again, other) = (rates.of(caller(1)), rates.of(caller(1)), rates.of(caller(2)));
        one.check(Rate::Requests, 2).unwrap();
        again.check(Rate::Requests, 1).unwrap();
        let limit = one.check(Rate::Requests, 1).unwrap_err();
        assert_eq!(
            (limit.rate, limit.per_second, limit.burst, limit.remaining),
            ("requests", 1, 3, 0)
        );
        assert!((900..=2_000).contains(&limit.retry_after_ms), "{limit:?}");
        other.check(Rate::Requests, 3).unwrap();
        one.check(Rate::Publishes, 1_000_000).unwrap();
        drop((one, again));
        let back = rates.of(caller(1));
        back.check(Rate::Requests, 3).unwrap_err();
        assert_eq!(rates.counters.refused_by_rate[Rate::Requests as usize].get(), 2);
    }

    #[test]
    fn no_more_callers_are_remembered_than_may_be_and_none_longer_than_it_matters() {
        let config = RatesConfig {
            requests_per_second: Some(1_000),
            burst_ms: 50,
            max_callers: 3,
            ..RatesConfig::default()
        };
        let rates = rates(&config, true).unwrap();
        let connected: Vec<_> = (0..10).map(|number| rates.of(caller(number))).collect();
        assert_eq!(rates.known().callers.len(), 10, "whoever is connected is known");
        drop(connected);
        let known: Vec<Caller> = {
            let known = rates.known();
            known.left.values().map(|(_, caller)| caller.clone()).collect()
        };
        assert_eq!(known, [caller(7), caller(8), caller(9)]);
        assert_eq!(rates.known().callers.len(), 3);
        let came_back = rates.of(caller(8));
        assert_eq!(rates.known().left.len(), 2);
        std::thread::sleep(rates.window); // The time after which callers are forgotten.
        drop((rates.of(caller(20)), rates.of(caller(21)), rates.of(caller(22))));
        let known = rates.known();
        assert!(!known.callers.contains_key(&caller(7)) && !known.callers.contains_key(&caller(9)));
        assert!(known.callers.contains_key(&caller(8)));
        drop(known);
        drop(came_back);
    }

    #[test]
    fn a_client_that_slows_down_is_not_abusive_and_one_that_goes_on_is() {
        let config =
            RatesConfig { requests_per_second: Some(1), max_refused: 10, ..Default::default() };
        let mut temper = rates(&config, true).unwrap().of(caller(1)).temper();
        for _ in 0..100 {
            (0..10).for_each(|_| temper.refused());
            assert_eq!(temper.abuse(), None);
            (0..10).for_each(|_| temper.taken());
        }
        (0..11).for_each(|_| temper.refused());
        assert!(temper.abuse().unwrap().starts_with("11 messages more"));
    }
}
