//! A stranger reads everything that it can. Whatever it gets is searched for what others wrote.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use leftoff::NewEvent;
use leftoff::broker::Member;
use leftoff::edge::proto;
use serde_json::json;

use super::credentials::{Sent, all_of, claims, key_of, signed};
use super::{CANARY, STRANGER_KEY, all_of_answer, config, ticket};
use crate::common::{Frame, Server, Sse, grpc, name, publish, send, soon};
use crate::websocket::Client;

/// The last event of a test, which every reader may read.
const LAST: &str = "the last one";
/// A topic of others whose name the stranger knows, and one whose name it does not.
const NAMED: &str = "secret.named";
const UNNAMED: &str = "secret.canary-topic-91cc";
const LATER: &str = "secret.canary-later-0d17";

/// Everything that no stranger may get.
const CANARIES: [&str; 9] = [
    CANARY,
    "canary-id-12",
    "canary-type-34",
    "canary-key-56",
    "canary-header-78",
    "canary-value-90",
    "canary-member-ab",
    "canary-topic-91cc",
    "canary-later-0d17",
];

fn canary(number: usize) -> NewEvent {
    NewEvent {
        id: format!("{} {number}", CANARIES[1]),
        event_type: CANARIES[2].to_owned(),
        key: CANARIES[3].to_owned(),
        headers: [(CANARIES[4].to_owned(), CANARIES[5].to_owned())].into(),
        ..NewEvent::new(CANARY)
    }
}

fn owner() -> Sent {
    Sent::bearer(signed(&claims("owner", all_of("secret.>"))))
}

/// Publishes canaries of all kinds to the topics of others.
async fn fill(server: &Server) {
    for number in 0..3 {
        for topic in [NAMED, UNNAMED] {
            publish(&server.broker, topic, canary(number)).await;
        }
    }
    publish(&server.broker, "other.one", NewEvent::new("public")).await;
}

/// What a caller has heard.
#[derive(Default)]
struct Heard(String);

impl Heard {
    /// Asks over HTTP, for a page and for an event stream.
    async fn ask(&mut self, server: &Server, sent: &Sent, method: &str, path: &str, body: &str) {
        for accept in ["application/json", "application/cloudevents-batch+json"] {
            let request = sent.to(server.address, method, path).header("accept", accept);
            let request = request.header("content-type", "application/json");
            let answer = send(request, body.to_owned()).await;
            self.0.push_str(&format!("\n{method} {path}: {}", answer.status));
            self.0.push_str(&all_of_answer(&answer));
        }
    }

    /// Returns those canaries that were heard.
    fn canaries(&self) -> Vec<&'static str> {
        CANARIES.into_iter().filter(|canary| self.0.contains(canary)).collect()
    }
}

/// The places that an owner was told, which give no right to others.
struct Places {
    cursor: String,
    position: String,
    state_token: String,
    tag: String,
}

impl Places {
    async fn of_owner(server: &Server) -> Self {
        let ask = async |path: &str| {
            let request = owner().to(server.address, "GET", path);
            let answer = send(request.header("accept", "application/json"), "").await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            answer
        };
        let page = ask(&format!("/v1/topics/{NAMED}/events?limit=1")).await;
        let many = ask("/v1/events?topic=secret.%3E&limit=1").await.json();
        let keyed = NewEvent { key: "another".to_owned(), ..canary(9) };
        publish(&server.broker, NAMED, keyed).await;
        let state = ask(&format!("/v1/topics/{NAMED}/state?limit=1")).await.json();
        Self {
            cursor: page.json()["cursor"].as_str().unwrap().to_owned(),
            position: many["cursor"].as_str().unwrap().to_owned(),
            state_token: state["next_page_token"].as_str().unwrap().to_owned(),
            tag: page.header("etag").to_owned(),
        }
    }

    /// Returns all paths that somebody may try who wants to read what others wrote.
    fn paths(&self) -> Vec<String> {
        let Self { cursor, position, state_token, .. } = self;
        let mut paths: Vec<String> = [
            "/v1/topics",
            "/v1/topics?limit=1",
            "/v1/topics?after=secret",
            "/v1/topics?after=other.one&limit=1",
            "/v1/events?topic=%3E&from=earliest",
            "/v1/events?topic=*&from=earliest",
            "/v1/events?topic=*.*&from=earliest&limit=1",
            "/v1/events?topic=secret.%3E&from=earliest",
            "/v1/events?topic=secret.*&topic=other.%3E&from=earliest",
            "/v1/events?topic=*.named&from=earliest",
            "/v1/events?topic=other.one&topic=secret.named&from=earliest",
            "/v1/events?topic=other.one&topic=secret.named&from=earliest&strict=true",
            "/v1/events?topic=secret.named&from=earliest&format=envelope",
            "/v1/events?topic=$audit&from=earliest",
            "/v1/events?topic=$*&topic=%3E&from=earliest",
            "/v1/topics/$audit/events?from=earliest",
            "/v1/topics/$audit",
            "/v1/topics/$revocations/events?from=earliest",
            "/v1/topics/$revocations/state",
            "/v1/topics/$tickets/events?from=earliest",
            "/v1/topics/$tickets/state",
            "/v1/connections",
            "/v1/access/revocations",
            "/metrics",
            "/readyz",
            "/v1/",
            "/v1/nothing",
        ]
        .map(str::to_owned)
        .into();
        for rest in ["", "/events", "/state", "/presence"] {
            paths.push(format!("/v1/topics/{NAMED}{rest}"));
        }
        for query in [
            format!("from={cursor}"),
            format!("from={position}"),
            "from=last:9".to_owned(),
            "before=9".to_owned(),
            "from=time:2020-01-01T00:00:00Z".to_owned(),
            "from=earliest&on_gap=fail".to_owned(),
            "from=999&on_gap=earliest".to_owned(),
        ] {
            paths.push(format!("/v1/topics/{NAMED}/events?{query}"));
            paths.push(format!("/v1/events?topic=%3E&{query}"));
        }
        paths.push(format!("/v1/topics/{NAMED}/state?page_token={state_token}"));
        paths.push(format!("/v1/topics/other.one/state?page_token={state_token}"));
        paths.push(format!("/v1/topics/other.one/events?from={cursor}"));
        paths
    }
}

/// Returns what somebody gets who asks for everything over HTTP.
async fn heard_over_http(server: &Server, sent: &Sent, places: &Places) -> Heard {
    let mut heard = Heard::default();
    for path in places.paths() {
        heard.ask(server, sent, "GET", &path, "").await;
    }
    for (method, path, body) in [
        ("HEAD", format!("/v1/topics/{NAMED}/events"), ""),
        ("POST", "/v1/events?from=earliest".to_owned(), r#"{"topics":[">"]}"#),
        ("POST", "/v1/events?from=earliest".to_owned(), r#"{"topics":["secret.named"]}"#),
        ("POST", format!("/v1/topics/{NAMED}/events?expected_sequence=1"), "1"),
        ("POST", format!("/v1/topics/{NAMED}/events?id=1&ephemeral=true"), "1"),
        ("PUT", format!("/v1/topics/{NAMED}"), "{}"),
        ("PATCH", format!("/v1/topics/{NAMED}"), "{}"),
        ("DELETE", format!("/v1/topics/{NAMED}"), ""),
        ("DELETE", format!("/v1/topics/{NAMED}/events"), ""),
        ("POST", "/v1/maintenance".to_owned(), ""),
        ("POST", "/v1/tickets".to_owned(), r#"{"kind":"stream","subscribe":[">"]}"#),
        ("POST", "/v1/tickets".to_owned(), r#"{"kind":"stream","subscribe":["secret.named"]}"#),
    ] {
        heard.ask(server, sent, method, &path, body).await;
    }
    let path = format!("/v1/topics/{NAMED}/events?limit=1");
    let known = sent.to(server.address, "GET", &path).header("if-none-match", &places.tag);
    let known = send(known.header("accept", "application/json"), "").await;
    let is_shown = [200, 304].contains(&known.status.as_u16());
    assert!(!is_shown, "a tag gives no right: {known:?}");
    heard
}

/// Returns what somebody gets who asks for everything over gRPC.
async fn heard_over_grpc(server: &Server, sent: &Sent, places: &Places) -> Heard {
    let mut heard = Heard::default();
    let mut client = grpc(server.grpc_address).await;
    let all = || vec![">".to_owned()];
    macro_rules! ask {
        ($call:ident, $message:ident { $($field:ident: $value:expr),* }) => {{
            #[allow(unused_mut, reason = "some messages have no field")]
            let mut message = proto::$message::default();
            $(message.$field = $value;)*
            let answer = client.$call(sent.call(message)).await;
            heard.0.push_str(&format!("\n{}: {answer:?}", stringify!($call)));
            answer.ok().map(tonic::Response::into_inner)
        }};
    }
    let pages = [
        ask!(read, ReadRequest { topics: all() }),
        ask!(read, ReadRequest { topics: all(), from: places.position.clone() }),
        ask!(read, ReadRequest { topic: NAMED.to_owned() }),
        ask!(read, ReadRequest { topic: NAMED.to_owned(), from: places.cursor.clone() }),
    ];
    for event in pages.into_iter().flatten().flat_map(|page| page.events) {
        heard.0.push_str(&String::from_utf8_lossy(&event.payload));
    }
    let token = || places.state_token.clone();
    ask!(read_state, ReadStateRequest { topic: NAMED.to_owned() });
    ask!(read_state, ReadStateRequest { topic: NAMED.to_owned(), page_token: token() });
    ask!(get_topic, GetTopicRequest { topic: NAMED.to_owned() });
    ask!(list_topics, ListTopicsRequest {});
    ask!(list_topics, ListTopicsRequest { page_token: "secret".to_owned() });
    ask!(list_members, ListMembersRequest { topic: NAMED.to_owned() });
    ask!(purge_topic, PurgeTopicRequest { topic: NAMED.to_owned() });
    ask!(maintain, MaintainRequest { topic: NAMED.to_owned() });
    if let Some(mut backup) = ask!(backup, BackupRequest {}) {
        while let Ok(Some(part)) = soon(backup.message()).await {
            heard.0.push_str(&String::from_utf8_lossy(&part.content));
        }
    }
    heard
}

/// The open readers of a caller: of everything, on every protocol.
struct Readers {
    streams: Vec<Sse>,
    socket: Client,
    grpc: tonic::Streaming<proto::SubscribeResponse>,
}

impl Readers {
    async fn open(server: &Server, sent: &Sent, in_socket: &Sent) -> Self {
        let path = in_socket.path("/v1/ws");
        let mut socket =
            Client::try_connect(server.address, &path, in_socket.header()).await.unwrap();
        for (number, topics) in [json!([">"]), json!(["other.*", NAMED])].into_iter().enumerate() {
            let subscribe = json!({"type": "subscribe", "subscription": number.to_string(),
                "topics": topics, "from": "earliest"});
            socket.say(subscribe).await;
        }
        let mut streams = Vec::new();
        for query in ["topic=%3E", "topic=other.%3E&topic=secret.named"] {
            let path = format!("/v1/events?{query}&from=earliest");
            let request = sent.to(server.address, "GET", &path);
            let stream = Sse::open(request).await.unwrap();
            assert_eq!(stream.status, 200, "{path}");
            streams.push(stream);
        }
        let (topics, from) = (vec![">".to_owned()], "earliest".to_owned());
        let request = proto::SubscribeRequest { topics, from, ..Default::default() };
        // A ticket stands in the query, and calls of gRPC have none.
        let as_bearer = match sent {
            Sent::Query(_) => Sent::Bearer(key_of(STRANGER_KEY)),
            sent => sent.clone(),
        };
        let mut client = grpc(server.grpc_address).await;
        let answer = client.subscribe(as_bearer.call(request)).await.unwrap();
        Self { streams, socket, grpc: answer.into_inner() }
    }

    /// Returns what all readers get, up to the last event.
    async fn heard(mut self) -> Heard {
        let mut heard = Heard::default();
        for mut stream in self.streams {
            let mut one = format!("{:?}", stream.headers);
            while !one.contains(LAST) {
                let frame: Frame = soon(stream.next()).await.expect("the stream goes on");
                one.push_str(&format!("{frame:?}"));
            }
            heard.0.push_str(&one);
        }
        let mut last_ones = 0;
        while last_ones < 2 {
            let message = self.socket.hear_text().await;
            last_ones += usize::from(message.contains(LAST));
            heard.0.push_str(&message);
        }
        loop {
            let response = soon(self.grpc.message()).await.unwrap().unwrap();
            heard.0.push_str(&format!("{response:?}"));
            let payloads: Vec<Bytes> = match response.message.unwrap() {
                proto::subscribe_response::Message::Events(batch) => {
                    batch.events.into_iter().map(|event| event.payload).collect()
                }
                proto::subscribe_response::Message::Ephemeral(one) => {
                    vec![one.event.unwrap().payload]
                }
                _ => Vec::new(),
            };
            let payloads: String =
                payloads.iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect();
            heard.0.push_str(&payloads);
            if payloads.contains(LAST) {
                return heard;
            }
        }
    }
}

/// Goal: a stranger who asks for everything, with each of its credentials and with the cursors and
/// tokens of others, gets nothing of others: no payload, no name, no member, no number of theirs.
/// Method: the owner, who asks for the same, gets all of it.
#[tokio::test]
async fn a_stranger_who_asks_for_everything_gets_nothing_of_others() {
    let mut config = config();
    config.follow.list_connections = true;
    let server = Server::with(config).await;
    fill(&server).await;
    let member = Member::new(CANARIES[6]);
    let topics = [name(NAMED), name(UNNAMED)];
    let present = server.broker.join(&topics, member).await.unwrap();
    let places = Places::of_owner(&server).await;
    let token = signed(&claims("stranger", all_of("other.>")));
    let bearer = Sent::bearer(token.clone());
    let stream = ticket(&server, &bearer, json!({"kind": "stream", "subscribe": [">"]})).await;
    for sent in [
        Sent::Bearer(key_of(STRANGER_KEY)),
        bearer,
        Sent::Cookie(token),
        Sent::ticket(&stream),
        Sent::Nothing,
    ] {
        let heard = heard_over_http(&server, &sent, &places).await;
        assert_eq!(heard.canaries(), [""; 0], "{sent:?}: {}", heard.0);
        assert_eq!(heard.0.contains("public"), sent != Sent::Nothing, "{}", heard.0);
        let heard = heard_over_grpc(&server, &sent, &places).await;
        assert_eq!(heard.canaries(), [""; 0], "{sent:?}: {}", heard.0);
    }
    // The topic of the future is not there.
    let all: Vec<_> = CANARIES.into_iter().filter(|it| !it.contains("later")).collect();
    let heard = heard_over_grpc(&server, &owner(), &places).await;
    assert_eq!(heard.canaries(), all, "the search finds what is there");
    fill(&server).await; // The owner has purged the topic.
    let heard = heard_over_http(&server, &owner(), &places).await;
    assert_eq!(heard.canaries(), all, "the search finds what is there");
    drop(present);
    server.stop().await;
}

/// Goal: open readers of a stranger get nothing of others, whatever comes later: no event of a
/// topic that is created meanwhile, no ephemeral event, no member.
#[tokio::test]
async fn open_readers_of_a_stranger_get_nothing_of_what_comes_later() {
    let server = Server::with(config()).await;
    fill(&server).await;
    let token = signed(&claims("stranger", all_of("other.>")));
    let bearer = Sent::bearer(token.clone());
    let stream = Sent::ticket(
        &ticket(&server, &bearer, json!({"kind": "stream", "subscribe": [">"]})).await,
    );
    let once = Sent::ticket(&ticket(&server, &bearer, json!({"kind": "once"})).await);
    let key = Sent::Bearer(key_of(STRANGER_KEY));
    let cookie = Sent::Cookie(token);
    let mut readers = Vec::new();
    for (sent, in_socket) in
        [(&bearer, &bearer), (&key, &key), (&cookie, &cookie), (&stream, &once)]
    {
        readers.push(Readers::open(&server, sent, in_socket).await);
    }
    for topic in [NAMED, LATER] {
        publish(&server.broker, topic, canary(7)).await;
        server.broker.publish_ephemeral(&name(topic), vec![canary(8)]).unwrap();
        let member = Member::new(CANARIES[6]);
        drop(server.broker.join(&[name(topic)], member).await.unwrap());
    }
    server.publish("other.later", LAST).await;
    for readers in readers {
        let heard = readers.heard().await;
        assert_eq!(heard.canaries(), [""; 0], "{}", heard.0);
        assert!(heard.0.contains("public"), "{}", heard.0);
    }
    server.stop().await;
}

/// Goal: whether a topic exists cannot be told from the time of a refusal.
/// Method: the two questions alternate over one connection; their medians are of the same size.
#[tokio::test]
async fn a_topic_that_exists_takes_as_long_to_be_refused_as_one_that_does_not() {
    const ROUNDS: usize = 101;
    let server = Server::with(config()).await;
    for _ in 0..50 {
        publish(&server.broker, NAMED, NewEvent::new(vec![7; 10_000])).await;
    }
    let stranger = Sent::Bearer(key_of(STRANGER_KEY));
    let client = HttpClient::builder(TokioExecutor::new()).build_http();
    for rest in ["", "/events?from=earliest", "/state", "/presence"] {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..2 * ROUNDS {
            let topic = [NAMED, "secret.nothing"][round % 2];
            let path = format!("/v1/topics/{topic}{rest}");
            let request = stranger.to(server.address, "GET", &path);
            let request = request.header("accept", "application/json");
            let begun = Instant::now();
            let answer = client.request(request.body(Full::new(Bytes::new())).unwrap());
            let answer = soon(answer).await.unwrap();
            assert_eq!(answer.status(), 403, "{path}");
            soon(answer.into_body().collect()).await.unwrap();
            times[round % 2].push(begun.elapsed());
        }
        let [known, unknown] = times.map(|mut times| {
            times.sort();
            times[times.len() / 2]
        });
        let (less, more) = (known.min(unknown), known.max(unknown));
        let is_alike = more <= less * 3 + Duration::from_micros(300);
        assert!(is_alike, "{rest}: {known:?} if it exists, {unknown:?} if not");
    }
    server.stop().await;
}
