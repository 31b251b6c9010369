//! The web pages that may use the broker, and the host names that it answers to.
//!
//! ```text
//! request ─▶ host of the broker? ─▶ allowed page? ─▶ preflights, CORS headers ─▶ routes
//!             421 if not             403 if not       for the origins of the list
//! ```
//!
//! # Why
//!
//! - A browser sends the requests of any page to any address that it can reach, the loopback device
//!   included. The same-origin policy keeps a page from reading answers. It does not keep a page
//!   from publishing with a form or `sendBeacon`, and does not cover WebSockets at all.
//! - A page whose own name is made to point at the broker's address (DNS rebinding) has the
//!   broker's origin for the browser. `Host` then has the page's name. A page cannot choose an
//!   address as its name, so addresses are safe even if they are not listed.
//! - Programs send no `Origin`, and are not affected. Source: Fetch, "Origin header" and "CORS
//!   protocol"; Fetch Metadata; RFC 6455, 10.2; RFC 9110, 15.5.20.

use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use futures_util::future;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use tower::layer::util::Identity;
use tower::util::{Either, option_layer};
use tower::{Layer, Service};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::cut_topics::CUT_HEADER;
use super::gaps;
use super::status::{RATE_LIMIT, RATE_LIMIT_POLICY, plain_problem};
use crate::edge::http::accept::{Accepted, accepted};
use crate::edge::http::ignored::IGNORED_HEADER;
use crate::error::{Error, Result};

/// The time for which a browser may keep the answer to a preflight. Chromium's maximum.
const PREFLIGHT_AGE: Duration = Duration::from_secs(7_200);

/// The entry that allows any host.
const ANY_HOST: &str = "*";

/// The headers of an answer that pages of allowed origins may read.
const EXPOSED: [HeaderName; 7] = [
    header::ETAG,
    header::RETRY_AFTER,
    gaps::HEADER,
    IGNORED_HEADER,
    CUT_HEADER,
    RATE_LIMIT,
    RATE_LIMIT_POLICY,
];

/// The web pages that may use the broker, and the names by which it is reached.
#[derive(Debug, Clone)]
pub(crate) struct Origins {
    origins: Vec<HeaderValue>,
    hosts: Vec<String>,
}

impl Origins {
    /// Parses the settings `access.allowed_origins` and `access.allowed_hosts`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the setting, the value, and the expected form.
    pub(crate) fn parse(allowed_origins: &[String], allowed_hosts: &[String]) -> Result<Self> {
        Ok(Self { origins: origins(allowed_origins)?, hosts: names(allowed_hosts)? })
    }

    /// Returns the layers that check access to a listener. `is_local` says whether only programs of
    /// the same machine reach it.
    pub(crate) fn guard(
        self,
        is_local: bool,
    ) -> (CheckLayer<impl Check + use<>>, Either<CorsLayer, Identity>) {
        let Self { origins, hosts } = self;
        // If no origin is allowed, no page gets any CORS headers.
        let cors = option_layer((!origins.is_empty()).then(|| cors(origins.clone())));
        let guard = Arc::new(Guard { origins, hosts, is_loopback: is_local });
        (CheckLayer(move |request: &Request| guard.check(request)), cors)
    }
}

/// Returns the allowed origins, as browsers write them.
fn origins(allowed: &[String]) -> Result<Vec<HeaderValue>> {
    let origins = allowed.iter().map(|origin| {
        let normal = normal_origin(origin).filter(|normal| !normal.is_empty());
        let normal = normal.and_then(|normal| HeaderValue::try_from(normal).ok());
        normal.ok_or_else(|| {
            let problem = format!("{origin:?} is not an origin; write https://app.example");
            Error::invalid("access.allowed_origins", problem)
        })
    });
    origins.collect()
}

fn names(allowed: &[String]) -> Result<Vec<String>> {
    let hosts = allowed.iter().map(|host| {
        let is_name =
            host == ANY_HOST || host.parse::<Authority>().is_ok_and(|it| it.as_str() == it.host());
        if !is_name {
            let problem = format!("{host:?} is not a host name; write broker.example");
            return Err(Error::invalid("access.allowed_hosts", problem));
        }
        Ok(normal_host(host))
    });
    hosts.collect()
}

/// Returns the layer that lets pages of `origins` read answers, and answers their preflights.
fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    let methods =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_credentials(true)
        .allow_methods(methods)
        .allow_headers(AllowHeaders::mirror_request()) // An allowed page may send any header.
        .expose_headers(EXPOSED)
        .max_age(PREFLIGHT_AGE)
        .allow_private_network(true)
}

/// The status and the reason of a refusal.
pub(crate) struct Forbidden(StatusCode, String);

/// The rules by which requests are let through or refused.
struct Guard {
    origins: Vec<HeaderValue>,
    hosts: Vec<String>,
    /// Whether the broker listens on the loopback device alone.
    is_loopback: bool,
}

impl Guard {
    fn check(&self, request: &Request) -> Result<(), Forbidden> {
        let (uri, headers) = (request.uri(), request.headers());
        let mut named = hosts(uri, headers);
        if let Some(host) = named.find(|host| !self.answers_to(host)) {
            let detail = format!(
                "this broker does not answer to the name {host:?}; name it in access.allowed_hosts"
            );
            return Err(Forbidden(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        if is_guarded(request.method(), headers) && self.is_foreign(uri, headers) {
            let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
            let detail = format!(
                "a page of {} may not do this; name its origin in access.allowed_origins",
                origin.unwrap_or("another site")
            );
            return Err(Forbidden(StatusCode::FORBIDDEN, detail));
        }
        Ok(())
    }

    /// Whether the broker answers to this name or address, with or without a port.
    fn answers_to(&self, host: &str) -> bool {
        let Some(authority) = authority(host) else { return false };
        let name = normal_host(authority.host());
        let address = name.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let is_local = match address {
            Some(address) => !self.is_loopback || address.is_loopback(),
            None => name == "localhost" || name.ends_with(".localhost"),
        };
        is_local || self.hosts.iter().any(|host| *host == name || host == ANY_HOST)
    }

    /// Whether the request comes from a page that is neither the broker's own nor of an allowed
    /// origin.
    fn is_foreign(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
        if origins.peek().is_none() {
            let site = headers.get("sec-fetch-site");
            return site.is_some_and(|site| site == "cross-site");
        }
        origins.any(|origin| !self.origins.contains(origin) && !is_own(origin, uri, headers))
    }
}

/// Whether the request is checked: a preflight, a change, a stream or an upgrade. A page could read
/// a WebSocket, and keep a stream open, without CORS.
fn is_guarded(method: &Method, headers: &HeaderMap) -> bool {
    let is_preflight = *method == Method::OPTIONS;
    let is_change = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let is_stream = accepted(headers) == Some(Accepted::Stream);
    is_preflight || is_change || is_stream || headers.contains_key(header::UPGRADE)
}

/// Whether the origin is the requested host. The scheme does not count: a proxy may end TLS.
fn is_own(origin: &HeaderValue, uri: &Uri, headers: &HeaderMap) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let Some((scheme, _)) = origin.split_once("://") else { return false };
    let Some(origin) = normal_origin(origin) else { return false };
    let mut hosts = hosts(uri, headers).peekable();
    hosts.peek().is_some()
        && hosts.all(|host| normal_origin(&format!("{scheme}://{host}")).as_ref() == Some(&origin))
}

/// Returns the hosts that a request names. HTTP/2 has the host in the URI.
fn hosts<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
    let in_headers = headers.get_all(header::HOST).iter();
    // A value that is not text counts as empty, and an empty host is never allowed.
    let in_headers = in_headers.map(|host| host.to_str().unwrap_or_default());
    uri.authority().map(Authority::as_str).into_iter().chain(in_headers)
}

/// Returns an origin as browsers write it: in lower case, without the default port of its scheme.
fn normal_origin(origin: &str) -> Option<String> {
    let (scheme, authority) = origin.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let own_port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = self::authority(authority)?;
    let host = normal_host(authority.host());
    Some(match authority.port_u16() {
        Some(port) if port != own_port => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

/// Parses a host with an optional port; `None` if there is user information.
fn authority(text: &str) -> Option<Authority> {
    text.parse().ok().filter(|_| !text.contains('@'))
}

fn normal_host(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Returns the check that lets only gRPC through: over HTTP/2, and with its media type. A page
/// cannot send that media type without a preflight.
pub(crate) fn only_grpc() -> CheckLayer<impl Check> {
    CheckLayer(|request: &Request| {
        if request.version() != Version::HTTP_2 {
            let detail = "gRPC needs HTTP/2".to_owned();
            return Err(Forbidden(StatusCode::HTTP_VERSION_NOT_SUPPORTED, detail));
        }
        let media = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let rest = media.and_then(|media| media.strip_prefix(b"application/grpc"));
        match rest.map(<[u8]>::first) {
            Some(None | Some(b'+' | b';')) => Ok(()),
            _ => {
                let detail = "the Content-Type of a gRPC call is application/grpc".to_owned();
                Err(Forbidden(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
            }
        }
    })
}

/// A check of a request's head, which returns the reason to refuse it.
pub(crate) trait Check:
    Fn(&Request) -> Result<(), Forbidden> + Clone + Send + Sync + 'static
{
}

impl<C: Fn(&Request) -> Result<(), Forbidden> + Clone + Send + Sync + 'static> Check for C {}

/// A layer that serves the requests that pass the check, and refuses the others.
#[derive(Debug, Clone)]
pub(crate) struct CheckLayer<C>(C);

impl<S, C: Clone> Layer<S> for CheckLayer<C> {
    type Service = Guarded<S, C>;

    fn layer(&self, inner: S) -> Guarded<S, C> {
        Guarded { inner, check: self.0.clone() }
    }
}

/// A service behind a check. Middleware of axum's own would take two allocations for each request.
#[derive(Debug, Clone)]
pub(crate) struct Guarded<S, C> {
    inner: S,
    check: C,
}

impl<S, C> Service<Request> for Guarded<S, C>
where
    S: Service<Request, Response = Response>,
    C: Check,
{
    type Response = Response;
    type Error = S::Error;
    type Future = future::Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match (self.check)(&request) {
            Ok(()) => future::Either::Left(self.inner.call(request)),
            Err(Forbidden(status, detail)) => {
                future::Either::Right(ready(Ok(plain_problem(status, &detail))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::any;
    use tower::ServiceExt as _;

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:4280";
    const BEYOND: &str = "0.0.0.0:4280";

    fn config(origins: &[&str], hosts: &[&str]) -> Result<Origins> {
        let owned =
            |texts: &[&str]| -> Vec<String> { texts.iter().map(|&text| text.to_owned()).collect() };
        Origins::parse(&owned(origins), &owned(hosts))
    }

    async fn answer(config: &Origins, listen: &str, head: &[(&str, &str)]) -> Response {
        let routes = Router::new().route("/", any(async || "served"));
        let routes = routes.layer(config.clone().guard(listen == LOOPBACK));
        let mut request = Request::builder().uri("/");
        for (name, value) in head {
            request = match *name {
                "method" => request.method(*value),
                "uri" => request.uri(*value),
                _ => request.header(*name, *value),
            };
        }
        routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_broker_answers_to_names_that_no_page_can_have() {
        let none = config(&[], &[]).unwrap();
        let named = config(&[], &["Broker.Example"]).unwrap();
        let any = config(&[], &["*"]).unwrap();
        for (config, listen, host, status) in [
            (&none, LOOPBACK, "localhost:4280", 200),
            (&none, LOOPBACK, "LOCALHOST", 200),
            (&none, LOOPBACK, "app.localhost:1", 200),
            (&none, LOOPBACK, "127.9.9.9:4280", 200),
            (&none, LOOPBACK, "[::1]:4280", 200),
            (&none, LOOPBACK, "evil.example", 421),
            (&none, LOOPBACK, "evil.example:4280", 421),
            (&none, LOOPBACK, "localhost.evil.example", 421),
            (&none, LOOPBACK, "127.0.0.1.evil.example", 421),
            (&none, LOOPBACK, "192.0.2.1:4280", 421),
            (&none, LOOPBACK, "", 421),
            (&none, LOOPBACK, "user@localhost:4280", 421),
            (&none, BEYOND, "192.0.2.1:4280", 200),
            (&none, BEYOND, "[2001:db8::1]", 200),
            (&none, BEYOND, "broker.example", 421),
            (&named, BEYOND, "broker.example:4280", 200),
            (&named, LOOPBACK, "broker.example.", 200),
            (&named, BEYOND, "evil.broker.example", 421),
            (&any, BEYOND, "what.ever", 200),
        ] {
            let answer = answer(config, listen, &[("host", host)]).await;
            assert_eq!(answer.status(), status, "{listen} {host:?}");
            let absolute = format!("http://{host}/");
            if absolute.parse::<Uri>().is_ok() {
                let answer = self::answer(config, listen, &[("uri", &absolute)]).await;
                assert_eq!(answer.status(), status, "{listen} {absolute:?}");
            }
        }
        let one_of_two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(answer(&none, LOOPBACK, &one_of_two).await.status(), 421);
    }

    #[tokio::test]
    async fn a_page_of_another_origin_changes_nothing_and_opens_no_stream() {
        let config = config(&["https://App.Example:443", "http://localhost:3000"], &[]).unwrap();
        let stream = ("accept", "text/html, Text/Event-Stream");
        let guarded: [&[(&str, &str)]; 7] = [
            &[("method", "POST")],
            &[("method", "PUT")],
            &[("method", "DELETE")],
            &[("method", "PATCH")],
            &[stream],
            &[("upgrade", "websocket"), ("connection", "upgrade")],
            &[("method", "OPTIONS"), ("access-control-request-method", "POST")],
        ];
        let from: [(&[(&str, &str)], bool); 14] = [
            (&[], true),
            (&[("origin", "http://localhost:4280")], true),
            (&[("origin", "https://LOCALHOST:4280")], true),
            (&[("origin", "https://app.example")], true),
            (&[("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")], true),
            (&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("origin", "null")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "http://localhost:3001"), ("sec-fetch-site", "same-site")], false),
            (&[("origin", "https://app.example.evil.example")], false),
            (&[("origin", "http://localhost:4280"), ("origin", "http://evil.example")], false),
        ];
        for asked in guarded {
            for (page, may) in from {
                let head = [&[("host", "localhost:4280")], asked, page].concat();
                let answer = answer(&config, LOOPBACK, &head).await;
                let status = if may { StatusCode::OK } else { StatusCode::FORBIDDEN };
                assert_eq!(answer.status(), status, "{head:?}");
            }
        }
        // A request that only reads is answered; the browser keeps the answer from the page.
        let head = [("host", "localhost:4280"), ("origin", "https://evil.example")];
        let answer = answer(&config, LOOPBACK, &head).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[tokio::test]
    async fn a_page_of_an_allowed_origin_may_ask_and_read() {
        let config = config(&["https://app.example"], &[]).unwrap();
        let page = [("host", "localhost:4280"), ("origin", "https://app.example")];
        let asks = [
            ("method", "OPTIONS"),
            ("access-control-request-method", "DELETE"),
            ("access-control-request-headers", "last-event-id,content-type"),
        ];
        let preflight = answer(&config, LOOPBACK, &[&page[..], &asks].concat()).await;
        let head = |answer: &Response, name: &str| {
            let values = answer.headers().get_all(name).iter();
            let values: Vec<&str> = values.map(|value| value.to_str().unwrap()).collect();
            values.join(",").to_ascii_lowercase()
        };
        for (name, value) in [
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", "last-event-id,content-type"),
            ("access-control-max-age", "7200"),
        ] {
            assert_eq!(head(&preflight, name), value, "{name}");
        }
        assert!(head(&preflight, "access-control-allow-methods").contains("delete"));
        let served = answer(&config, LOOPBACK, &page).await;
        assert_eq!(head(&served, "access-control-allow-origin"), "https://app.example");
        assert_eq!(head(&served, "access-control-allow-credentials"), "true");
        assert_eq!(
            head(&served, "access-control-expose-headers"),
            "etag,retry-after,leftoff-gap,leftoff-ignored,leftoff-topics,ratelimit,ratelimit-policy"
        );
        assert!(head(&served, "vary").contains("origin"));
    }

    #[test]
    fn what_is_no_origin_and_no_host_is_refused_with_what_to_write() {
        for origin in
            ["*", "null", "app.example", "https://app.example/", "ftp://a", "", "http://a@b"]
        {
            let error = config(&[origin], &[]).unwrap_err().to_string();
            assert!(error.contains("access.allowed_origins"), "{error}");
            assert!(error.contains(&format!("{origin:?}")), "{error}");
        }
        for host in ["", "a:1", "http://a", "a/b", "a@b"] {
            let error = config(&[], &[host]).unwrap_err().to_string();
            assert!(error.contains("access.allowed_hosts"), "{error}");
        }
        config(&["https://a", "http://[::1]:80"], &["a", "[::1]", "*"]).unwrap();
    }
}
