//! The limit on the refusals that the audit tells: a client that is refused without a pause must
//! not fill the log, nor hide others in it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The time in which refusals are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// The most refusals that are told of one address in that time, and of all together.
const PER_ADDRESS: u32 = 10;
const IN_ALL: u32 = 200;

/// The refusals that were told lately.
#[derive(Debug)]
pub(super) struct RefusalLimit {
    since: Instant,
    in_all: u32,
    /// The refusals of each address. As many addresses as refusals are told, at the most.
    by_address: HashMap<Option<IpAddr>, u32>,
}

impl RefusalLimit {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, in_all: 0, by_address: HashMap::new() }
    }

    /// Returns whether a refusal of a client at this address is told at `now`.
    pub(super) fn tells(&mut self, address: Option<IpAddr>, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
        let told = self.by_address.get(&address).copied().unwrap_or(0);
        if self.in_all >= IN_ALL || told >= PER_ADDRESS {
            return false;
        }
        self.in_all += 1;
        self.by_address.insert(address, told + 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_refusals_are_told_of_an_address_and_of_all() {
        let now = Instant::now();
        let mut limit = RefusalLimit::new(now);
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let told = |limit: &mut RefusalLimit, n, now| {
            (0..1_000).filter(|_| limit.tells(address(n), now)).count() as u32
        };
        assert_eq!(told(&mut limit, 1, now), PER_ADDRESS);
        assert_eq!(told(&mut limit, 1, now + WINDOW - Duration::from_nanos(1)), 0);
        assert_eq!(told(&mut limit, 2, now), PER_ADDRESS, "others are not hidden by it");
        let all: u32 = (3..1_000).map(|n| told(&mut limit, n, now)).sum();
        assert_eq!(all, IN_ALL - 2 * PER_ADDRESS);
        assert!(limit.by_address.len() <= IN_ALL as usize);
        assert_eq!(told(&mut limit, 1, now + WINDOW), PER_ADDRESS);
    }
}
