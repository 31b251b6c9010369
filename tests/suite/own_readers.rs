//! Readers that a host opens itself, in its own handlers, and answers with.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::get as on_get;
use leftoff::edge::http::{AnswerOptions, Format, page, sse};
use leftoff::server::{Listener, Protocols, Server};
use leftoff::{Broker, Edge, NewEvent, OnGap, OpenConfig, PageRequest, StartPoint};

use crate::common::{Sse, get, name, publish, soon, text, to};

/// Streams the topic of the customer whose name the client sends, from where it left off.
async fn followed(State(edge): State<Edge>, request: Parts) -> leftoff::Result<Response> {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let start = match header("last-event-id") {
        Some(id) => id.parse().map(StartPoint::After)?,
        None => StartPoint::Earliest,
    };
    let topic = format!("of.{}", header("x-customer").unwrap_or("nobody")).parse()?;
    let reader = edge.broker().subscribe(&topic, start, OnGap::Resume).await?;
    Ok(sse(&edge, reader, AnswerOptions::of(&request.extensions)))
}

async fn read(State(edge): State<Edge>, request: Parts) -> leftoff::Result<Response> {
    let reader = edge.broker().page(&name("of.ann"), PageRequest::default()).await?;
    let options = AnswerOptions::of(&request.extensions).format(Format::CloudEvents);
    page(&edge, reader, options).await
}

async fn start(broker: &Broker) -> SocketAddr {
    let edge = Edge::new(broker.clone());
    let own = axum::Router::new().route("/mine", on_get(followed)).route("/page", on_get(read));
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let server = Server::builder(broker.clone()).routes(own.with_state(edge)).listen(listener);
    let server = server.bind().await.unwrap();
    let address = server.address(Protocols::Http).unwrap();
    tokio::spawn(server.run(std::future::pending()));
    address
}

/// Goal: a handler of the host's own answers with an event stream that resumes, tells gaps and ends
/// in order, and with pages, as the broker's own resources do.
#[tokio::test]
async fn a_handler_of_the_host_answers_with_streams_and_pages() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    for payload in ["one", "two", "three"] {
        publish(&broker, "of.ann", NewEvent::new(payload)).await;
    }
    publish(&broker, "of.bob", NewEvent::new("bob's")).await;
    let address = start(&broker).await;
    let open = async |last_id: Option<&str>| {
        let request = to(address, "GET", "/mine").header("x-customer", "ann");
        let request = match last_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        soon(Sse::open(request)).await.unwrap()
    };
    let mut stream = open(None).await;
    let first = stream.find(|frame| frame.data.as_deref() == Some("one")).await;
    stream.find(|frame| frame.data.as_deref() == Some("three")).await;
    let mut resumed = open(first.id.as_deref()).await;
    let next = resumed.find(|frame| frame.is_event()).await;
    assert_eq!(next.data.as_deref(), Some("two"));
    broker.purge(&name("of.ann"), leftoff::Sequence::new(4)).await.unwrap();
    let mut late = open(first.id.as_deref()).await;
    let gap = late.find(|frame| frame.is_control("leftoff.gap")).await;
    assert_eq!(gap.json()["lost"], 2, "{gap:?}");
    publish(&broker, "of.ann", NewEvent::new("four")).await;
    let answer = get(address, "/page").await;
    assert!(text(&answer.body).contains("\"specversion\":\"1.0\""), "{}", text(&answer.body));
    broker.drain();
    late.find(|frame| frame.is_control("leftoff.stopping")).await;
}
