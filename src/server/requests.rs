//! The requests of one connection: each is checked, counted and served. The memory of an answer is
//! counted until the answer is sent.

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::activity::{self, Activity};
use super::half_closed::probing;
use super::stalls::Streams;
use super::{answers, heads};
use crate::edge::clients::Peer;
use crate::edge::intake::Intake;
use crate::edge::refused::RefusalForm;
use crate::polls::{Task, timed_about};

/// The service that answers the requests of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) routes: Router,
    pub(super) peer: Peer,
    /// The place for an event stream that hyper is not to write. Only the first request of a
    /// connection may put one there: before it, hyper has no answer that is still unsent.
    pub(super) taken: Mutex<Option<TakenOver>>,
    /// The answers that are being sent.
    pub(super) streams: Streams,
    pub(super) activity: Activity,
    /// The time for which the connection may be without a request, while the broker does not stop.
    pub(super) idle: Duration,
    pub(super) stopping: CancellationToken,
}

/// The answer that is taken from hyper.
#[derive(Debug, Clone, Default)]
pub(super) struct TakenOver(Arc<Mutex<Option<Response>>>);

impl TakenOver {
    pub(super) fn response(&self) -> Option<Response> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let served = self.activity.serve();
        let peer = self.peer.clone();
        request.extensions_mut().insert(peer.clone());
        let may_stream = request.version() == Version::HTTP_11 && request.method() == Method::GET;
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let taken = taken.filter(|_| may_stream);
        let is_http2 = request.version() == Version::HTTP_2;
        let streams = Some(self.streams.clone()).filter(|_| is_http2);
        let about = About { method: request.method().clone(), uri: request.uri().clone() };
        if !is_http2 {
            peer.intake.took_all();
        }
        if let Some(refused) = heads::refusal(&request) {
            let refused = refused.map(|body| until_sent(served, peer.intake.clone(), body));
            return Box::pin(ready(Ok(refused)));
        }
        let may_ask = request.version() == Version::HTTP_11;
        let keeps_alive = heads::keeps_alive(&request) && !self.stopping.is_cancelled();
        let idle = Some(self.idle).filter(|_| keeps_alive);
        let form = RefusalForm::of(&request);
        let held = peer.share().take(answers::request_bytes(&request));
        let request = request.map(|body| answers::taken_from(body, peer.intake.clone()));
        let answer = self.routes.clone().oneshot(request);
        let answer = timed_about(Task::Request, about, answer);
        Box::pin(async move {
            let held = match held {
                Ok(held) => held,
                Err(error) => return Ok(form.answer(error)),
            };
            peer.intake.set_may_ask(may_ask);
            let mut response = answer.await?;
            peer.intake.set_may_ask(false);
            if response.status() == StatusCode::NOT_MODIFIED {
                // The length would be that of the body that the client holds, not of this answer.
                response.headers_mut().remove(header::CONTENT_LENGTH);
            }
            let is_event_stream = is_event_stream(&response);
            if is_event_stream && !is_http2 {
                response = response.map(|body| probing(body, peer.intake.clone()));
            } else if !is_http2 && peer.intake.is_body_cut() {
                heads::tell_close(&mut response);
            } else if let Some(idle) = idle.filter(|_| !peer.intake.is_ended()) {
                heads::tell_idle(&mut response, idle);
            }
            match taken {
                Some(taken) if is_event_stream => {
                    peer.intake.follow_nothing();
                    let response = response.map(|body| answers::keeping(body, held));
                    *taken.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
                    std::future::pending().await // Until the connection is taken apart.
                }
                _ => {
                    let response = answers::counted(response, peer.share(), held);
                    Ok(response.map(|body| {
                        let body = until_sent(served, peer.intake.clone(), body);
                        match streams {
                            Some(streams) => streams.watch(body),
                            None => body,
                        }
                    }))
                }
            }
        })
    }
}

/// Returns the body of an answer. The request counts as served until the body is dropped.
fn until_sent(served: activity::Served, intake: Arc<Intake>, body: Body) -> Body {
    answers::keeping(body, (served, Answered(intake))) // Dropped in this order.
}

/// A guard that notes that an answer was sent, when it is dropped.
struct Answered(Arc<Intake>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The method and the path of a request, for the log. The query is left out, because it may be
/// long, or secret.
struct About {
    method: Method,
    uri: Uri,
}

impl fmt::Debug for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.uri.path())
    }
}

fn is_event_stream(response: &Response) -> bool {
    let media = response.headers().get(header::CONTENT_TYPE);
    media.is_some_and(|media| media.as_bytes().starts_with(b"text/event-stream"))
}
