//! The client that sends webhooks: one POST, with all its bounds.
//!
//! The status of an answer decides. Of its body a little is read, for whoever looks for the reason
//! of a failure; a body that is too long or too slow changes nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use super::config::WebhooksConfig;
use super::connector::{GuardedConnector, TimedConnector};
use super::guard::AddressGuard;
use super::receiver_url;
use super::resolver::{Resolve, SystemResolver};
use crate::error::{Error, Result, with_causes};
use crate::trust;

/// The beginning of an answer that is kept, in bytes.
const MAX_SHOWN_BYTES: usize = 512;

/// The connections to one host that are kept for further requests, and for how long.
const MAX_IDLE_CONNECTIONS: usize = 8;
const IDLE: Duration = Duration::from_secs(30);

/// The most redirects that a webhook may follow.
pub(super) const MAX_REDIRECTS: u8 = 5;

type HttpClient = Client<TimedConnector<HttpsConnector<GuardedConnector>>, Full<Bytes>>;

/// A request to a receiver.
#[derive(Debug, Clone)]
pub(super) struct WebhookRequest {
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The most redirects that are followed.
    pub(super) max_redirects: u8,
}

/// The answer of a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReceiverAnswer {
    pub(super) status: StatusCode,
    /// The time for which the receiver wants no further request.
    pub(super) retry_after: Option<Duration>,
    /// The beginning of the body, as far as it is text.
    pub(super) text: String,
}

/// The client of all webhooks. Cheap to clone.
#[derive(Clone)]
pub(super) struct WebhookClient(Arc<ClientParts>);

struct ClientParts {
    config: WebhooksConfig,
    guard: Arc<AddressGuard>,
    resolver: Arc<dyn Resolve>,
    /// Made for the first request: a system without certificates can have a broker without
    /// webhooks.
    http: OnceCell<HttpClient>,
}

impl WebhookClient {
    /// Returns the client with these settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a network, or the file of certificates.
    pub(super) fn new(config: &WebhooksConfig) -> Result<Self> {
        if let Some(file) = &config.trusted_ca {
            let invalid = |problem| Error::invalid("webhooks.trusted_ca", problem);
            trust::roots_of(file).map_err(invalid)?;
        }
        Self::with_resolver(config, Arc::new(SystemResolver::default()))
    }

    fn with_resolver(config: &WebhooksConfig, resolver: Arc<dyn Resolve>) -> Result<Self> {
        let guard = Arc::new(AddressGuard::parse(&config.allowed_networks)?);
        let http = OnceCell::new();
        Ok(Self(Arc::new(ClientParts { config: config.clone(), guard, resolver, http })))
    }

    /// Reads the URL of a receiver.
    ///
    /// # Errors
    ///
    /// The problem.
    pub(super) fn url(&self, text: &str) -> Result<Uri, String> {
        receiver_url::parse(text, &self.0.guard, self.0.config.allow_http)
    }

    /// Sends a request, and returns the answer.
    ///
    /// # Errors
    ///
    /// The problem: there was no answer within the time.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the receiver may have the request.
    pub(super) async fn send(&self, request: &WebhookRequest) -> Result<ReceiverAnswer, String> {
        let limit_ms = self.0.config.timeout_ms;
        let end = Instant::now() + Duration::from_millis(limit_ms);
        let late = |_| format!("there was no answer within {limit_ms} ms");
        let mut url = request.url.clone();
        let mut redirects = 0;
        loop {
            let answer = timeout_at(end, self.post(&url, request)).await.map_err(late)??;
            let Some(to) = self.followed(&url, &answer, request.max_redirects - redirects)? else {
                return Ok(self.read(answer, end).await);
            };
            url = to;
            redirects += 1;
        }
    }

    async fn post(
        &self,
        url: &Uri,
        request: &WebhookRequest,
    ) -> Result<http::Response<Incoming>, String> {
        let parts = &self.0;
        receiver_url::check(url, &parts.guard, parts.config.allow_http)
            .map_err(|problem| format!("the URL {problem}"))?;
        let http = parts.http.get_or_try_init(|| self.http()).await?;
        let mut post = Request::post(url.clone()).body(Full::new(request.body.clone()));
        if let Ok(post) = &mut post {
            *post.headers_mut() = request.headers.clone();
        }
        let post = post.map_err(|error| error.to_string())?;
        http.request(post).await.map_err(|error| with_causes(&error))
    }

    async fn http(&self) -> Result<HttpClient, String> {
        let parts = self.0.clone();
        // The certificates of the system are files.
        let file = parts.config.trusted_ca.clone();
        let reading = move || trust::client_config(file.as_deref());
        let tls = tokio::task::spawn_blocking(reading).await.map_err(|error| error.to_string())?;
        let limit = Duration::from_millis(parts.config.connect_timeout_ms);
        let (guard, resolver) = (parts.guard.clone(), parts.resolver.clone());
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.map_err(|problem| format!("TLS: {problem}"))?)
            .https_or_http() // `receiver_url` checks it.
            .enable_http1()
            .wrap_connector(GuardedConnector { guard, resolver, limit });
        Ok(Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .build(TimedConnector { inner: connector, limit }))
    }

    /// Returns the URL to go on with, if the answer is a redirect that is followed: one that keeps
    /// the method and the body.
    ///
    /// # Errors
    ///
    /// The redirect leads to where nothing may be sent.
    fn followed(
        &self,
        from: &Uri,
        answer: &http::Response<Incoming>,
        left: u8,
    ) -> Result<Option<Uri>, String> {
        let keeps = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
        if left == 0 || !keeps.contains(&answer.status()) {
            return Ok(None);
        }
        let location = answer.headers().get(header::LOCATION).and_then(|it| it.to_str().ok());
        let Some(to) = location.and_then(|it| receiver_url::redirected(from, it)) else {
            return Ok(None);
        };
        let allow_http = self.0.config.allow_http && from.scheme_str() == Some("http");
        receiver_url::check(&to, &self.0.guard, allow_http)
            .map_err(|problem| format!("the URL of a redirect {problem}"))?;
        Ok(Some(to))
    }

    /// Reads the rest of an answer, as far as the limits go.
    async fn read(&self, answer: http::Response<Incoming>, end: Instant) -> ReceiverAnswer {
        let (head, mut body) = answer.into_parts();
        let (mut shown, mut size_bytes) = (Vec::new(), 0);
        while let Ok(Some(Ok(frame))) = timeout_at(end, body.frame()).await {
            let Some(data) = frame.data_ref() else { continue };
            let room = MAX_SHOWN_BYTES - shown.len();
            shown.extend_from_slice(&data[..data.len().min(room)]);
            size_bytes += data.len() as u64;
            if size_bytes > self.0.config.max_answer_bytes {
                break; // The body is dropped, which closes the connection.
            }
        }
        let retry_after = retry_after(&head.headers, SystemTime::now());
        ReceiverAnswer { status: head.status, retry_after, text: text_of(&shown) }
    }
}

/// Returns the text at the beginning of an answer, without what is no text.
fn text_of(shown: &[u8]) -> String {
    let text = match std::str::from_utf8(shown) {
        Ok(text) => text,
        // It may be cut inside of a character.
        Err(error) => std::str::from_utf8(&shown[..error.valid_up_to()]).unwrap_or_default(),
    };
    text.chars().filter(|it| !it.is_control() || *it == '\n').collect::<String>().trim().to_owned()
}

/// Returns the time that a receiver asks for. Source: RFC 9110, 10.2.3.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse::<u32>().unwrap_or(u32::MAX).into()));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::connector::tests::Answers;
    use super::*;

    #[test]
    fn a_time_to_come_back_is_in_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 27 Nov 2026 08:00:00 GMT").unwrap();
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now).map(|time| time.as_secs())
        };
        assert_eq!(after("120"), Some(120));
        assert_eq!(after("Fri, 27 Nov 2026 08:01:00 GMT"), Some(60));
        assert_eq!(after("Fri, 27 Nov 2026 07:00:00 GMT"), Some(0));
        assert_eq!(after("99999999999999999999"), Some(u32::MAX.into()));
        for wrong in ["-1", "+1", "", "soon", "1.5"] {
            assert_eq!(after(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_of_an_answer_is_text() {
        assert_eq!(text_of(b" a\x00b\nc\r\n"), "ab\nc");
        assert_eq!(text_of("aé".as_bytes().split_last().unwrap().1), "a");
        assert_eq!(text_of(b"\xff\xfe"), "");
    }

    /// Goal: each redirect is checked as the URL itself is, and its name is resolved and checked
    /// again.
    #[tokio::test]
    async fn a_redirect_is_followed_as_often_as_permitted_and_nowhere_else() {
        let _provider = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = async |State(port): axum::extract::State<u16>, uri: Uri, body: Bytes| {
            let to = match uri.path() {
                "/twice" => "/once".to_owned(),
                "/once" => format!("http://again.example:{port}/end"),
                "/inside" => "http://[::1]:1/".to_owned(),
                _ => return (StatusCode::OK, [(header::LOCATION, String::new())], body),
            };
            (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, to)], Bytes::new())
        };
        use axum::extract::State;
        let routes = axum::Router::new().fallback(answer).with_state(port);
        tokio::spawn(axum::serve(listener, routes).into_future());
        let config = WebhooksConfig {
            allow_http: true,
            allowed_networks: vec!["127.0.0.1".to_owned()],
            ..WebhooksConfig::default()
        };
        let names = Answers::new(&[&["127.0.0.1"], &["127.0.0.1"], &["127.0.0.2"]]);
        let client = WebhookClient::with_resolver(&config, names).unwrap();
        let send = async |path: &str, max_redirects| {
            let url = format!("http://hook.example:{port}{path}").parse().unwrap();
            let (headers, body) = (HeaderMap::new(), Bytes::from_static(b"body"));
            client.send(&WebhookRequest { url, headers, body, max_redirects }).await
        };
        let status = |answer: Result<ReceiverAnswer, String>| answer.unwrap().status.as_u16();
        assert_eq!(status(send("/twice", 0).await), 308);
        assert_eq!(status(send("/twice", 1).await), 308);
        let end = send("/twice", 2).await.unwrap();
        assert_eq!((end.status.as_u16(), end.text.as_str()), (200, "body"));
        let refused = send("/inside", 5).await.unwrap_err();
        assert!(refused.starts_with("the URL of a redirect ::1 is a loopback"), "{refused}");
    }
}
