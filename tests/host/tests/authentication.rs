//! The host's own authentication, topic by topic, over all interfaces: a middleware of the host
//! puts the user into the request, and the hooks find the user there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use leftoff::edge::FollowConfig;
use leftoff::edge::hooks::{Connecting, Grant, HookAnswer, Hooks, Refusal, RefusalContext};
use leftoff::edge::proto;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use leftoff::permission::{Action, Permission};
use leftoff::server::{Listener, Protocols, Server, Shutdown};
use leftoff::{
    Ack, Broker, Error, Member, NewEvent, OpenConfig, Publish, Run, StartPoint, TopicConfig,
    TopicName,
};
use leftoff_host::ways::{Answers, Client, STREAM, is_refused};
use leftoff_host::{read_through, soon};
use tokio::task::JoinHandle;

/// The texts of `secret.plans`: its payload, the id of its member, and a setting.
const CANARIES: [&str; 3] = ["canary-payload", "canary-member", "770077"];

/// The user of a request, as the middleware of the host finds it out.
#[derive(Clone)]
struct User(&'static str);

async fn authenticate(mut request: Request, next: Next) -> axum::response::Response {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let user = match header.and_then(|value| value.strip_prefix("Bearer ")) {
        Some("token of root") => Some("root"),
        Some("token of ann") => Some("ann"),
        Some("token of bob") => Some("bob"),
        Some("token of brief") => Some("brief"),
        Some("token of renewed") => Some("renewed"),
        _ => None,
    };
    if let Some(user) = user {
        request.extensions_mut().insert(User(user));
    }
    next.run(request).await
}

/// The rights of the users, and the notes of the hooks.
#[derive(Default, Clone)]
struct Users {
    acknowledged: Arc<Mutex<Vec<String>>>,
    delivered: Arc<Mutex<Vec<String>>>,
    refused: Arc<AtomicUsize>,
    connects: Arc<AtomicUsize>,
}

impl Users {
    fn grant(&self, user: &'static str) -> Result<Grant, Refusal> {
        let orders = || {
            Permission::default()
                .with(Action::Publish, ["orders.>"])
                .and_then(|it| it.with(Action::Subscribe, ["orders.>"]))
                .and_then(|it| it.with(Action::Presence, ["orders.>"]))
                .map_err(|error| Refusal::denied(error.to_string()))
        };
        let in_a_second = SystemTime::now() + Duration::from_secs(1);
        match user {
            "root" => Ok(Grant::new(user, Permission::all())),
            "ann" => Ok(Grant::new(user, orders()?).member("ann")),
            "renewed" => {
                self.connects.fetch_add(1, Ordering::SeqCst);
                Ok(Grant::new(user, orders()?).until(in_a_second))
            }
            "brief" if self.connects.fetch_add(1, Ordering::SeqCst) == 0 => {
                Ok(Grant::new(user, orders()?).until(in_a_second))
            }
            "brief" => Err(Refusal::unauthenticated("the session is over")),
            _ => Ok(Grant::new(user, Permission::default())),
        }
    }
}

impl Hooks for Users {
    fn connect<'a>(&'a self, request: &'a Connecting<'a>) -> HookAnswer<'a, Grant> {
        Box::pin(async move {
            match request.extensions().get::<User>() {
                Some(User(user)) => self.grant(user),
                None => Err(Refusal::unauthenticated("log in first")),
            }
        })
    }

    fn intercept(&self, grant: &Grant, _: &TopicName, event: &mut NewEvent) -> Result<(), Refusal> {
        if event.payload.windows(9).any(|part| part == b"forbidden") {
            return Err(Refusal::denied("this word is not allowed"));
        }
        event.headers.insert("user".to_owned(), grant.caller().to_owned());
        Ok(())
    }

    fn acknowledged(&self, grant: &Grant, topic: &TopicName, ack: &Ack) {
        let note = format!("{} {topic:?} {}", grant.caller(), ack.count);
        self.acknowledged.lock().expect("no panic").push(note);
    }

    fn delivered(&self, grant: &Grant, run: &Run) {
        let notes = run.events().map(|event| {
            let payload = String::from_utf8_lossy(event.payload).into_owned();
            format!("{} {:?} {payload}", grant.caller(), run.topic())
        });
        self.delivered.lock().expect("no panic").extend(notes);
    }

    fn refused(&self, _: &RefusalContext<'_>) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

/// A server with one event in `secret.plans`, one in `orders.new`, and a member in each.
struct Host {
    broker: Broker,
    address: SocketAddr,
    users: Users,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
    _present: leftoff::Presence,
}

fn name(topic: &str) -> TopicName {
    topic.parse().expect("a name")
}

async fn publish(broker: &Broker, topic: &str, payload: &'static str) {
    let event = NewEvent::new(payload).with_key("key");
    soon(broker.publish(Publish::one(name(topic), event))).await.expect("an acknowledgement");
}

impl Host {
    async fn start() -> Self {
        let broker = Broker::in_memory(&OpenConfig::default()).expect("a broker");
        let secret = TopicConfig::with(|config| config.max_events = Some(770_077));
        soon(broker.create_topic(&name("secret.plans"), secret)).await.expect("a topic");
        publish(&broker, "secret.plans", "canary-payload").await;
        publish(&broker, "orders.new", "first order").await;
        let topics = [name("secret.plans")];
        let _present = soon(broker.join(&topics, Member::new("canary-member"))).await;
        let _present = _present.expect("a presence");
        let users = Users::default();
        let mut follow = FollowConfig::default();
        follow.list_connections = true;
        let server = Server::builder(broker.clone())
            .follow(follow)
            .hooks(users.clone())
            .layer(from_fn(authenticate))
            .listen(Listener::bind(([127, 0, 0, 1], 0).into()).expect("a port"));
        let server = soon(server.bind()).await.expect("a server");
        let address = server.address(Protocols::All).expect("an address");
        let shutdown = Shutdown::default();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        Self { broker, address, users, shutdown, serving, _present }
    }

    fn client(&self, token: Option<&'static str>) -> Client {
        Client { address: self.address, token }
    }

    async fn stop(self) {
        self.shutdown.start();
        soon(self.serving).await.expect("the server stops");
    }
}

fn has_canary(answer: &str) -> bool {
    CANARIES.iter().any(|canary| answer.contains(canary))
}

fn assert_refused(who: Option<&str>, answers: Answers) {
    for (way, answer) in answers {
        assert!(is_refused(&answer), "{who:?}, {way}: {answer}");
        assert!(!has_canary(&answer), "{who:?}, {way}: {answer}");
    }
}

/// Goal: whoever has no right to a topic gets nothing of it, whichever way is tried, and changes
/// nothing. Who has the right gets it the same way, so the canary would have been found.
#[tokio::test]
async fn nothing_of_a_topic_reaches_who_may_not_read_it() {
    let host = Host::start().await;
    let tokens = [None, Some("a made-up token"), Some("token of bob"), Some("token of ann")];
    for token in tokens {
        let client = host.client(token);
        assert_refused(token, client.read_one("secret.plans").await);
        assert_refused(token, client.read_many("secret.plans").await);
        assert_refused(token, client.read_many("secret.>").await);
        assert_refused(token, client.publish("secret.plans", "intruder").await);
        assert_refused(token, client.administer("secret.plans").await);
        if token == Some("token of ann") {
            continue;
        }
        assert_refused(token, client.read_many(">").await);
        for (way, answer) in client.list().await {
            let is_empty = !answer.contains("secret") && !answer.contains("orders");
            assert!(is_empty && !has_canary(&answer), "{token:?}, {way}: {answer}");
        }
    }
    assert!(host.users.refused.load(Ordering::SeqCst) >= 4 * 50, "the host is told of refusals");
    let info = host.broker.topic(&name("secret.plans")).expect("it is still there");
    assert_eq!((info.extent.earliest.get(), info.extent.tail.get()), (1, 2), "it is as it was");
    assert_eq!(info.config.max_events, Some(770_077));
    assert!(host.users.acknowledged.lock().expect("no panic").is_empty());
    assert!(host.users.delivered.lock().expect("no panic").is_empty());

    let root = host.client(Some("token of root"));
    let mut all = root.read_one("secret.plans").await;
    all.extend(root.read_many("secret.plans").await);
    all.extend(root.read_many(">").await);
    all.extend(root.list().await);
    for (way, answer) in all {
        assert!(has_canary(&answer), "{way} of root: {answer}");
    }
    let published = root.publish("secret.plans", "by root").await;
    for (way, answer) in published.into_iter().chain(root.administer("secret.plans").await) {
        assert!(!is_refused(&answer), "{way} of root: {answer}");
    }
    host.stop().await;
}

/// Goal: a pattern is cut down to what the caller may read, also for topics that come later, on
/// each interface; and lists show no other topics.
#[tokio::test]
async fn patterns_and_lists_are_cut_down_to_the_permission() {
    let host = Host::start().await;
    let ann = host.client(Some("token of ann"));
    let mut all = ann.read_many(">").await;
    all.extend(ann.read_many("*.*").await);
    all.extend(ann.read_one("orders.new").await.into_iter().take(2));
    for (way, answer) in all {
        assert!(answer.contains("first order"), "{way}: {answer}");
        assert!(!has_canary(&answer) && !answer.contains("secret"), "{way}: {answer}");
    }
    for (way, answer) in ann.list().await {
        assert!(answer.contains("orders.new") && !answer.contains("secret"), "{way}: {answer}");
    }
    // Streams that are open when the topics are created.
    let mut sse = ann.open("GET", "/v1/events?topic=%3E", STREAM, "").await;
    read_through(&mut sse, "leftoff.caught-up").await;
    let mut grpc = SubscriberServiceClient::new(ann.channel().await);
    let subscribe = proto::SubscribeRequest { topics: vec![">".into()], ..Default::default() };
    let mut stream =
        soon(grpc.subscribe(ann.request(subscribe))).await.expect("a stream").into_inner();
    soon(stream.message()).await.expect("a message").expect("a beginning");
    publish(&host.broker, "secret.later", "canary-payload").await;
    publish(&host.broker, "orders.later", "later order").await;
    let text = read_through(&mut sse, "later order").await;
    assert!(!has_canary(&text) && !text.contains("secret"), "{text}");
    let mut told = String::new();
    while !told.contains("later order") {
        let message = soon(stream.message()).await.expect("a message").expect("it goes on");
        told.push_str(&format!("{message:?}"));
    }
    assert!(!has_canary(&told) && !told.contains("secret"), "{told}");
    host.stop().await;
}

/// Goal: what is published over each interface passes the host, which stamps it, refuses some, and
/// sees each acknowledgement and each delivery.
#[tokio::test]
async fn the_host_stamps_refuses_and_observes_events_on_each_interface() {
    let host = Host::start().await;
    let ann = host.client(Some("token of ann"));
    assert_refused(ann.token, ann.publish("orders.eu", "forbidden").await);
    let unknown = host.broker.topic(&name("orders.eu")).expect_err("nothing was stored");
    assert!(matches!(unknown, Error::UnknownTopic(_)), "{unknown}");
    let stored = ann.publish("orders.eu", "fine").await;
    for (way, answer) in &stored {
        assert!(!is_refused(answer), "{way}: {answer}");
    }
    let page = soon(host.broker.read(&name("orders.eu"), StartPoint::Earliest.into())).await;
    let events: Vec<_> =
        page.expect("a page").runs.iter().flat_map(|run| run.to_events()).collect();
    let ephemeral = stored.iter().filter(|(way, _)| way.ends_with("true")).count();
    assert_eq!(events.len(), stored.len() - ephemeral);
    for event in &events {
        assert_eq!(event.content.headers["user"], "ann", "{event:?}");
    }
    let acknowledged = host.users.acknowledged.lock().expect("no panic").clone();
    assert_eq!(acknowledged, vec![format!("ann {:?} 1", name("orders.eu")); events.len()]);
    let ways = ann.read_many("orders.new").await;
    let delivered = host.users.delivered.lock().expect("no panic").clone();
    let note = format!("ann {:?} first order", name("orders.new"));
    assert_eq!(delivered, vec![note; ways.len()], "each way tells the host: {ways:?}");
    host.stop().await;
}

/// Goal: a client is present under the id of its grant, and under no other one.
#[tokio::test]
async fn members_have_the_id_of_their_grant() {
    let host = Host::start().await;
    let ann = host.client(Some("token of ann"));
    let path = |member| format!("/v1/topics/orders.new/events?member={member}");
    let refused = ann.http("GET", &path("canary-member"), STREAM, "").await;
    assert!(is_refused(&refused), "{refused}");
    let mut stream = ann.open("GET", &path("ann"), STREAM, "").await;
    read_through(&mut stream, "leftoff.caught-up").await;
    let present = host.broker.presence(&name("orders.new"), "", 9);
    let ids: Vec<_> = present.iter().map(|present| present.member.id.as_str()).collect();
    assert_eq!(ids, ["ann"]);
    host.stop().await;
}

/// Goal: a stream ends when its grant ends and is not renewed, and goes on if it is.
#[tokio::test]
async fn a_stream_lives_as_long_as_its_grant() {
    for interface in ["SSE", "gRPC"] {
        let host = Host::start().await;
        let brief = host.client(Some("token of brief"));
        let end = match interface {
            "SSE" => {
                let path = "/v1/topics/orders.new/events?from=earliest";
                let mut stream = brief.open("GET", path, STREAM, "").await;
                let mut all = Vec::new();
                soon(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all))
                    .await
                    .expect("the stream ends in order");
                String::from_utf8_lossy(&all).into_owned()
            }
            _ => {
                let mut grpc = SubscriberServiceClient::new(brief.channel().await);
                let (topic, from) = ("orders.new".to_owned(), "earliest".to_owned());
                let subscribe = proto::SubscribeRequest { topic, from, ..Default::default() };
                let stream = soon(grpc.subscribe(brief.request(subscribe))).await;
                let mut stream = stream.expect("a stream").into_inner();
                let mut all = String::new();
                loop {
                    match soon(stream.message()).await {
                        Ok(message) => all.push_str(&format!("{message:?}")),
                        Err(status) => {
                            assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
                            break all;
                        }
                    }
                }
            }
        };
        assert!(end.contains("first order"), "{interface}: {end}");
        assert_eq!(host.users.connects.load(Ordering::SeqCst), 2, "{interface}: asked again");
        host.stop().await;
    }
    let host = Host::start().await;
    let mut renewed = host
        .client(Some("token of renewed"))
        .open("GET", "/v1/topics/orders.new/events", STREAM, "")
        .await;
    soon(async {
        while host.users.connects.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    publish(&host.broker, "orders.new", "after two renewals").await;
    read_through(&mut renewed, "after two renewals").await;
    host.stop().await;
}
