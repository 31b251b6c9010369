//! The reference of HTTP and of its streams: the OpenAPI document names every route and no other,
//! and the pages name every message. schemathesis compares the answers, in `third_party`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Server, get, send, to};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the sources of the edge and of webhooks, without their tests.
fn sources() -> Vec<String> {
    fn files(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => files(&path, found),
                Some(extension) if extension == "rs" => found.push(path),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    files(&root().join("src/edge"), &mut found);
    files(&root().join("src/webhooks"), &mut found);
    let source = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        code.lines().filter(is_code).collect::<Vec<_>>().join("\n")
    };
    found.into_iter().map(source).collect()
}

/// Returns the texts between `begin` and the next quote, for each occurrence.
fn quoted_after(sources: &[String], begin: &str) -> BTreeSet<String> {
    let rest = sources.iter().flat_map(|source| source.split(begin).skip(1));
    rest.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

async fn document(server: &Server) -> Value {
    let answer = get(server.address, "/openapi.json").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    answer.json()
}

/// Returns the methods of each path.
fn described(document: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let paths = document["paths"].as_object().unwrap();
    let methods = |item: &Value| {
        let methods = item.as_object().unwrap().keys().filter(|key| METHODS.contains(&&***key));
        methods.cloned().collect()
    };
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// Goal: the document names each path and each method that exists, and no other.
#[tokio::test]
async fn the_document_names_every_route_that_the_router_has_and_no_other() {
    let server = Server::start().await;
    let document = document(&server).await;
    assert_eq!(document["openapi"], "3.1.0");
    let described = described(&document);
    let mut sources = sources();
    sources.iter_mut().for_each(|source| source.retain(|c| !c.is_whitespace()));
    let routes = quoted_after(&sources, ".route(\"");
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), routes);
    for (path, methods) in &described {
        for method in METHODS {
            server.publish("a", "x").await; // A method may delete the topic.
            let path = path.replace("{topic}", "a").replace("{consumer}", "c");
            let path = path.replace("{webhook}", "w").replace("{connection}", "999999999");
            let answer = send(to(server.address, &method.to_uppercase(), &path), "").await;
            let is_known = answer.status != 405;
            assert_eq!(is_known, methods.contains(method), "{method} {path}: {answer:?}");
        }
    }
}

/// Goal: each reference leads to a name in the document, and each operation has a name of its own.
#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let server = Server::start().await;
    let document = document(&server).await;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let items = document["paths"].as_object().unwrap().values();
    let operations = items.flat_map(|item| METHODS.iter().filter_map(|method| item.get(method)));
    let names: Vec<&str> = operations.map(|o| o["operationId"].as_str().unwrap()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
}

/// Goal: the document alone, without the repository, explains lines, streams, codings, and query
/// names that are ignored.
#[tokio::test]
async fn the_document_leads_to_no_file_and_says_in_words_what_has_no_shape() {
    let server = Server::start().await;
    let document = document(&server).await;
    let text = document.to_string();
    assert!(!text.contains(".md`") && !text.contains("src/"), "the document names a file");
    let about = document["info"]["description"].as_str().unwrap();
    for word in
        ["`gzip`", "gzip`, `deflate`, `br` or `zstd`", "`Accept-Encoding`", "on a publish `_`"]
    {
        assert!(about.contains(word), "{word}: {about}");
    }
    let source = |path: &str| fs::read_to_string(root().join("src/edge").join(path)).unwrap();
    let spare = source("http/spare.rs");
    for (list, count) in [("const OF_PAGES", 10), ("const OF_STREAMS", 3)] {
        let names = spare.split(list).nth(1).unwrap().split("];").next().unwrap();
        let names: Vec<&str> = names.split('"').skip(1).step_by(2).collect();
        assert_eq!(names.len(), count, "{names:?}");
        for name in names {
            assert!(about.contains(&format!("`{name}`")), "{name}: {about}");
        }
    }
    let events = &document["paths"]["/v1/topics/{topic}/events"];
    let lines = events["post"]["requestBody"]["description"].as_str().unwrap();
    for name in ["x-ndjson", "jsonl", "jsonlines", "ldjson", "stream+json", "json-seq"] {
        assert!(lines.contains(name), "{name}: {lines}");
    }
    let streams = &events["get"]["responses"]["200"]["content"]["text/event-stream"];
    let stream = streams["schema"]["description"].as_str().unwrap();
    for event_type in quoted_after(&[source("sse.rs")], "\"leftoff.") {
        assert!(stream.contains(&format!("`leftoff.{event_type}`")), "{event_type}: {stream}");
    }
    let unknown = events["post"]["responses"]["415"]["headers"].as_object().unwrap();
    assert!(unknown.contains_key("Accept-Encoding"), "{unknown:?}");
    server.stop().await;
}

/// Goal: the pages name each message, each type of the broker's own events, and each field.
#[test]
fn the_reference_pages_name_everything_that_streams_and_lines_have() {
    let page = |path: &str| fs::read_to_string(root().join("src/edge").join(path)).unwrap();
    let source = |path: &str| fs::read_to_string(root().join("src").join(path)).unwrap();
    let sse = page("sse.md");
    let sources = [source("edge/sse.rs"), source("broker/presence.rs")];
    let types = quoted_after(&sources, "\"leftoff.");
    assert!(types.len() >= 7, "{types:?}");
    for event_type in types {
        assert!(sse.contains(&format!("`leftoff.{event_type}`")), "sse.md lacks {event_type}");
    }
    let lines = page("ndjson.md");
    let source_of_lines = source("edge/ndjson.rs");
    let fields = source_of_lines.split("struct LineJson<'a> {").nth(1).unwrap();
    let fields = fields.split("\n}").next().unwrap().lines().filter_map(|line| {
        let (name, _) = line.trim().trim_start_matches("r#").split_once(": ")?;
        (!name.contains(' ')).then(|| name.to_owned())
    });
    let fields: Vec<String> = fields.collect();
    assert!(fields.len() >= 10, "{fields:?}");
    for name in fields {
        assert!(lines.contains(&format!("`{name}`")), "ndjson.md lacks {name}");
    }
    let web_socket = page("websocket/protocol.md");
    let ending = source("edge/websocket/ending.rs");
    let codes = ending.lines().filter(|line| line.contains("const ") && line.contains(": u16 = "));
    let codes: Vec<&str> = codes.map(|line| line.split(" = ").nth(1).unwrap()).collect();
    assert!(codes.len() >= 4, "{codes:?}");
    for code in codes {
        let code = code.trim_end_matches(';');
        assert!(web_socket.contains(&format!("| {code} |")), "protocol.md lacks {code}");
    }
    let header = source("edge/websocket/protocol.rs");
    let header = header.split("#[cfg(test)]").next().unwrap().to_owned();
    let messages = ["▶ {\"type\":\"", "◀ {\"type\":\""];
    let messages = messages.map(|begin| quoted_after(std::slice::from_ref(&header), begin));
    assert!(messages.iter().all(|some| some.len() >= 3), "{messages:?}");
    for message in messages.into_iter().flatten() {
        assert!(web_socket.contains(&format!("| `{message}` |")), "protocol.md lacks {message}");
    }
    for page in ["sse.md", "ndjson.md", "websocket/protocol.md"] {
        let readme = fs::read_to_string(root().join("README.md")).unwrap();
        assert!(
            readme.contains(&format!("(src/edge/{page})")),
            "README.md does not lead to {page}"
        );
    }
}
