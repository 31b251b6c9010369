//! The address of a client.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The address from which a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddress {
    /// An address of the network.
    Ip(SocketAddr),
    /// A Unix socket: a process of the same machine. Its client has no address of its own.
    Unix,
}

impl PeerAddress {
    /// Returns the address by which connections, memory and rates are counted. All clients of Unix
    /// sockets count as one address, which is that of the loopback device.
    pub(crate) fn ip(self) -> IpAddr {
        match self {
            Self::Ip(address) => address.ip(),
            Self::Unix => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// Writes `192.0.2.7:49152`, `[2001:db8::1]:49152` or `unix`.
impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
