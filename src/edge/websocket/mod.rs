//! The WebSocket edge: subscribe, unsubscribe and publish on one connection, in JSON.
//!
//! The messages and the close codes are in `protocol.md`, which rustdoc shows with `protocol.rs`.

mod ending;
#[cfg(any(test, fuzzing))]
pub(in crate::edge) mod fuzzing;
mod hearing;
mod keeping;
mod protocol;
mod reference;
mod session;
#[cfg(test)]
mod tests;
mod waiting;
mod working;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::debug;

use super::clients::{Peer, share};
use super::pace::PacedSocket;
use super::status;
use crate::edge::Edge;
use crate::edge::permit::Permit;
use crate::edge::upgrades::Upgrades;
use crate::error::Error;
use crate::polls::{Task, timed};
use session::Session;

/// The memory of an idle connection, in bytes. Source: `leftoff bench fanout`.
const SESSION_BYTES: usize = 10 << 10;

/// The only supported subprotocol.
const SUBPROTOCOL: &str = "leftoff.v1.json";

/// Answers `GET /v1/ws`: the opening handshake. Source: RFC 6455, 4.2.
pub(super) async fn open(State(edge): State<Edge>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let permit = match Permit::ask_refreshable(&edge, &head).await {
        Ok(permit) => permit,
        Err(refused) => return refused.into_response(),
    };
    let mut request = Request::from_parts(head, body);
    if edge.broker.is_draining() {
        return Error::ShuttingDown.into_response();
    }
    let accepted = match check(&request) {
        Ok(accepted) => accepted,
        Err(refused) => return refused.into_response(),
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        let detail = "this connection cannot become a WebSocket";
        return NoHandshake(StatusCode::UPGRADE_REQUIRED, detail).into_response();
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
                    timed(Task::WebSocket, Session::run(edge, (peer, permit), socket)).await;
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
struct Handshake {
    key: HeaderValue,
    /// The subprotocol, as the client spelled it: some clients compare the exact bytes.
    subprotocol: Option<HeaderValue>,
}

impl IntoResponse for Handshake {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, self.key),
        ];
        let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        let spoken = self.subprotocol.map(|spoken| (header::SEC_WEBSOCKET_PROTOCOL, spoken));
        response.headers_mut().extend(spoken);
        response
    }
}

/// The status and the reason of a refused handshake.
struct NoHandshake(StatusCode, &'static str);

impl IntoResponse for NoHandshake {
    fn into_response(self) -> Response {
        let mut response = status::plain_problem(self.0, self.1);
        if self.0 == StatusCode::UPGRADE_REQUIRED {
            // Source: RFC 9110, 15.5.22 and 7.8; RFC 6455, 4.4.
            for (name, value) in [
                (header::CONNECTION, "upgrade"),
                (header::UPGRADE, "websocket"),
                (header::SEC_WEBSOCKET_VERSION, "13"),
            ] {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        response
    }
}

fn check(request: &Request) -> Result<Handshake, NoHandshake> {
    let headers = request.headers();
    if request.version() > Version::HTTP_11 {
        // HTTP/2 has no `Upgrade` header to ask for.
        return Err(NoHandshake(StatusCode::BAD_REQUEST, "a WebSocket needs HTTP/1.1"));
    }
    if request.version() != Version::HTTP_11
        || !has_token(headers, header::CONNECTION, "upgrade")
        || !has_token(headers, header::UPGRADE, "websocket")
    {
        return Err(NoHandshake(StatusCode::UPGRADE_REQUIRED, "this resource is a WebSocket"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(NoHandshake(StatusCode::UPGRADE_REQUIRED, "the version of WebSocket is 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let key = key.filter(|key| BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16));
    let Some(key) = key.and_then(|key| derive_accept_key(key).try_into().ok()) else {
        return Err(NoHandshake(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is not valid"));
    };
    let subprotocol = token(headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) && subprotocol.is_none() {
        return Err(NoHandshake(StatusCode::BAD_REQUEST, "the subprotocol is leftoff.v1.json"));
    }
    let subprotocol = subprotocol.and_then(|spoken| HeaderValue::from_str(spoken).ok());
    Ok(Handshake { key, subprotocol })
}

fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    token(headers, name, wanted).is_some()
}

/// Returns a token of a list, as the client spelled it.
fn token<'a>(headers: &'a HeaderMap, name: HeaderName, wanted: &str) -> Option<&'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut tokens = values.flat_map(|value| value.split(',')).map(str::trim);
    tokens.find(|token| token.eq_ignore_ascii_case(wanted))
}
