//! Connections to receivers: each goes to an address that was checked after its name was resolved.
//!
//! ```text
//! name ─▶ resolved once ─▶ the guard checks each address ─▶ connects to those it lets through
//! ```

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;

use super::guard::AddressGuard;
use super::resolver::Resolve;

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

type BoxError = Box<dyn StdError + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Connects to the host of a URL, if its address may be reached.
#[derive(Clone)]
pub(super) struct GuardedConnector {
    pub(super) guard: Arc<AddressGuard>,
    pub(super) resolver: Arc<dyn Resolve>,
    /// The time for all addresses of a name together.
    pub(super) limit: Duration,
}

impl GuardedConnector {
    async fn connect(self, url: Uri) -> Result<TcpStream, BoxError> {
        let host = url.host().ok_or("the URL has no host")?;
        let is_plain = url.scheme_str() == Some("http");
        let port = url.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        let addresses = self.permitted(host).await?;
        let share = self.limit / addresses.len().max(1) as u32;
        let mut last = BoxError::from(format!("{host} has no address"));
        for address in addresses {
            let address = SocketAddr::new(address, port);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = format!("cannot connect to {address}: {error}").into(),
                Err(_) => last = format!("{address} does not answer").into(),
            }
        }
        Err(last)
    }

    /// Returns the addresses of a host that may be reached. One of several that may not is left
    /// out: no connection goes to it.
    ///
    /// # Errors
    ///
    /// The problem: there is none.
    async fn permitted(&self, host: &str) -> Result<Vec<IpAddr>, BoxError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = match bare.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let found = self.resolver.resolve(bare.to_owned()).await;
                found.map_err(|error| format!("cannot find the address of {host}: {error}"))?
            }
        };
        let mut permitted = Vec::new();
        let mut refused = None;
        for address in found {
            match self.guard.check(address) {
                Ok(address) if permitted.len() < MAX_ADDRESSES => permitted.push(address),
                Ok(_) => {}
                Err(problem) => refused = refused.or(Some(problem)),
            }
        }
        match refused {
            Some(problem) if permitted.is_empty() => Err(format!("{host}: {problem}").into()),
            _ => Ok(permitted),
        }
    }
}

impl Service<Uri> for GuardedConnector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let connecting = self.clone().connect(url);
        Box::pin(async move { connecting.await.map(TokioIo::new) })
    }
}

/// A connector with a time for all that it does, TLS included.
#[derive(Clone)]
pub(super) struct TimedConnector<C> {
    pub(super) inner: C,
    pub(super) limit: Duration,
}

impl<C> Service<Uri> for TimedConnector<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let connecting = timeout(self.limit, self.inner.call(url));
        let limit_ms = self.limit.as_millis();
        Box::pin(async move {
            match connecting.await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("there was no connection within {limit_ms} ms").into()),
            }
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::io;
    use std::sync::Mutex;

    use tokio::net::TcpListener;

    use super::super::resolver::Resolving;
    use super::*;

    /// A resolver that gives these answers, one after the other, and then fails.
    pub(in crate::webhooks) struct Answers(Mutex<VecDeque<Vec<IpAddr>>>);

    impl Answers {
        pub(in crate::webhooks) fn new(answers: &[&[&str]]) -> Arc<Self> {
            let addresses =
                |all: &&[&str]| all.iter().map(|address| address.parse().unwrap()).collect();
            Arc::new(Self(Mutex::new(answers.iter().map(addresses).collect())))
        }

        pub(in crate::webhooks) fn left(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    impl Resolve for Answers {
        fn resolve(&self, name: String) -> Resolving {
            let next = self.0.lock().unwrap().pop_front();
            Box::pin(async move { next.ok_or_else(|| io::Error::other(format!("no {name}"))) })
        }
    }

    fn connector(allowed: &[&str], resolver: Arc<dyn Resolve>) -> GuardedConnector {
        let allowed: Vec<String> = allowed.iter().map(|it| (*it).to_owned()).collect();
        let guard = Arc::new(AddressGuard::parse(&allowed).unwrap());
        GuardedConnector { guard, resolver, limit: Duration::from_secs(5) }
    }

    /// Goal: a name is resolved once for a connection, which goes to the address that was checked,
    /// whatever the name is a moment later; an address that may not be reached is never tried.
    #[tokio::test]
    async fn a_connection_goes_to_the_address_that_was_checked_and_to_no_other() {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let forbidden = TcpListener::bind(("127.0.0.3", port)).await.unwrap();
        let url: Uri = format!("http://hook.example:{port}/").parse().unwrap();
        let names = Answers::new(&[
            &["127.0.0.2"],
            &["127.0.0.3"],
            &["127.0.0.3", "127.0.0.2"],
            &["127.0.0.4", "127.0.0.2"],
            &[],
        ]);
        let connector = connector(&["127.0.0.2", "127.0.0.4"], names.clone());
        let connect = || connector.clone().connect(url.clone());
        let peer = |stream: TcpStream| stream.peer_addr().unwrap().ip().to_string();
        assert_eq!(peer(connect().await.unwrap()), "127.0.0.2");
        assert_eq!(names.left(), 4, "the name is resolved once");
        let refused = connect().await.unwrap_err().to_string();
        assert!(refused.starts_with("hook.example: 127.0.0.3 is a loopback"), "{refused}");
        assert_eq!(peer(connect().await.unwrap()), "127.0.0.2", "the permitted one of two");
        assert_eq!(peer(connect().await.unwrap()), "127.0.0.2", "the one of two that answers");
        assert_eq!(connect().await.unwrap_err().to_string(), "hook.example has no address");
        let refused = connect().await.unwrap_err().to_string();
        assert_eq!(refused, "cannot find the address of hook.example: no hook.example");
        let nothing = timeout(Duration::ZERO, forbidden.accept()).await;
        assert!(nothing.is_err(), "the forbidden address was reached");
    }

    #[tokio::test]
    async fn addresses_in_urls_are_checked_too_and_few_of_a_name_are_tried() {
        let connector = connector(&["127.0.0.9"], Answers::new(&[]));
        for url in ["http://127.0.0.1:1/", "http://[::1]:1/", "http://[::ffff:7f00:1]:1/"] {
            let refused = connector.clone().connect(url.parse().unwrap()).await.unwrap_err();
            assert!(refused.to_string().contains("a loopback address"), "{url}: {refused}");
        }
        let many: Vec<&str> = vec!["1.1.1.1"; MAX_ADDRESSES + 1];
        let connector = GuardedConnector { resolver: Answers::new(&[&many]), ..connector };
        assert_eq!(connector.permitted("many.example").await.unwrap().len(), MAX_ADDRESSES);
    }
}
