//! A receiver of webhooks that uses none of the broker's code, and fails as it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::common::soon;

/// What the receiver does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Answers with a status and a body.
    Status(u16, &'static str),
    /// Answers with a status and a header.
    Header(u16, &'static str, String),
    /// Answers with 204 after a while.
    After(Duration),
    /// Never answers.
    Hang,
    /// Answers with 200 and a body without end.
    Endless,
    /// Answers with 200 and a body that never comes.
    Silent,
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|it| it.to_str().unwrap()).unwrap_or_default()
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks a signature as the specification says, and returns whether one of them is right.
    pub(crate) fn is_signed_with(&self, secret: &str) -> bool {
        let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        let time = self.header("webhook-timestamp");
        mac.update(format!("{}.{time}.", self.id()).as_bytes());
        mac.update(&self.body);
        let expected = format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()));
        self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}

#[derive(Debug, Default)]
struct ReceiverState {
    received: Mutex<Vec<Received>>,
    replies: Mutex<VecDeque<Reply>>,
    usual: Mutex<Option<Reply>>,
    /// The requests of each key that are under way, and the most of all at the same time.
    under_way: Mutex<(BTreeMap<String, usize>, usize)>,
}

/// A receiver on the loopback device. Its tasks end with it.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    state: Arc<ReceiverState>,
    _serving: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::open(None).await
    }

    pub(crate) async fn with_tls(acceptor: TlsAcceptor) -> Self {
        Self::open(Some(acceptor)).await
    }

    async fn open(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let state = Arc::<ReceiverState>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, state.clone(), acceptor));
        Self { address, scheme, state, _serving: serving }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", self.scheme, self.address.port())
    }

    /// Sets what is done with the next requests, one after the other.
    pub(crate) fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.replies.lock().unwrap().extend(replies);
    }

    /// Sets what is done with all requests for which nothing else is said.
    pub(crate) fn usually(&self, reply: Reply) {
        *self.state.usual.lock().unwrap() = Some(reply);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Waits until so many requests have come, and returns them.
    pub(crate) async fn got(&self, count: usize) -> Vec<Received> {
        soon(async {
            loop {
                let received = self.received();
                if received.len() >= count {
                    return received;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    /// Returns the most requests that were under way at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state.under_way.lock().unwrap().1
    }
}

async fn serve(listener: TcpListener, state: Arc<ReceiverState>, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (state, tls) = (state.clone(), tls.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, state.clone()));
            let http = hyper::server::conn::http1::Builder::new();
            let _the_client_may_have_gone = match tls {
                None => http.serve_connection(TokioIo::new(stream), service).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

/// One request that is under way, of a key.
struct UnderWay(Arc<ReceiverState>, String);

impl UnderWay {
    fn begin(state: &Arc<ReceiverState>, key: String) -> Self {
        let mut under_way = state.under_way.lock().unwrap();
        let of_key = under_way.0.entry(key.clone()).or_default();
        *of_key += 1;
        assert!(*of_key == 1 || key.is_empty(), "two requests with the key {key} at once");
        under_way.1 = under_way.1.max(under_way.0.values().sum());
        Self(state.clone(), key)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.under_way.lock().unwrap().0.get_mut(&self.1).unwrap() -= 1;
    }
}

async fn answer(
    request: http::Request<Incoming>,
    state: Arc<ReceiverState>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(status(400, "cut off")) };
    let body = body.to_bytes();
    let key = serde_json::from_slice::<Value>(&body).ok();
    let key = key.and_then(|event| event["key"].as_str().map(str::to_owned));
    let (at, path) = (Instant::now(), head.uri.path().to_owned());
    // Each path is a webhook of its own, with an order of its own.
    let key = key.map(|key| format!("{path} {key}"));
    let _under_way = UnderWay::begin(&state, key.unwrap_or_default());
    let received = Received { at, path, headers: head.headers, body };
    state.received.lock().unwrap().push(received);
    let reply = state.replies.lock().unwrap().pop_front();
    let reply = reply.or_else(|| state.usual.lock().unwrap().clone());
    Ok(match reply {
        None => status(204, ""),
        Some(Reply::Status(code, text)) => status(code, text),
        Some(Reply::Header(code, name, value)) => {
            let mut answer = status(code, "");
            answer.headers_mut().insert(name, value.parse().unwrap());
            answer
        }
        Some(Reply::After(time)) => {
            tokio::time::sleep(time).await;
            status(204, "")
        }
        Some(Reply::Hang) => std::future::pending().await,
        Some(Reply::Endless) => {
            let part = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 16 << 10])));
            Response::new(StreamBody::new(futures_util::stream::repeat_with(part)).boxed())
        }
        Some(Reply::Silent) => {
            let nothing = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
            Response::new(StreamBody::new(nothing).boxed())
        }
    })
}

fn status(code: u16, text: &'static str) -> Response<BoxBody<Bytes, Infallible>> {
    Response::builder().status(code).body(Full::new(Bytes::from(text)).boxed()).unwrap()
}
