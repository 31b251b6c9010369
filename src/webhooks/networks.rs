//! Networks in the form `10.0.0.0/8`: the addresses that may be allowed or refused as one.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The bits of an address of either family.
const V4_BITS: u8 = 32;
const V6_BITS: u8 = 128;

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Returns whether the network has `address`, which must be of the same family.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differing = u32::from(first) ^ u32::from(address);
                differing.leading_zeros() >= u32::from(self.prefix_bits)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differing = u128::from(first) ^ u128::from(address);
                differing.leading_zeros() >= u32::from(self.prefix_bits)
            }
            _ => false,
        }
    }

    /// Returns the bits of an address after the prefix.
    fn host_bits(self) -> u128 {
        match self.first {
            IpAddr::V4(first) => u128::from(u32::from(first)) << (128 - u32::from(V4_BITS)),
            IpAddr::V6(first) => u128::from(first),
        }
        .checked_shl(u32::from(self.prefix_bits))
        .unwrap_or(0)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

impl FromStr for Network {
    type Err = Error;

    /// Reads a network, or one address. Addresses of IPv4 are written as such, and not inside of
    /// IPv6.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |problem: &str| {
            let example = "write one like 10.0.0.0/8, fd00::/8 or 127.0.0.1";
            Error::invalid("network", format!("{text:?} {problem}; {example}"))
        };
        let (first, bits) = match text.split_once('/') {
            Some((first, bits)) => (first, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = first.parse().map_err(|_| invalid("is no network"))?;
        if first.to_canonical() != first {
            return Err(invalid("has an address of IPv4 inside of IPv6"));
        }
        let all_bits = if first.is_ipv4() { V4_BITS } else { V6_BITS };
        let is_number = |bits: &&str| !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let prefix_bits = match bits {
            None => all_bits,
            Some(bits) => {
                let bits = Some(bits).filter(is_number).and_then(|bits| bits.parse().ok());
                bits.filter(|bits| *bits <= all_bits)
                    .ok_or_else(|| invalid(&format!("has no length from 0 to {all_bits}")))?
            }
        };
        let network = Self { first, prefix_bits };
        match network.host_bits() {
            0 => Ok(network),
            _ => Err(invalid("has an address that does not begin the network")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_of_its_prefix_and_is_written_in_one_way() {
        let has = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        for (network, address, is_in) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1/32", "127.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::1", "::1", true),
            ("::/0", "127.0.0.1", false),
        ] {
            assert_eq!(has(network, address), is_in, "{network} {address}");
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::1/64",
            "::/129",
            "localhost",
            "::ffff:10.0.0.1",
            "10.0.0.0/8/8",
        ] {
            let refused = wrong.parse::<Network>().unwrap_err().to_string();
            assert!(refused.starts_with("network: ") && refused.contains(wrong), "{refused}");
        }
    }
}
