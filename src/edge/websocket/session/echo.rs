//! A session's socket that answers each message with the same message, for the cases of Autobahn's
//! test suite. The broker's own endpoint answers with JSON, so the cases cannot run against it.
//!
//! The handshake, the settings of the socket, and the end of a connection are those of a session.
//! Only the handling of a message differs.

use std::process::Command;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::super::check;
use super::*;
use crate::broker::{Broker, LimitsConfig, OpenConfig};

/// The variable with the folder of the suite's cases: `autobahntestsuite/case` of the package
/// `autobahntestsuite`.
const CASES: &str = "LEFTOFF_AUTOBAHN_CASES";

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn echo(mut self) {
        let echoed = async {
            loop {
                let message = next(&mut self.socket).await.ok_or(SessionEnd::Gone)??;
                if message.is_text() || message.is_binary() {
                    self.feed(message).await?;
                    self.flush().await?;
                }
            }
        };
        let Err::<std::convert::Infallible, SessionEnd>(end) = echoed.await;
        self.end(end).await;
    }
}

async fn open(State(edge): State<Edge>, mut request: Request) -> Response {
    let accepted = match check(&request) {
        Ok(accepted) => accepted,
        Err(refused) => return refused.into_response(),
    };
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().unwrap();
    tokio::spawn(async move {
        let socket = PacedSocket::new(TokioIo::new(upgrade.await.unwrap()), edge.pace());
        Session::new(edge, Default::default(), socket).await.echo().await;
    });
    accepted.into_response()
}

/// Goal: the WebSocket's framing, fragments, UTF-8 and closing conform to RFC 6455. Method: the
/// cases of Autobahn's test suite, run by `tests/autobahn/run.py`. If they are not installed, this
/// test says so and does nothing.
#[tokio::test]
async fn the_cases_of_autobahn_pass() {
    let Some(cases) = std::env::var_os(CASES) else {
        return println!("{CASES} does not say where the cases are: nothing was tested");
    };
    let directory = tempfile::tempdir().unwrap();
    let mut config = OpenConfig::default();
    // The largest message of the cases has 16 MiB.
    let bounds = LimitsConfig { max_batch_bytes: 17 << 20, ..LimitsConfig::default() };
    config.limits = bounds;
    let broker = Broker::open(directory.path(), &config).unwrap();
    let edge = Edge::new(broker);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let routes = Router::new().route("/v1/ws", get(open)).with_state(edge);
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let run = move || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/autobahn/run.py");
        let arguments = [script.into(), cases, "127.0.0.1".into(), port.into(), "/v1/ws".into()];
        Command::new("python3").args(arguments).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let (told, errors) = (&output.stdout, &output.stderr);
    println!("{}{}", String::from_utf8_lossy(told), String::from_utf8_lossy(errors));
    assert!(output.status.success());
}
