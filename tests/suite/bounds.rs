//! Every bound, in bytes or in number, has a test that reaches it, and the list is in bounds.txt. A
//! new bound has to be entered there: small test data never reaches a large threshold, and then no
//! test notices when the bound is broken.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use leftoff::Config;
use serde_json::{Value, json};

use crate::common::{Server, Sse, get, send, to};

/// The list: each bound on a line of its own, and indented below it its tests, or why there is
/// none.
const LIST: &str = include_str!("bounds.txt");

/// Returns the bounds of the list, each with the entries below it.
fn listed() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut listed: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix("    "), listed.last_mut()) {
            (Some(below), Some((_, entries))) => entries.push(below),
            _ => listed.push((line, Vec::new())),
        }
    }
    listed
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every Rust source below `path` that is neither a test nor part of the command line.
fn sources(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.ends_with("tests.rs") || name == "tests" || name == "cli" {
        return Vec::new();
    }
    if path.is_file() {
        return Vec::from_iter(name.ends_with(".rs").then(|| path.to_owned()));
    }
    fs::read_dir(path).unwrap().flat_map(|entry| sources(&entry.unwrap().path())).collect()
}

/// Returns the constants that limit a size or a number: each `MAX_…` outside of tests.
fn constants() -> impl Iterator<Item = String> {
    sources(&root().join("src")).into_iter().flat_map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let name = |line: &str| {
            let public = line.strip_prefix("pub").and_then(|rest| rest.split_once("const MAX_"));
            let line = public.map(|(_, rest)| rest).or(line.strip_prefix("const MAX_"))?;
            Some(format!("MAX_{}", line.split(':').next()?))
        };
        text.lines().filter_map(name).map(|name| format!("{file} {name}")).collect::<Vec<_>>()
    })
}

/// Returns the settings that limit a size or a number: each `max_…`, and each in bytes.
fn settings() -> impl Iterator<Item = String> {
    let sections = serde_json::to_value(Config::default()).unwrap();
    let Value::Object(sections) = sections else { panic!("{sections}") };
    sections.into_iter().flat_map(|(section, fields)| {
        let names = fields.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
        let is_bound = |name: &String| name.starts_with("max_") || name.ends_with("_bytes");
        let names = names.unwrap_or_default().into_iter().filter(is_bound);
        names.map(move |name| format!("{section}.{name}")).collect::<Vec<_>>()
    })
}

/// Goal: each bound has a test that reaches it, or a stated reason why no test does.
#[test]
fn every_bound_has_a_test_that_reaches_it_or_a_reason_why_none_does() {
    let bounds: BTreeSet<String> = constants().chain(settings()).collect();
    let listed = listed();
    let known: BTreeSet<String> = listed.iter().map(|(bound, _)| (*bound).to_owned()).collect();
    assert_eq!(listed.len(), known.len(), "a bound is listed twice");
    let unknown: Vec<_> = bounds.difference(&known).collect();
    assert!(unknown.is_empty(), "bounds that are not listed with a test: {unknown:#?}");
    let gone: Vec<_> = known.difference(&bounds).collect();
    assert!(gone.is_empty(), "bounds that are listed and do not exist: {gone:#?}");
    for (bound, entries) in listed {
        assert!(!entries.is_empty(), "{bound}: no test, and no reason");
        for test in entries.into_iter().filter(|entry| !entry.starts_with("- ")) {
            let (file, name) = test.split_once("::").unwrap();
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            assert!(text.contains(&format!("fn {name}(")), "{bound}: there is no {test}");
        }
    }
}

/// Goal: a request over one of the wire's own bounds is refused with the limit, and a request of
/// exactly that size is accepted.
#[tokio::test]
async fn what_is_over_a_bound_of_the_wire_is_refused_with_the_limit() {
    let server = Server::start().await;
    let address = server.address;
    let patterns = |count: usize| {
        let topics: Vec<String> = (0..count).map(|number| format!("t{number}.*")).collect();
        json!({ "topics": topics, "from": "latest" })
    };
    let of_bytes = |bytes: usize| {
        let mut body = patterns(1).to_string();
        body.extend(std::iter::repeat_n(' ', bytes - body.len()));
        body
    };
    let member = |id: usize, info: usize| {
        let member = json!({ "id": "x".repeat(id), "info": { "n": "x".repeat(info - 1) } });
        json!({ "topics": ["room"], "from": "latest", "member": member }).to_string()
    };
    let nested = |levels: usize| {
        let info: Value =
            serde_json::from_str(&("[".repeat(levels) + &"]".repeat(levels))).unwrap();
        let member = json!({ "id": "x", "info": { "n": info } });
        json!({ "topics": ["room"], "from": "latest", "member": member }).to_string()
    };
    let cases = [
        (patterns(1_024).to_string(), None),
        (patterns(1_025).to_string(), Some("topics: 1025 is over the limit of 1024")),
        (of_bytes(1 << 20), None),
        (of_bytes((1 << 20) + 1), Some("limit of 1048576")),
        (member(255, 1_024), None),
        (member(256, 1_024), Some("member id bytes: 256 is over the limit of 255")),
        (member(255, 1_025), Some("member info bytes: 1025 is over the limit of 1024")),
        (nested(32), None),
        (nested(33), Some("levels of member info: 33 is over the limit of 32")),
    ];
    for (body, problem) in cases {
        let request = to(address, "POST", "/v1/events");
        let request = request.header("content-type", "application/json");
        let shown: String = body.chars().take(60).collect();
        match problem {
            None => {
                let mut stream = Sse::open_over(request, body, false).await.unwrap();
                assert_eq!(stream.status, 200, "{shown}");
                stream.next().await.expect("the stream ended");
            }
            Some(problem) => {
                let answer = send(request.header("accept", "text/event-stream"), body).await;
                let told = String::from_utf8_lossy(&answer.body).into_owned();
                assert_eq!(answer.status, 413, "{shown}: {told}");
                assert!(told.contains(problem), "{shown}: {told}");
            }
        }
    }
    let put = |bytes: usize| {
        let body = format!("{{{}}}", " ".repeat(bytes - 2));
        send(to(address, "PUT", "/v1/topics/a").header("content-type", "application/json"), body)
    };
    let refused = put((64 << 10) + 1).await;
    assert_eq!(refused.status, 413, "{refused:?}");
    assert_eq!(get(address, "/v1/topics/a").await.status, 404, "the topic was created");
    assert!(put(64 << 10).await.status.is_success());
}
