//! Stopping: accepted requests are answered, streams end, and nothing delays the end.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{NewEvent, PublishStreamRequest, SubscribeRequest};
use leftoff::server::{Listener, Protocols, Server as RealServer};
use leftoff::{Broker, OpenConfig};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::common::{
    Process, Server, Sse, get, grpc, leftoff, post, publish, quakes, read_all, soon, text,
};
use crate::websocket::Client;

fn request(number: usize) -> PublishStreamRequest {
    let payload = number.to_string().into();
    let event = NewEvent { content_type: "text/plain".into(), payload, ..NewEvent::default() };
    PublishStreamRequest {
        topic: "a".into(),
        events: vec![event],
        expected_sequence: None,
        in_order: false,
        topics: Vec::new(),
    }
}

/// Goal: on SIGTERM, each client gets a last message, acknowledged events stay, and the broker ends
/// soon although streams are open.
/// Method: the real binary, with one open stream of each kind, and a publisher that never ends.
#[tokio::test]
async fn a_stop_answers_everyone_ends_every_stream_and_keeps_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    let address = process.address;
    let mut stream = Sse::follow(address, "quiet", "").await;
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    let mut client = grpc(address).await;
    let subscribe = SubscribeRequest { topic: "quiet".into(), ..SubscribeRequest::default() };
    let mut subscription = client.subscribe(subscribe).await.unwrap().into_inner();
    let poll = tokio::spawn(async move { get(address, "/v1/topics/quiet/events?wait=50s").await });
    let (requests, sent) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        let mut number = 0;
        while requests.send(request(number)).await.is_ok() {
            number += 1;
        }
    });
    let responses = client.publish_stream(ReceiverStream::new(sent)).await.unwrap();
    let mut responses = responses.into_inner();
    let mut acknowledged = 0;
    while acknowledged < 100 {
        let response = soon(responses.message()).await.unwrap().unwrap();
        assert!(matches!(response.outcome, Some(Outcome::Ack(_))), "{response:?}");
        acknowledged += 1;
    }

    let started = Instant::now();
    process.signal(Signal::TERM);
    let frames = stream.rest().await;
    let last = frames.last().unwrap();
    assert!(
        matches!(last.retry, Some(1_000..=3_000)),
        "the last frame does not say when to come back: {frames:?}"
    );
    let status = loop {
        match soon(subscription.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the subscription ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let page = soon(poll).await.unwrap();
    assert_eq!(page.status, 200, "{}", text(&page.body));
    let status = loop {
        match soon(responses.message()).await {
            Ok(Some(response)) => match response.outcome {
                Some(Outcome::Ack(_)) => acknowledged += 1,
                other => assert!(matches!(other, Some(Outcome::Error(_))), "{other:?}"),
            },
            Ok(None) => panic!("the publishing stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(process.exit_code().await, Some(0));
    assert!(started.elapsed() < Duration::from_secs(8), "the stop took {:?}", started.elapsed());

    let process = Process::serve(directory.path(), &[]);
    let stored = read_all(process.address, "a").await;
    assert_eq!(stored.len(), acknowledged, "stored and acknowledged are not the same");
}

/// Goal: streams of the standard gRPC services delay the stop no more than the broker's own
/// streams.
#[tokio::test]
async fn watchers_of_health_and_open_reflection_streams_end_with_the_stop() {
    let directory = tempfile::tempdir().unwrap();
    let patient = ["--set", "server.shutdown_ms=600000", "--set", "server.header_read_ms=600000"];
    let mut process = Process::serve(directory.path(), &patient);
    let channel = Endpoint::from_shared(format!("http://{}", process.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut watches = Vec::new();
    for service in ["", "leftoff.v1.SubscriberService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut watch =
            HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner();
        let status = soon(watch.message()).await.unwrap().unwrap();
        assert_eq!(status.status(), ServingStatus::Serving);
        watches.push(watch);
    }
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    requests.send(request).await.unwrap();
    let mut reflection = ServerReflectionClient::new(channel)
        .server_reflection_info(ReceiverStream::new(sent))
        .await
        .unwrap()
        .into_inner();
    soon(reflection.message()).await.unwrap().unwrap();
    // Silent connections end, too: one without a byte, and one with half of the HTTP/2 preface.
    let _silent = TcpStream::connect(process.address).await.unwrap();
    let mut half = TcpStream::connect(process.address).await.unwrap();
    half.write_all(b"PRI * HT").await.unwrap();

    process.signal(Signal::TERM);
    for mut watch in watches {
        let status = soon(watch.message()).await.unwrap().unwrap();
        assert_eq!(status.status(), ServingStatus::NotServing);
        assert!(soon(watch.message()).await.unwrap().is_none());
    }
    assert!(soon(reflection.message()).await.unwrap().is_none());
    assert_eq!(process.exit_code().await, Some(0));
    drop(requests);
}

/// Sends half of a request. The server waits for the rest.
async fn hold_up(process: &Process) -> TcpStream {
    let mut socket = TcpStream::connect(process.address).await.unwrap();
    let head = "POST /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\
                expect: 100-continue\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    // The server answers 100 when it begins to wait for the body.
    let mut answer = [0; 64];
    let count = soon(socket.read(&mut answer)).await.unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 100"), "{}", text(&answer[..count]));
    socket.write_all(b"half").await.unwrap();
    assert_eq!(post(process.address, "/v1/topics/b/events", "x").await.status, 201);
    socket
}

#[tokio::test]
async fn a_client_that_holds_the_stop_up_is_cut_off_when_the_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &["--set", "server.shutdown_ms=300"]);
    let mut held = hold_up(&process).await;
    let started = Instant::now();
    process.signal(Signal::INT);
    assert_eq!(process.exit_code().await, Some(0));
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(250), "the client was not waited for: {elapsed:?}");
    assert!(elapsed < Duration::from_secs(8), "the client was not cut off: {elapsed:?}");
    let mut rest = Vec::new();
    let _cut = soon(held.read_to_end(&mut rest)).await;
    let process = Process::serve(directory.path(), &[]);
    assert_eq!(read_all(process.address, "b").await.len(), 1);
    let nothing = get(process.address, "/v1/topics/a/events").await;
    assert_eq!(nothing.status, 404, "half of a request was stored");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &["--set", "server.shutdown_ms=600000"]);
    let _held = hold_up(&process).await;
    let mut stream = Sse::follow(process.address, "a", "").await;
    process.signal(Signal::TERM);
    stream.rest().await; // The first signal was received.
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, Some(128 + 15));
}

/// The state in which a supervisor may leave standard error or standard output.
enum Left {
    /// A pipe whose reader is gone.
    Gone,
    /// A pipe that is full, and that nobody reads.
    Full,
    /// A device without space.
    NoRoom,
}

impl Left {
    /// Returns the end for the broker, and the other end if it has to stay open.
    fn open(&self) -> (Stdio, Option<std::io::PipeReader>) {
        if let Self::NoRoom = self {
            let device = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            return (device.into(), None);
        }
        let (reader, mut writer) = std::io::pipe().unwrap();
        if let Self::Gone = self {
            return (writer.into(), None);
        }
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        while writer.write(&[b'x'; 4_096]).is_ok() {}
        rustix::fs::fcntl_setfl(&writer, flags).unwrap();
        (writer.into(), Some(reader))
    }
}

/// Goal: a signal stops the broker whatever happened to standard output and standard error, and the
/// broker works until then: no line that it logs or prints ends or blocks anything.
#[tokio::test]
async fn a_signal_stops_the_broker_whatever_became_of_its_outputs() {
    for output in [Left::Gone, Left::Full, Left::NoRoom] {
        let directory = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (stdout, _reader) = output.open();
        let (stderr, _other_reader) = output.open();
        let mut command = leftoff();
        command.args(["serve", "--listen", &port.to_string(), "--data-dir"]).arg(directory.path());
        command.env("LEFTOFF_LOG_FILTER", "debug").stdout(stdout).stderr(stderr);
        let mut process = Process::adopt(command.spawn().unwrap(), port);
        process.until_ready().await;
        for number in 0..50 {
            let answer = post(port, "/v1/topics/a/events", number.to_string()).await;
            assert_eq!(answer.status, 201);
        }
        process.signal(Signal::TERM);
        assert_eq!(process.exit_code().await, Some(0));
        let process = Process::serve(directory.path(), &[]);
        assert_eq!(read_all(process.address, "a").await.len(), 50);
    }
}

/// Goal: a command succeeds even if its messages cannot be written.
#[tokio::test]
async fn a_command_does_its_work_though_nobody_can_read_what_it_says() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    for output in [Left::Gone, Left::NoRoom] {
        let (stderr, _reader) = output.open();
        let mut command = leftoff();
        command.args(["publish", "--server", &url, "--file"]).arg(quakes()).stderr(stderr);
        let status = tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }
    server.stop().await;
}

/// Goal: a host that drops a running server has cut its clients, WebSockets included, and can go on
/// with the broker.
#[tokio::test]
async fn a_server_that_is_dropped_cuts_its_clients_and_leaves_the_broker_open() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let server = RealServer::builder(broker.clone()).listen(listener).bind().await.unwrap();
    let address = server.address(Protocols::Http).unwrap();
    let running = tokio::spawn(server.run(std::future::pending()));
    let mut stream = Sse::follow(address, "a", "").await;
    let mut socket = Client::connect(address).await;
    socket.say(json!({"type": "subscribe", "subscription": "s", "topic": "a"})).await;
    socket.find("caught_up").await;
    running.abort();
    soon(running).await.unwrap_err();
    soon(socket.cut()).await;
    while soon(stream.next()).await.is_some() {}
    publish(&broker, "a", leftoff::NewEvent::new("still open")).await;
}
