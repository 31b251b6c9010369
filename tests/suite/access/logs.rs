//! Nothing that the broker writes holds a credential: no log line, no file, no list, no answer.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use leftoff::config::Config;
use leftoff::edge::proto;
use serde_json::{Value, json};

use super::credentials::{
    SECRET_OF_OWN, Sent, all_of, claims, key_of, own_token, signed, signed_by_another, unsigned,
};
use super::{CANARY, SECRET, admin, all_of_answer, auditor, config};
use crate::common::{Answer, Process, Sse, grpc, lasting_address, leftoff, send, soon};
use crate::websocket::Client;

/// Starts the real binary with these settings, at `address`, with everything in its log.
pub(super) async fn serve(
    address: SocketAddr,
    directory: &Path,
    config: &Config,
    filter: &str,
) -> Process {
    let file = directory.join("leftoff.toml");
    // Secrets are shown to nobody, and this file needs the only one.
    let settings = toml::to_string(config).unwrap().replace("***", SECRET_OF_OWN);
    fs::write(&file, settings).unwrap();
    let log = |name: &str| {
        let path = directory.join(name);
        Stdio::from(fs::File::options().create(true).append(true).open(path).unwrap())
    };
    let child = leftoff()
        .args(["serve", "--listen", &address.to_string(), "--config"])
        .arg(&file)
        .arg("--data-dir")
        .arg(directory.join("data"))
        .env("LEFTOFF_LOG_FILTER", filter)
        .stdin(Stdio::null())
        .stdout(log("out.log"))
        .stderr(log("err.log"))
        .spawn()
        .unwrap();
    let mut process = Process::adopt(child, address);
    process.until_ready().await;
    process
}

/// Credentials that were sent, and everything that came back.
#[derive(Default)]
struct Spoken {
    /// The texts that nothing may hold.
    secrets: Vec<String>,
    /// What the broker answered, without tickets that it gave.
    answers: String,
}

impl Spoken {
    /// Remembers a credential, and the part of it that is secret.
    fn remember(&mut self, sent: &Sent) {
        let text = match sent {
            Sent::Nothing => return,
            Sent::Bearer(text) | Sent::Cookie(text) => text,
            Sent::Authorization(text) => text.split(' ').next_back().unwrap(),
            Sent::Query(pair) => pair.split('=').next_back().unwrap(),
        };
        self.secrets.push(text.to_owned());
        let signature = text.rsplit('.').next().filter(|it| it.len() > 20 && *it != text);
        self.secrets.extend(signature.map(str::to_owned));
        self.secrets.extend(text.strip_prefix("lok_").map(str::to_owned));
    }

    async fn ask(
        &mut self,
        address: SocketAddr,
        sent: &Sent,
        (method, path): (&str, &str),
        body: Value,
    ) -> Answer {
        self.remember(sent);
        let request = sent.to(address, method, path).header("accept", "application/json");
        let request = request.header("content-type", "application/json");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = send(request, body).await;
        if path != "/v1/tickets" {
            self.answers.push_str(&all_of_answer(&answer));
        }
        answer
    }

    async fn ticket(&mut self, address: SocketAddr, sent: &Sent, wanted: Value) -> Sent {
        let answer = self.ask(address, sent, ("POST", "/v1/tickets"), wanted).await;
        assert!(answer.status.is_success(), "{answer:?}");
        let ticket = Sent::ticket(answer.json()["ticket"].as_str().unwrap());
        self.remember(&ticket);
        ticket
    }
}

/// Sends every kind of credential, good and bad, over HTTP.
async fn speak_http(address: SocketAddr, spoken: &mut Spoken) {
    let owner = claims("owner", all_of("secret.>"));
    let valid = signed(&owner);
    let read = format!("/v1/topics/{SECRET}/events");
    let expired = own_token("owner", all_of("secret.>"), 0);
    for (sent, status) in [
        (Sent::Bearer(key_of(super::OWNER_KEY)), 200),
        (Sent::bearer(valid.clone()), 200),
        (Sent::Cookie(valid.clone()), 200),
        (Sent::Bearer(key_of(77)), 401),
        (Sent::bearer(signed_by_another(&owner)), 401),
        (Sent::bearer(unsigned(&owner, "c2lnbmF0dXJlLW9mLW5vYm9keQ")), 401),
        (Sent::bearer(expired), 401),
        (Sent::bearer("a-token.that-is-malformed.and-looks-like-none-5511"), 401),
        (Sent::Authorization("Basic dXNlcjpwYXNzd29yZC00NzEx".to_owned()), 401),
        (Sent::Authorization("a-scheme-of-nobody-4712".to_owned()), 401),
        (Sent::Cookie(signed_by_another(&owner)), 401),
        (Sent::Query(format!("access_token={valid}")), 401),
        (Sent::Query("ticket=a-ticket-that-nobody-has-made".to_owned()), 401),
    ] {
        let publish = spoken.ask(address, &sent, ("POST", &read), json!(CANARY)).await;
        assert_eq!(publish.status, if status == 200 { 201 } else { 401 }, "{publish:?}");
        let answer = spoken.ask(address, &sent, ("GET", &read), Value::Null).await;
        assert_eq!(answer.status, status, "{sent:?}: {answer:?}");
    }
    let stranger = Sent::bearer(signed(&claims("stranger", all_of("other.>"))));
    let denied = spoken.ask(address, &stranger, ("POST", &read), json!(CANARY)).await;
    assert_eq!(denied.status, 403, "{denied:?}");
    let owner = Sent::bearer(valid);
    let once = spoken.ticket(address, &owner, json!({"kind": "once"})).await;
    for is_first in [true, false] {
        let opened = Client::try_connect(address, &once.path("/v1/ws"), None).await;
        assert_eq!(opened.is_ok(), is_first, "a ticket for one use");
    }
    spoken.ask(address, &once, ("GET", &read), Value::Null).await;
    let wanted = json!({"kind": "stream", "subscribe": [SECRET]});
    let stream = spoken.ticket(address, &owner, wanted).await;
    for _ in 0..2 {
        let request = stream.to(address, "GET", &format!("{read}?from=earliest"));
        let mut stream = Sse::open(request).await.unwrap();
        let frame = stream.find(|frame| frame.is_event()).await;
        spoken.answers.push_str(&format!("{:?}{frame:?}", stream.headers));
    }
}

/// Refreshes a WebSocket with credentials, good and bad.
async fn speak_web_socket(address: SocketAddr, spoken: &mut Spoken) {
    let sent = Sent::bearer(own_token("owner", all_of("secret.>"), 600));
    let ticket = spoken.ticket(address, &sent, json!({"kind": "once"})).await;
    let mut client = Client::try_connect(address, &ticket.path("/v1/ws"), None).await.unwrap();
    let fresh = Sent::bearer(own_token("owner", all_of("secret.>"), 700));
    let other = Sent::bearer(signed_by_another(&claims("owner", all_of("secret.>"))));
    for (sent, kind) in [(fresh, "refreshed"), (other, "error")] {
        spoken.remember(&sent);
        let Sent::Bearer(token) = sent else { unreachable!() };
        client.say(json!({"type": "refresh", "ref": 1, "token": token})).await;
        let answer = client.find(kind).await;
        spoken.answers.push_str(&answer.to_string());
    }
    client.say(json!({"type": "a-type-of-nobody", "token": "a-token-in-a-strange-message"})).await;
    spoken.secrets.push("a-token-in-a-strange-message".to_owned());
    spoken.answers.push_str(&client.find("error").await.to_string());
    let publish = json!({"type": "publish", "ref": 2, "topic": SECRET, "event": {"data": CANARY}});
    client.say(publish).await;
    client.find("ack").await;
}

/// Calls with credentials, good and bad, over gRPC.
async fn speak_grpc(address: SocketAddr, spoken: &mut Spoken) {
    let mut client = grpc(address).await;
    let owner = claims("owner-by-grpc", all_of("secret.>"));
    for (sent, is_known) in [
        (Sent::bearer(signed(&owner)), true),
        (Sent::Bearer(key_of(super::OWNER_KEY)), true),
        (Sent::bearer(signed_by_another(&owner)), false),
        (Sent::Bearer(key_of(78)), false),
    ] {
        spoken.remember(&sent);
        let request = proto::ReadRequest { topic: SECRET.to_owned(), ..Default::default() };
        let answer = client.read(sent.call(request)).await;
        assert_eq!(answer.is_ok(), is_known, "{answer:?}");
        spoken.answers.push_str(&format!("{answer:?}"));
    }
}

/// Returns all files below a directory as one text.
fn files(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.push_str(&files(&path)),
            false => all.push_str(&String::from_utf8_lossy(&fs::read(path).unwrap())),
        }
    }
    all
}

/// Returns the places with a secret, each with the beginning of its line.
fn leaks(place: &str, text: &str, secrets: &[String]) -> Vec<String> {
    let mut found = std::collections::BTreeSet::new();
    for secret in secrets {
        for (at, _) in text.match_indices(secret.as_str()) {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let end = at.min(line + 150);
            let end = (line..=end).rev().find(|it| text.is_char_boundary(*it)).unwrap();
            found.insert(format!("{place}: {}… {secret:.12}…", &text[line..end]));
        }
        // As bytes, as some crates write them.
        let bytes: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        if text.contains(&bytes) {
            found.insert(format!("{place}: {secret:.12}… as bytes"));
        }
    }
    found.into_iter().collect()
}

/// Goal: no credential, good or bad, and no secret of the settings is in anything that the broker
/// writes: its log at the finest level, its files, its answers, lists and metrics, the audit. No
/// payload is in the log or in the audit.
#[tokio::test]
async fn nothing_that_the_broker_writes_holds_a_credential() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config();
    config.follow.list_connections = true;
    let process = serve(lasting_address(), directory.path(), &config, "trace").await;
    let address = process.address;
    let mut spoken = Spoken::default();
    spoken.secrets.push(SECRET_OF_OWN.to_owned());
    speak_http(address, &mut spoken).await;
    speak_web_socket(address, &mut spoken).await;
    speak_grpc(address, &mut spoken).await;
    let body = json!({"sub": "owner-by-grpc"});
    let revoked = ("POST", "/v1/access/revocations");
    assert!(spoken.ask(address, &admin(), revoked, body).await.status.is_success());
    for path in ["/metrics", "/v1/connections", "/v1/access/revocations", "/v1/topics"] {
        let answer = spoken.ask(address, &admin(), ("GET", path), Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let audit = audit(address, &mut spoken).await;
    drop(process);
    let mut found = leaks("an answer", &spoken.answers, &spoken.secrets);
    found.extend(leaks("a file", &files(&directory.path().join("data")), &spoken.secrets));
    let log = ["out.log", "err.log"].map(|name| fs::read(directory.path().join(name)).unwrap());
    let log = log.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(log.len() > 10_000 && log.contains("TRACE"), "the log is there: {log}");
    spoken.secrets.push(CANARY.to_owned());
    found.extend(leaks("the log", &log, &spoken.secrets));
    found.extend(leaks("the audit", &audit, &spoken.secrets));
    assert_eq!(found, [""; 0]);
}

/// Returns the audit once it tells of the revocation, the tickets and the refusals.
async fn audit(address: SocketAddr, spoken: &mut Spoken) -> String {
    let path = ("GET", "/v1/topics/$audit/events?limit=1000");
    let by_admin = spoken.ask(address, &admin(), path, Value::Null).await;
    assert_eq!(by_admin.status, 403, "the audit is a right of its own: {by_admin:?}");
    soon(async {
        loop {
            let page = spoken.ask(address, &auditor(), path, Value::Null).await;
            assert_eq!(page.status, 200, "{page:?}");
            let text = String::from_utf8(page.body.to_vec()).unwrap();
            let told = ["owner-by-grpc", "administrator", "127.0.0.1", "refused", "revoke"];
            if told.iter().all(|word| text.contains(word)) {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}
