//! Access control: who may do what, by which credential, on every operation of every protocol; and
//! nothing that a caller may not see reaches it, a log or a file.
//!
//! The operations come from the OpenAPI document, from the page of the WebSocket's messages and
//! from the descriptors of gRPC, so an operation without a rule here fails.

mod canaries;
mod credentials;
mod ends;
mod grpc_matrix;
mod http_matrix;
mod issuers;
mod kinds;
mod logs;
mod old_programs;
mod refreshes;
mod restarts;
mod rules;
mod tickets;
mod web_socket_matrix;

use leftoff::access::AccessMode;
use leftoff::config::Config;
use leftoff::permission::Action;
use serde_json::{Value, json};

use self::credentials::{COOKIE, Sent, issuers, key_config, key_of};
use crate::common::{Answer, Server, send};

/// What no stranger may see, and what no log may hold: a payload.
const CANARY: &str = "canary-7f3a";
/// The topic of the owner, which holds the canary.
const SECRET: &str = "secret.one";

/// The bytes of the keys of the administrator, the owner, the stranger, and the auditor.
const ADMIN_KEY: u8 = 1;
const OWNER_KEY: u8 = 2;
const STRANGER_KEY: u8 = 3;
const AUDITOR_KEY: u8 = 4;

fn admin() -> Sent {
    Sent::Bearer(key_of(ADMIN_KEY))
}

fn auditor() -> Sent {
    Sent::Bearer(key_of(AUDITOR_KEY))
}

/// Returns the settings of a broker that asks for credentials.
fn config() -> Config {
    let mut config = Config::default();
    config.access.mode = AccessMode::Required;
    config.access.cookie = Some(COOKIE.to_owned());
    config.access.issuers = issuers();
    let nothing = |key: u8, name: &str| {
        let mut config = key_config(name, &key_of(key), "x");
        (config.publish, config.subscribe, config.manage) = (vec![], vec![], vec![]);
        config
    };
    let mut admin = nothing(ADMIN_KEY, "administrator");
    admin.admin = true;
    let mut auditor = nothing(AUDITOR_KEY, "auditor");
    auditor.audit = true;
    config.access.keys = vec![
        admin,
        auditor,
        key_config("owner-svc", &key_of(OWNER_KEY), "secret.>"),
        key_config("stranger-svc", &key_of(STRANGER_KEY), "other.>"),
    ];
    config
}

/// What a caller is for the topics of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody knows it.
    Nobody,
    /// It is known, and may do nothing with these topics.
    Stranger,
    /// It may read these topics, and nothing else.
    Reader,
    /// It may do everything with these topics.
    Owner,
    /// It may administer the broker, and manage all topics.
    Administrator,
}

/// What an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The permission for the action on the topic.
    Needs(Action),
    /// The permission to subscribe to the topic, or to manage it.
    Shows,
    /// The permission to administer.
    Administers,
    /// The permission to subscribe, without which the answer has no topics.
    Lists,
    /// A caller who is known. What is inside is checked by itself.
    Inside,
    /// Nothing.
    Nothing,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unauthenticated,
    Denied,
    Done,
}

impl Rule {
    /// Returns what becomes of a request of a caller.
    fn outcome(self, standing: Standing) -> Outcome {
        let may = match (self, standing) {
            (Self::Nothing, _) => true,
            (_, Standing::Nobody) => return Outcome::Unauthenticated,
            (Self::Needs(Action::Manage), Standing::Administrator) => true,
            (Self::Needs(Action::Subscribe | Action::Presence), Standing::Reader) => true,
            (Self::Shows, standing) => {
                use Standing::{Administrator, Owner, Reader};
                [Administrator, Owner, Reader].contains(&standing)
            }
            (Self::Needs(_), standing) => standing == Standing::Owner,
            (Self::Administers, standing) => standing == Standing::Administrator,
            (Self::Lists | Self::Inside, _) => true,
        };
        if may { Outcome::Done } else { Outcome::Denied }
    }
}

/// Returns the kind of problem of an answer of HTTP: `denied`, for example; empty for none.
fn problem(answer: &Answer) -> String {
    let json = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
    let kind = json["type"].as_str().unwrap_or_default();
    kind.strip_prefix("urn:leftoff:problem:").unwrap_or_default().to_owned()
}

/// Returns everything of an answer as a text.
fn all_of_answer(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    format!("{:?}{:?}{body}", answer.headers, answer.trailers)
}

/// Asks for a ticket, and returns it.
async fn ticket(server: &Server, sent: &Sent, wanted: Value) -> String {
    let answer = ask_ticket(server, sent, wanted).await;
    assert!(answer.status.is_success(), "{answer:?}");
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

async fn ask_ticket(server: &Server, sent: &Sent, wanted: Value) -> Answer {
    let request = sent.to(server.address, "POST", "/v1/tickets");
    send(request.header("content-type", "application/json"), wanted.to_string()).await
}

/// Ends what a caller has, and refuses the credentials that it got up to now.
async fn revoke(address: std::net::SocketAddr, sub: &str) {
    let request = admin().to(address, "POST", "/v1/access/revocations");
    let request = request.header("content-type", "application/json");
    let answer = send(request, json!({"sub": sub}).to_string()).await;
    assert!(answer.status.is_success(), "{answer:?}");
}
