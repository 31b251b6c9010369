//! Hooks: who may do what, on every operation of every protocol.
//!
//! The operations come from the OpenAPI document and from the descriptors of gRPC, so an operation
//! without a rule here fails. They are asked twice: mounted in a server of axum, as a host mounts
//! them, and by the broker's own server.

mod consumers;
mod expiry;
mod fan_out;
mod follow;
mod interception;
mod matrix;
mod mounted;
mod readers;
mod refresh;
mod revocation;
mod shared_work;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use leftoff::broker::{Ack, Filter, Run};
use leftoff::edge::hooks::{
    Access, AccessTopics, Connecting, Grant, HookAnswer, Hooks, PUBLISHER_HEADER, Refusal,
    RefusalContext,
};
use leftoff::edge::{Edge, FollowConfig, grpc, http};
use leftoff::permission::{Action, Permission, Permitted};
use leftoff::server::{Listener, Protocols, Server, Shutdown};
use leftoff::{Broker, Consumers, ConsumersConfig, NewEvent, OpenConfig, TopicName};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The header that names the caller, and what no stranger may see.
const CALLER: &str = "x-caller";
const CANARY: &str = "canary-7f3a";

/// The decisions of the tests.
#[derive(Default)]
struct Decisions {
    grants: Mutex<HashMap<String, Grant>>,
    /// What a token grants, sent as `Authorization: Bearer …`.
    tokens: Mutex<HashMap<String, Grant>>,
    /// Opened by a test: a token that begins with `slow` waits for it.
    gate: watch::Sender<bool>,
    /// Whether `/readyz` is guarded.
    guards_readyz: AtomicBool,
    /// Whatever the hooks were told, in their order.
    told: Mutex<Vec<String>>,
}

impl Decisions {
    fn grant(&self, grant: Grant) {
        self.grants.lock().unwrap().insert(grant.caller().to_owned(), grant);
    }

    /// Grants this to whoever sends the token.
    fn take_token(&self, token: &str, grant: Grant) {
        self.tokens.lock().unwrap().insert(token.to_owned(), grant);
    }

    /// Waits until the hooks were told a line that begins like this.
    async fn until_told(&self, begin: &str) {
        let is_told = || self.told.lock().unwrap().iter().any(|line| line.starts_with(begin));
        crate::common::soon(async {
            while !is_told() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn refuse(&self, caller: &str) {
        self.grants.lock().unwrap().remove(caller);
    }

    fn tell(&self, line: String) {
        self.told.lock().unwrap().push(line);
    }

    /// Returns whatever the hooks were told since the last call.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

struct Deciding(Arc<Decisions>);

impl Hooks for Deciding {
    fn connect<'a>(&'a self, request: &'a Connecting<'a>) -> HookAnswer<'a, Grant> {
        let text = |name: &str| request.headers().get(name).and_then(|text| text.to_str().ok());
        let token = text("authorization").and_then(|text| text.strip_prefix("Bearer "));
        let of = |all: &Mutex<HashMap<String, Grant>>, name| all.lock().unwrap().get(name).cloned();
        let grant = match token {
            Some(token) => of(&self.0.tokens, token),
            None => text(CALLER).and_then(|name| of(&self.0.grants, name)),
        };
        if request.is_renewal() {
            self.0.tell(format!("renewal {}", request.uri()));
        }
        Box::pin(async move {
            if token.is_some_and(|token| token.starts_with("slow")) {
                self.0.gate.subscribe().wait_for(|is_open| *is_open).await.unwrap();
            }
            grant.ok_or(Refusal::unauthenticated("nobody knows you"))
        })
    }

    fn guards_readyz(&self) -> bool {
        self.0.guards_readyz.load(Ordering::Relaxed)
    }

    /// Allows topics below `other.`, and patterns that do not begin with `secret`.
    /// A topic `….slow` takes the rest of the grant.
    fn allow<'a>(&'a self, grant: &'a Grant, access: Access<'a>) -> HookAnswer<'a, ()> {
        let asked = access.topics.as_str();
        let is_allowed = match access.topics {
            AccessTopics::Topic(_) => asked.starts_with("other."),
            AccessTopics::Pattern(_) => !asked.starts_with("secret"),
            _ => false,
        };
        self.0.tell(format!("allow {asked}"));
        let until = grant.end().filter(|_| asked.ends_with(".slow"));
        Box::pin(async move {
            if let Some(Ok(left)) = until.map(|end| end.duration_since(SystemTime::now())) {
                tokio::time::sleep(left).await;
            }
            if is_allowed { Ok(()) } else { Err(Refusal::denied("not this one")) }
        })
    }

    fn lists(&self, _grant: &Grant, topic: &TopicName) -> bool {
        topic.as_str().starts_with("other.")
    }

    /// Marks events, refuses those of the type `bad`, makes those of `large` too large, and sets
    /// the publisher of those of `named`.
    fn intercept(
        &self,
        grant: &Grant,
        topic: &TopicName,
        event: &mut NewEvent,
    ) -> Result<(), Refusal> {
        match event.event_type.as_str() {
            "bad" => return Err(Refusal::denied("this event is bad")),
            "large" => event.payload = vec![7; 2 << 20].into(),
            "named" => {
                let caller = grant.caller().to_owned();
                event.headers.insert(PUBLISHER_HEADER.to_owned(), caller);
            }
            _ => {}
        }
        self.0.tell(format!("intercepted {topic}"));
        event.headers.insert("by".to_owned(), format!("{} to {topic}", grant.caller()));
        Ok(())
    }

    fn acknowledged(&self, _grant: &Grant, topic: &TopicName, ack: &Ack) {
        self.0.tell(format!("acknowledged {topic} {}", ack.count));
    }

    fn refused(&self, context: &RefusalContext<'_>) {
        let caller = context.grant.map(Grant::caller);
        self.0.tell(format!("refused {caller:?}: {}", context.refusal));
    }

    fn delivered(&self, _grant: &Grant, run: &Run) {
        self.0.tell(format!("delivered {} {}", run.topic(), run.events().count()));
    }
}

/// The way in which a host serves the broker.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// All routes and services in a server of axum.
    Mounted,
    /// The broker's own server.
    Served,
}

/// A host that serves all routes and services.
struct Host {
    broker: Broker,
    address: SocketAddr,
    decisions: Arc<Decisions>,
    serving: JoinHandle<()>,
    shutdown: Option<Shutdown>,
}

impl Host {
    async fn start() -> Self {
        Self::by(Way::Mounted).await
    }

    async fn by(way: Way) -> Self {
        match way {
            Way::Mounted => Self::mounted(&ConsumersConfig::default()).await,
            Way::Served => Self::served().await,
        }
    }

    async fn served() -> Self {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let decisions = Arc::new(Decisions::default());
        let mut follow = FollowConfig::default();
        follow.list_connections = true;
        let server = Server::builder(broker.clone()).hooks(Deciding(decisions.clone()));
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let server = server.follow(follow).listen(listener).bind().await.unwrap();
        let address = server.address(Protocols::Http).unwrap();
        let shutdown = Shutdown::default();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        Self { broker, address, decisions, serving, shutdown: Some(shutdown) }
    }

    async fn mounted(config: &ConsumersConfig) -> Self {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let decisions = Arc::new(Decisions::default());
        let edge = Edge::new(broker.clone()).follow(FollowConfig::default()).unwrap();
        let consumers = Consumers::open(&broker, config).await.unwrap();
        let edge = edge.hooks(Deciding(decisions.clone())).consumers(consumers);
        let services = grpc::routes(&edge).prepare().into_axum_router().reset_fallback();
        let app = http::router(&edge).merge(services);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { broker, address, decisions, serving, shutdown: None }
    }

    /// Grants a caller one action on topics that match a pattern.
    fn grant_one(&self, caller: &str, action: Action, pattern: &str) {
        let permission = Permission::default().with(action, [pattern]).unwrap();
        self.decisions.grant(Grant::new(caller, permission));
    }

    async fn publish(&self, topic: &str, payload: &str) {
        crate::common::publish(&self.broker, topic, keyed(payload)).await;
    }

    async fn stop(self) {
        match self.shutdown {
            Some(shutdown) => {
                shutdown.start();
                crate::common::soon(self.serving).await.unwrap();
            }
            None => {
                self.serving.abort();
                self.broker.close().await;
            }
        }
    }
}

fn keyed(payload: &str) -> NewEvent {
    NewEvent { key: "k".to_owned(), ..NewEvent::new(payload.to_owned()) }
}

const ACTIONS: [Action; 4] = [Action::Publish, Action::Subscribe, Action::Presence, Action::Manage];

/// Returns the permission to do everything with topics that match a pattern.
fn everything(pattern: &str) -> Permission {
    let with = |permission: Permission, action| permission.with(action, [pattern]).unwrap();
    ACTIONS.into_iter().fold(Permission::default(), with)
}

/// Returns the permission whose topics the hook is asked about one by one.
fn to_be_asked() -> Permission {
    let with = |permission: Permission, action| permission.permitting(action, Permitted::Ask);
    ACTIONS.into_iter().fold(Permission::default(), with)
}

/// Returns a request of `caller`.
fn by(caller: &str, host: &Host, method: &str, path: &str) -> ::http::request::Builder {
    crate::common::to(host.address, method, path).header(CALLER, caller)
}

/// Returns a request of gRPC of `caller`.
fn call<T>(caller: &'static str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(CALLER, caller.parse().unwrap());
    request
}

fn filter_of(key: &str) -> Filter {
    Filter { keys: [key.to_owned()].into(), ..Filter::default() }
}
