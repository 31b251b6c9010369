//! Every way into a broker: each read, publish and change that its interfaces offer, as a client
//! with a token makes it. Each answer is a text that shows all that was received.

use std::fmt::Debug;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use leftoff::edge::proto;
use leftoff::edge::proto::admin_service_client::AdminServiceClient;
use leftoff::edge::proto::publisher_service_client::PublisherServiceClient;
use leftoff::edge::proto::subscribe_response::Message as Told;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::soon;

/// The media types of a stream, of a page, and of a body with an event on each line.
pub const STREAM: &str = "text/event-stream";
const PAGE: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// The ways of one kind, each with its name and its answer.
pub type Answers = Vec<(String, String)>;

/// A client of a broker at this address, with a token if it has one.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub address: SocketAddr,
    pub token: Option<&'static str>,
}

/// Returns whether an answer is a refusal of the caller, on any interface.
pub fn is_refused(answer: &str) -> bool {
    let begins = ["HTTP/1.1 401", "HTTP/1.1 403", "Unauthenticated", "PermissionDenied"];
    let has = ["\"status\":401", "\"status\":403", "error: code 7 ", "error: code 16 "];
    begins.iter().any(|begin| answer.starts_with(begin)) || has.iter().any(|it| answer.contains(it))
}

fn shown<M: prost::Message + Debug>(message: &M) -> String {
    format!("{message:?} {}\n", String::from_utf8_lossy(&message.encode_to_vec()))
}

fn answer<M: prost::Message + Debug>(answer: Result<Response<M>, Status>) -> String {
    match answer {
        Ok(answer) => shown(answer.get_ref()),
        Err(status) => format!("{:?} {status:?}", status.code()),
    }
}

/// Returns all messages up to the one for which `is_last` holds, and the status of the end.
async fn answers<M: prost::Message + Debug + 'static>(
    answer: Result<Response<Streaming<M>>, Status>,
    is_last: impl Fn(&M) -> bool,
) -> String {
    let mut stream = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return format!("{:?} {status:?}", status.code()),
    };
    let mut all = String::new();
    loop {
        match soon(stream.message()).await {
            Ok(Some(message)) => {
                all.push_str(&shown(&message));
                if is_last(&message) {
                    return all;
                }
            }
            Ok(None) => return all,
            Err(status) => return format!("{:?} {status:?} {all}", status.code()),
        }
    }
}

impl Client {
    fn headers(&self) -> String {
        let token = self.token.map(|token| format!("authorization: Bearer {token}\r\n"));
        token.unwrap_or_default()
    }

    /// Opens a request over HTTP/1.1. A body is JSON, or events on lines if it ends with a line.
    pub async fn open(&self, method: &str, path: &str, accept: &str, body: &str) -> TcpStream {
        let mut socket = soon(TcpStream::connect(self.address)).await.expect("a connection");
        let (host, token, length) = (self.address, self.headers(), body.len());
        let media = if body.ends_with('\n') { LINES } else { PAGE };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{token}accept: {accept}\r\n\
             connection: close\r\ncontent-type: {media}\r\ncontent-length: {length}\r\n\r\n"
        );
        soon(socket.write_all(format!("{head}{body}").as_bytes())).await.expect("a request");
        socket
    }

    /// Returns all that is answered, of a stream all up to the newest event.
    pub async fn http(&self, method: &str, path: &str, accept: &str, body: &str) -> String {
        let mut socket = self.open(method, path, accept, body).await;
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = soon(socket.read(&mut buffer)).await.unwrap_or(0);
            all.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&all);
            if count == 0 || text.contains("leftoff.caught-up") {
                return text.into_owned();
            }
        }
    }

    /// Sends a message over a WebSocket, and returns all that comes up to the end of its answer.
    pub async fn websocket(&self, message: &str) -> String {
        let url = format!("ws://{}/v1/ws", self.address);
        let mut request = url.into_client_request().expect("a request");
        if let Some(token) = self.token {
            let value = format!("Bearer {token}").parse().expect("a header");
            request.headers_mut().insert("authorization", value);
        }
        let mut socket = match soon(tokio_tungstenite::connect_async(request)).await {
            Ok((socket, _)) => socket,
            Err(WebSocketError::Http(refused)) => {
                let body = refused.body().as_deref().map(String::from_utf8_lossy);
                return format!("HTTP/1.1 {} {body:?}", refused.status());
            }
            Err(error) => return error.to_string(),
        };
        soon(socket.send(Message::text(message))).await.expect("a message is taken");
        let mut all = String::new();
        while let Some(Ok(message)) = soon(socket.next()).await {
            all.push_str(&String::from_utf8_lossy(&message.into_data()));
            let ends = ["\"caught_up\"", "\"ended\"", "\"error\"", "\"ack\""];
            if ends.iter().any(|end| all.contains(end)) {
                break;
            }
        }
        all
    }

    /// Returns a request of gRPC with the token.
    pub fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(token) = self.token {
            let value = format!("Bearer {token}").parse().expect("a value");
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    /// Returns a connection for gRPC.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("a URI");
        soon(endpoint.connect()).await.expect("a connection")
    }

    /// Reads `topics`, one or a pattern, from the first event to the newest, in every way that many
    /// topics can be read.
    pub async fn read_many(&self, topics: &str) -> Answers {
        let asked = topics.replace('>', "%3E");
        let mut all = Vec::new();
        for accept in [PAGE, STREAM] {
            let path = format!("/v1/events?topic={asked}&from=earliest");
            let body = format!("{{\"topics\":[\"{topics}\"],\"from\":\"earliest\"}}");
            all.push((format!("GET {accept}"), self.http("GET", &path, accept, "").await));
            let posted = self.http("POST", "/v1/events", accept, &body).await;
            all.push((format!("POST {accept}"), posted));
        }
        let subscribe = format!(
            "{{\"type\":\"subscribe\",\"subscription\":\"s\",\"topics\":[\"{topics}\"],\
             \"from\":\"earliest\"}}"
        );
        all.push(("WebSocket".into(), self.websocket(&subscribe).await));
        let mut grpc = SubscriberServiceClient::new(self.channel().await);
        let (topics, from) = (vec![topics.to_owned()], "earliest".to_owned());
        let read =
            proto::ReadRequest { topics: topics.clone(), from: from.clone(), ..Default::default() };
        all.push(("Read".into(), answer(soon(grpc.read(self.request(read))).await)));
        let subscribe = proto::SubscribeRequest { topics, from, ..Default::default() };
        let stream = soon(grpc.subscribe(self.request(subscribe))).await;
        let is_last = |it: &proto::SubscribeResponse| matches!(it.message, Some(Told::CaughtUp(_)));
        all.push(("Subscribe".into(), answers(stream, is_last).await));
        all
    }

    /// Reads one topic in every way in which one topic can be read: its events, its state, its
    /// settings and its members.
    pub async fn read_one(&self, topic: &str) -> Answers {
        let of = format!("/v1/topics/{topic}");
        let mut all = Vec::new();
        for accept in [PAGE, STREAM] {
            let path = format!("{of}/events?from=earliest");
            all.push((format!("one, {accept}"), self.http("GET", &path, accept, "").await));
        }
        for part in ["", "/state", "/presence"] {
            let path = format!("{of}{part}");
            all.push((path.clone(), self.http("GET", &path, PAGE, "").await));
        }
        let subscribe = format!(
            "{{\"type\":\"subscribe\",\"subscription\":\"s\",\"topic\":\"{topic}\",\
             \"from\":\"earliest\"}}"
        );
        all.push(("one, WebSocket".into(), self.websocket(&subscribe).await));
        let mut grpc = SubscriberServiceClient::new(self.channel().await);
        let (topic, from) = (topic.to_owned(), "earliest".to_owned());
        let read =
            proto::ReadRequest { topic: topic.clone(), from: from.clone(), ..Default::default() };
        all.push(("one, Read".into(), answer(soon(grpc.read(self.request(read))).await)));
        let subscribe =
            proto::SubscribeRequest { topic: topic.clone(), from, ..Default::default() };
        let stream = soon(grpc.subscribe(self.request(subscribe))).await;
        let is_last = |it: &proto::SubscribeResponse| matches!(it.message, Some(Told::CaughtUp(_)));
        all.push(("one, Subscribe".into(), answers(stream, is_last).await));
        let state = proto::ReadStateRequest { topic: topic.clone(), ..Default::default() };
        all.push(("ReadState".into(), answer(soon(grpc.read_state(self.request(state))).await)));
        let get = proto::GetTopicRequest { topic: topic.clone() };
        all.push(("GetTopic".into(), answer(soon(grpc.get_topic(self.request(get))).await)));
        let members = proto::ListMembersRequest { topic, ..Default::default() };
        let members = soon(grpc.list_members(self.request(members))).await;
        all.push(("ListMembers".into(), answer(members)));
        all
    }

    /// Lists all topics in every way.
    pub async fn list(&self) -> Answers {
        let mut grpc = SubscriberServiceClient::new(self.channel().await);
        let topics = soon(grpc.list_topics(self.request(Default::default()))).await;
        vec![
            ("/v1/topics".into(), self.http("GET", "/v1/topics", PAGE, "").await),
            ("ListTopics".into(), answer(topics)),
        ]
    }

    /// Publishes `payload` to `topic` in every way.
    pub async fn publish(&self, topic: &str, payload: &str) -> Answers {
        let path = format!("/v1/topics/{topic}/events");
        let body = format!("\"{payload}\"");
        let mut all = vec![("POST".into(), self.http("POST", &path, PAGE, &body).await)];
        let line = format!("{{\"data\":\"{payload}\"}}\n");
        all.push(("POST of lines".into(), self.http("POST", &path, PAGE, &line).await));
        for ephemeral in [false, true] {
            let query = format!("{path}?ephemeral={ephemeral}");
            let name = format!("POST, ephemeral {ephemeral}");
            all.push((name, self.http("POST", &query, PAGE, &body).await));
            let publish = format!(
                "{{\"type\":\"publish\",\"ephemeral\":{ephemeral},\"topic\":\"{topic}\",\
                 \"event\":{{\"data\":\"{payload}\"}}}}"
            );
            let name = format!("WebSocket, ephemeral {ephemeral}");
            all.push((name, self.websocket(&publish).await));
            let mut grpc = PublisherServiceClient::new(self.channel().await);
            let event = proto::NewEvent {
                payload: payload.to_owned().into_bytes().into(),
                ..Default::default()
            };
            let (topic, events) = (topic.to_owned(), vec![event]);
            let publish = proto::PublishRequest {
                topic: topic.clone(),
                events: events.clone(),
                ephemeral,
                ..Default::default()
            };
            let name = format!("Publish, ephemeral {ephemeral}");
            all.push((name, answer(soon(grpc.publish(self.request(publish))).await)));
            let publish = proto::PublishStreamRequest { topic, events, ..Default::default() };
            let requests = futures_util::stream::iter([publish]);
            let stream = soon(grpc.publish_stream(self.request(requests))).await;
            let outcomes = answers(stream, |_| false).await;
            let outcomes = outcomes.replace("PublishError { code: ", "error: code ");
            all.push(("PublishStream".into(), outcomes.replace(", message", " message")));
        }
        all
    }

    /// Changes `topic` in every way, from the settings to the deletion; has maintenance done, and
    /// asks for a backup, the metrics and the connections.
    pub async fn administer(&self, topic: &str) -> Answers {
        let of = format!("/v1/topics/{topic}");
        let mut all = Answers::new();
        for (method, path, body) in [
            ("PUT", of.clone(), "{\"max_events\":5}"),
            ("PATCH", of.clone(), "{\"max_events\":6}"),
            ("DELETE", format!("{of}/events?before=2"), ""),
            ("POST", "/v1/maintenance".to_owned(), ""),
            ("GET", "/metrics".to_owned(), ""),
            ("GET", "/v1/connections".to_owned(), ""),
        ] {
            all.push((format!("{method} {path}"), self.http(method, &path, PAGE, body).await));
        }
        let mut grpc = AdminServiceClient::new(self.channel().await);
        let topic = topic.to_owned();
        let more = proto::CreateTopicRequest { topic: format!("{topic}.more"), config: None };
        all.push(("CreateTopic".into(), answer(soon(grpc.create_topic(self.request(more))).await)));
        let update = proto::UpdateTopicRequest {
            topic: topic.clone(),
            config: Some(proto::TopicConfig { max_events: Some(7), ..Default::default() }),
            ..Default::default()
        };
        let updated = soon(grpc.update_topic(self.request(update))).await;
        all.push(("UpdateTopic".into(), answer(updated)));
        let purge = proto::PurgeTopicRequest { topic: topic.clone(), before: Some(2) };
        all.push(("PurgeTopic".into(), answer(soon(grpc.purge_topic(self.request(purge))).await)));
        let maintained = soon(grpc.maintain(self.request(Default::default()))).await;
        all.push(("Maintain".into(), answer(maintained)));
        let backup = soon(grpc.backup(self.request(Default::default()))).await;
        all.push(("Backup".into(), answers(backup, |_| false).await));
        let delete = proto::DeleteTopicRequest { topic };
        let deleted = soon(grpc.delete_topic(self.request(delete))).await;
        all.push(("DeleteTopic".into(), answer(deleted)));
        all.push((format!("DELETE {of}"), self.http("DELETE", &of, PAGE, "").await));
        all
    }
}
