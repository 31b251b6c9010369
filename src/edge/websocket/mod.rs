//! The WebSocket edge: subscribe, unsubscribe and publish on one connection, in JSON.
//!
//! | close code | why | come back |
//! |---|---|---|
//! | 1000 | the client closed | |
//! | 1001 | the server's host is going away | yes |
//! | 1002, 1007, 1009 | what came breaks RFC 6455, is no UTF-8, is too large | no |
//! | 1008 | too many frames that were refused, one after the other | no |
//! | 1011 | the broker has failed | later |
//! | 1013 | the memory for clients has no room | later |
//! | 4001 | not authorised | no |
//! | 4029 | it goes on with what its rates refuse (`rates.max_refused`) | no |
//! | 4108 | too slow: it took nothing for `server.write_timeout_ms`, or ended no message | yes |
//! | 4109 | the broker is stopping | yes |
//! | 4110 | it answered no ping for one and a half times `follow.heartbeat_ms` | yes |
//!
//! A message that was begun has to come in as a body has: `follow.body_read_ms` and
//! `follow.min_body_bytes_per_second`.
//!
//! 4000 to 4099 mean not to come back, 4100 to 4199 to come back with the last cursors. Whoever is
//! too slow, or dead, often cannot be told any more: the connection just ends.

#[cfg(any(test, fuzzing))]
pub(in crate::edge) mod fuzzing;
mod hearing;
mod protocol;
mod session;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::clients::{Peer, share};
use super::http::Edge;
use super::pace::PacedSocket;
use super::status;
use crate::polls::{Task, timed};
use session::Session;

/// What an idle connection takes in memory, in bytes. Source: `leftoff bench fanout`.
const SESSION_BYTES: usize = 10 << 10;

/// The one subprotocol that is spoken.
const SUBPROTOCOL: &str = "leftoff.v1.json";

/// Where the tasks of upgraded connections go, so that a stop can wait for them, and cut them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upgrades {
    pub(crate) tasks: TaskTracker,
    pub(crate) cut: CancellationToken,
}

/// `GET /v1/ws`: the opening handshake. Source: RFC 6455, 4.2.
pub(super) async fn open(State(edge): State<Edge>, mut request: Request) -> Response {
    if edge.broker.is_draining() {
        return crate::Error::ShuttingDown.into_response();
    }
    let accepted = match check(&request) {
        Ok(accepted) => accepted,
        Err(refused) => return refused.into_response(),
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        let detail = "this connection cannot become a WebSocket";
        return status::plain_problem(StatusCode::UPGRADE_REQUIRED, detail);
    };
    let peer = request.extensions_mut().remove::<Peer>();
    let held = match share(peer.as_ref()).take(SESSION_BYTES) {
        Ok(held) => held,
        Err(no_room) => return no_room.into_response(),
    };
    let Upgrades { tasks, cut } = peer.as_ref().map(|p| p.upgrades.clone()).unwrap_or_default();
    tasks.spawn(async move {
        let serve = async {
            match upgrade.await {
                Ok(socket) => {
                    peer.iter().for_each(|peer| peer.intake.follow_messages());
                    let socket = PacedSocket::new(TokioIo::new(socket), edge.pace());
                    timed(Task::WebSocket, Session::run(edge, peer, socket)).await;
                    drop(held);
                }
                Err(error) => debug!(%error, "a WebSocket ended before it began"),
            }
        };
        tokio::select! {
            () = serve => {}
            () = cut.cancelled() => {}
        }
    });
    accepted.into_response()
}

/// The answer that switches protocols.
struct Accepted {
    key: HeaderValue,
    has_subprotocol: bool,
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, self.key),
        ];
        let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        if self.has_subprotocol {
            let spoken = HeaderValue::from_static(SUBPROTOCOL);
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, spoken);
        }
        response
    }
}

/// Why there is no WebSocket.
struct Refused(StatusCode, &'static str);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = status::plain_problem(self.0, self.1);
        if self.0 == StatusCode::UPGRADE_REQUIRED {
            let versions = HeaderValue::from_static("13");
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, versions);
        }
        response
    }
}

fn check(request: &Request) -> Result<Accepted, Refused> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11
        || !has_token(headers, header::CONNECTION, "upgrade")
        || !has_token(headers, header::UPGRADE, "websocket")
    {
        return Err(Refused(StatusCode::UPGRADE_REQUIRED, "this resource is a WebSocket"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refused(StatusCode::UPGRADE_REQUIRED, "the version of WebSocket is 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let key = key.filter(|key| BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16));
    let Some(key) = key.and_then(|key| derive_accept_key(key).try_into().ok()) else {
        return Err(Refused(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is none"));
    };
    let has_subprotocol = has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) && !has_subprotocol {
        return Err(Refused(StatusCode::BAD_REQUEST, "the subprotocol is leftoff.v1.json"));
    }
    Ok(Accepted { key, has_subprotocol })
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
}
