//! Settings of the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::broker::{LimitsConfig, all_within};
use crate::edge::bounds::max_request_bytes;
use crate::edge::budget::ALONE;
use crate::edge::clients::ClientLimits;
use crate::error::{Error, Result};

/// The server's addresses, limits and timeouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Address for HTTP/1.1, h2c and gRPC; port 0 picks a free one. Default: 127.0.0.1:4280.
    pub listen: SocketAddr,
    /// An address of its own for gRPC, which is then no longer served on `listen`. Default: none.
    pub grpc_listen: Option<SocketAddr>,
    /// A file with the certificate of the server in PEM, and after it those of its issuers, the
    /// nearest first. Both addresses then speak TLS alone, 1.2 or newer. Needs `tls_key`, and the
    /// cargo feature `tls`. Default: none, and the addresses speak no TLS.
    pub tls_cert: Option<PathBuf>,
    /// A file with the key of `tls_cert` in PEM: PKCS#8, PKCS#1 or SEC1. Default: none.
    pub tls_key: Option<PathBuf>,
    /// A file with certificates in PEM, by which those of clients are trusted. Clients are then
    /// asked for a certificate. One that shows none is served all the same, and one that shows a
    /// wrong one is not. Default: none, and nobody is asked.
    pub tls_client_ca: Option<PathBuf>,
    /// Pause between two looks at the files of TLS, in milliseconds. Files that have changed are
    /// used for new connections, if they are right; otherwise the old ones stay in use, and a log
    /// line says why. Default: 10,000.
    pub tls_reload_ms: u64,
    /// Whether the console is served at `/console`, and leads there whoever opens `/` in a browser.
    /// The page itself shows nothing: what it asks for is permitted as for any caller. Default:
    /// true.
    pub console: bool,
    /// Longest duration of a stop, in milliseconds. Connections that are open after it are cut.
    /// Default: 10,000.
    pub shutdown_ms: u64,
    /// Time for a client to send the head of a request, in milliseconds, from its first byte on, or
    /// from when the connection was accepted. An incomplete request is then answered with 408.
    /// Default: 30,000.
    pub header_read_ms: u64,
    /// Longest time that a connection may be open without a request, in milliseconds. Then it is
    /// closed in order. The default is longer than clients keep unused connections (90 s in hyper
    /// and Go). Default: 180,000.
    pub idle_ms: u64,
    /// Silence on an HTTP/2 connection before it is pinged, and the time for the answer before it
    /// is closed, in milliseconds. Default: 20,000.
    pub keep_alive_ms: u64,
    /// Streams open at the same time on one HTTP/2 connection. Default: 1,024.
    pub max_concurrent_streams: u32,
    /// Connections in all. Default: 100,000; the system's limit on open files may be lower.
    pub max_connections: u64,
    /// Connections from one address, or from one /64 of IPv6. A proxy in front of the broker is one
    /// address. Default: 20,000.
    pub max_connections_per_address: u64,
    /// Memory for everything that waits for clients or comes from them, in bytes: requests and
    /// their heads, answers, pages, frames, subscriptions with their patterns, members. Let c, a
    /// and t be the bytes that a connection, its address and all clients hold. The connection may
    /// take more while c + a + t is at most 7/8 of this value: a client that is alone gets a little
    /// over a quarter. If there is no room, new work is refused with 503 and a time to retry, and
    /// open streams wait. Default: 512 MiB.
    pub max_client_bytes: u64,
    /// Longest head of an HTTP/1.1 request, in bytes. Default: 64 KiB.
    pub max_head_bytes: u64,
    /// Longest time for which a client may take none of the data sent to it, in milliseconds. Then
    /// its connection is closed. Over HTTP/2, a stream that takes none is ended, and the connection
    /// goes on. An HTTP/2 connection that is idle for `idle_ms` is closed if its client takes at
    /// most 256 bytes of the remaining data in this time. Default: 15,000.
    pub write_timeout_ms: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4280)),
            grpc_listen: None,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            tls_reload_ms: 10_000,
            console: true,
            shutdown_ms: 10_000,
            header_read_ms: 30_000,
            idle_ms: 180_000,
            keep_alive_ms: 20_000,
            max_concurrent_streams: 1_024,
            max_connections: 100_000,
            max_connections_per_address: 20_000,
            max_client_bytes: 512 << 20,
            max_head_bytes: 64 << 10,
            write_timeout_ms: 15_000,
        }
    }
}

impl ServerConfig {
    pub(crate) fn client_limits(&self) -> ClientLimits {
        ClientLimits {
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            max_bytes: self.max_client_bytes,
        }
    }

    /// Returns these settings as `change` leaves them.
    ///
    /// ```
    /// let config = leftoff::server::ServerConfig::default().with(|it| it.shutdown_ms = 5_000);
    /// assert_eq!(config.shutdown_ms, 5_000);
    /// ```
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Returns the least that `max_client_bytes` may be for a broker with these limits on events:
    /// one request of the largest size must fit, or such a request is never accepted.
    pub fn least_client_bytes(limits: &LimitsConfig) -> u64 {
        ALONE * max_request_bytes(limits)
    }

    /// Checks the bounds of each setting, for a broker with these limits on events.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) with the key, the value and the bounds.
    pub fn validate(&self, limits: &LimitsConfig) -> Result<()> {
        let least_bytes = Self::least_client_bytes(limits);
        all_within(&[
            ("server.max_client_bytes", self.max_client_bytes, least_bytes, 1 << 40),
            ("server.shutdown_ms", self.shutdown_ms, 0, 3_600_000),
            ("server.header_read_ms", self.header_read_ms, 1, 3_600_000),
            ("server.idle_ms", self.idle_ms, 1, 86_400_000),
            ("server.max_head_bytes", self.max_head_bytes, 8 << 10, 1 << 20),
            ("server.write_timeout_ms", self.write_timeout_ms, 1, 3_600_000),
            ("server.max_connections", self.max_connections, 1, 1 << 32),
            ("server.max_connections_per_address", self.max_connections_per_address, 1, 1 << 32),
            ("server.tls_reload_ms", self.tls_reload_ms, 10, 86_400_000),
            ("server.keep_alive_ms", self.keep_alive_ms, 1, 3_600_000),
            ("server.max_concurrent_streams", self.max_concurrent_streams.into(), 1, 100_000),
        ])?;
        self.check_tls()
    }

    /// Checks that the files of TLS are named together, and that there is TLS.
    fn check_tls(&self) -> Result<()> {
        let files = [
            ("server.tls_cert", &self.tls_cert),
            ("server.tls_key", &self.tls_key),
            ("server.tls_client_ca", &self.tls_client_ca),
        ];
        let Some((given, _)) = files.iter().find(|(_, path)| path.is_some()) else { return Ok(()) };
        if cfg!(not(feature = "tls")) {
            let problem = "needs TLS, without which this program was compiled: add the cargo \
                feature `tls`";
            return Err(Error::invalid(*given, problem));
        }
        match files[..2].iter().find(|(_, path)| path.is_none()) {
            Some((missing, _)) => Err(Error::invalid(*given, format!("needs {missing} beside it"))),
            None => Ok(()),
        }
    }
}
