//! The guard of addresses: to which of them a webhook may be sent.
//!
//! # Why
//!
//! Whoever can name a URL could have the broker ask what only the broker can reach: the services of
//! its own network, or a cloud's metadata, which has credentials. So every address is checked after
//! its name was resolved, and the connection goes to exactly the address that was checked
//! (`connector.rs`): a name that resolves to another address a moment later changes nothing.
//!
//! Addresses of the public Internet are permitted, and nothing else is, unless the settings allow
//! it. An address of IPv4 inside of one of IPv6 counts as itself where the system may connect to
//! it, and is refused in all other forms.
//!
//! Source: the registries of special-purpose addresses of IANA (RFC 6890), and RFC 6052, RFC 3056,
//! RFC 4291.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr as _;

use super::networks::Network;
use crate::error::{Error, Result};
use crate::lists;

/// The most networks in the settings.
const MAX_NETWORKS: usize = 256;

/// The networks of IPv4 that are not public, with the words for them.
const OF_IPV4: [([u8; 4], u8, &str); 17] = [
    ([0, 0, 0, 0], 8, "an address of this host"),
    ([10, 0, 0, 0], 8, "a private address"),
    ([100, 64, 0, 0], 10, "an address behind a provider's translation"),
    ([127, 0, 0, 0], 8, "a loopback address"),
    // Before the networks that have them: the word is the better one.
    ([169, 254, 169, 254], 32, "an address of a cloud's metadata"),
    ([168, 63, 129, 16], 32, "an address of a cloud's metadata"),
    ([169, 254, 0, 0], 16, "a link-local address"),
    ([172, 16, 0, 0], 12, "a private address"),
    ([192, 0, 0, 0], 24, "an address that is reserved for protocols"),
    ([192, 0, 2, 0], 24, "an address for documentation"),
    ([192, 88, 99, 0], 24, "an address of a translation to IPv6"),
    ([192, 168, 0, 0], 16, "a private address"),
    ([198, 18, 0, 0], 15, "an address for measurements"),
    ([198, 51, 100, 0], 24, "an address for documentation"),
    ([203, 0, 113, 0], 24, "an address for documentation"),
    ([224, 0, 0, 0], 4, "a multicast address"),
    ([240, 0, 0, 0], 4, "a reserved address"),
];

/// The network of IPv6 that is public, and the networks inside of it that are not.
const PUBLIC_IPV6: (u16, u32) = (0x2000, 3);
const OF_IPV6: [([u16; 3], u32, &str); 5] = [
    ([0x2001, 0xdb8, 0], 32, "an address for documentation"),
    ([0x3fff, 0, 0], 20, "an address for documentation"),
    ([0x2001, 0, 0], 23, "an address that is reserved for protocols"),
    ([0x2002, 0, 0], 16, "an address of IPv4 inside of IPv6 (6to4)"),
    ([0x2620, 0x4f, 0x8000], 48, "an address that is reserved for protocols"),
];

/// The prefix of an address of IPv4 that a network translates (NAT64).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// The address of the metadata of a cloud, of IPv6.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The addresses that may be reached.
#[derive(Debug, Clone, Default)]
pub(super) struct AddressGuard {
    allowed: Vec<Network>,
}

impl AddressGuard {
    /// Returns the guard that lets these networks through besides the public ones.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: one is no network, or there are too many.
    pub(super) fn parse(allowed: &[String]) -> Result<Self> {
        lists::check("webhooks.allowed_networks", allowed.len(), MAX_NETWORKS)?;
        let network = |text: &String| {
            Network::from_str(text).map_err(|error| match error {
                Error::Invalid { problem, .. } => {
                    Error::invalid("webhooks.allowed_networks", problem)
                }
                other => other,
            })
        };
        Ok(Self { allowed: allowed.iter().map(network).collect::<Result<_>>()? })
    }

    /// Checks that `address` may be reached. Returns it in the form in which it is to be reached.
    ///
    /// # Errors
    ///
    /// The reason, with the address.
    pub(super) fn check(&self, address: IpAddr) -> Result<IpAddr, String> {
        let is_allowed = |address| self.allowed.iter().any(|network| network.contains(address));
        let plain = address.to_canonical();
        let translated = translated(plain);
        if is_allowed(plain) || translated.is_some_and(|it| is_allowed(it.into())) {
            return Ok(plain);
        }
        let problem = match (plain, translated) {
            (IpAddr::V4(address), _) | (_, Some(address)) => problem_of_v4(address),
            (IpAddr::V6(address), None) => problem_of_v6(address),
        };
        match problem {
            None => Ok(plain),
            Some(problem) => Err(format!(
                "{plain} is {problem}, to which nothing is sent unless \
                 webhooks.allowed_networks has it"
            )),
        }
    }
}

/// Returns the address of IPv4 to which a network translates an address (NAT64).
fn translated(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let segments = address.segments();
    let [.., a, b, c, d] = address.octets();
    (segments[..6] == NAT64).then(|| Ipv4Addr::new(a, b, c, d))
}

fn problem_of_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = u32::from(address);
    let is_in = |(first, prefix, _): &&([u8; 4], u8, &str)| {
        (bits ^ u32::from_be_bytes(*first)).leading_zeros() >= u32::from(*prefix)
    };
    OF_IPV4.iter().find(is_in).map(|(_, _, problem)| *problem)
}

fn problem_of_v6(address: Ipv6Addr) -> Option<&'static str> {
    let bits = u128::from(address);
    let begins = |first: [u16; 3], prefix: u32| {
        let [a, b, c] = first;
        let first = u128::from(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0));
        (bits ^ first).leading_zeros() >= prefix
    };
    let (public, public_bits) = PUBLIC_IPV6;
    if begins([public, 0, 0], public_bits) {
        let is_in = |(first, prefix, _): &&([u16; 3], u32, &str)| begins(*first, *prefix);
        return OF_IPV6.iter().find(is_in).map(|(_, _, problem)| *problem);
    }
    Some(match address.segments() {
        _ if address == METADATA => "an address of a cloud's metadata",
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_unicast_link_local() => "a link-local address",
        _ if address.is_unique_local() => "a unique local address",
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => "an address of IPv4 inside of IPv6",
        _ => "no public address",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &[&str], address: &str) -> Result<IpAddr, String> {
        let allowed: Vec<String> = allowed.iter().map(|it| (*it).to_owned()).collect();
        AddressGuard::parse(&allowed).unwrap().check(address.parse().unwrap())
    }

    #[test]
    fn nothing_but_public_addresses_is_reached_in_whatever_form_an_address_is_written() {
        for (address, word) in [
            ("0.0.0.0", "this host"),
            ("10.1.2.3", "private"),
            ("100.64.0.1", "translation"),
            ("100.127.255.255", "translation"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.1.1", "link-local"),
            ("169.254.169.254", "metadata"),
            ("168.63.129.16", "metadata"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "protocols"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "translation"),
            ("192.168.0.1", "private"),
            ("198.19.255.255", "measurements"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "no public"),
            ("fc00::1", "unique local"),
            ("fd00:ec2::254", "metadata"),
            ("ff02::1", "multicast"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("2001::1", "protocols"),
            ("100::1", "no public"),
            ("5f00::1", "no public"),
            ("64:ff9b:1::1", "no public"),
            // Addresses of IPv4 inside of IPv6: mapped, compatible, translated, NAT64 and 6to4.
            ("::ffff:127.0.0.1", "127.0.0.1 is a loopback"),
            ("::ffff:169.254.169.254", "169.254.169.254 is an address of a cloud's metadata"),
            ("::127.0.0.1", "inside of IPv6"),
            ("::8.8.8.8", "inside of IPv6"),
            ("::ffff:0:127.0.0.1", "inside of IPv6"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::169.254.169.254", "metadata"),
            ("2002:7f00:1::", "6to4"),
            ("2002:808:808::", "6to4"),
        ] {
            let refused = check(&[], address).unwrap_err();
            assert!(refused.contains(word), "{address}: {refused}");
            assert!(refused.contains("webhooks.allowed_networks"), "{refused}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:200::1",
            "2a00::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(check(&[], address), Ok(address.parse().unwrap()));
        }
        assert_eq!(check(&[], "::ffff:8.8.8.8"), Ok("8.8.8.8".parse().unwrap()));
    }

    #[test]
    fn networks_that_the_settings_allow_are_reached_and_their_neighbours_are_not() {
        let allowed = ["127.0.0.2", "10.0.0.0/8", "fd00::/8"];
        for address in
            ["127.0.0.2", "::ffff:127.0.0.2", "10.9.9.9", "64:ff9b::10.0.0.1", "fd00:ec2::254"]
        {
            assert!(check(&allowed, address).is_ok(), "{address}");
        }
        for address in ["127.0.0.1", "11.0.0.1", "fc00::1", "::127.0.0.2", "2002:7f00:2::"] {
            assert_eq!(check(&allowed, address).is_ok(), address == "11.0.0.1", "{address}");
        }
        let texts = |count: usize| vec!["10.0.0.0/8".to_owned(); count];
        AddressGuard::parse(&texts(MAX_NETWORKS)).unwrap();
        let refused = AddressGuard::parse(&texts(MAX_NETWORKS + 1)).unwrap_err();
        assert!(refused.to_string().contains("257 is over the limit of 256"), "{refused}");
        let refused = AddressGuard::parse(&["10.0.0.1/8".to_owned()]).unwrap_err();
        assert!(refused.to_string().starts_with("webhooks.allowed_networks: "), "{refused}");
    }
}
