//! House rules that a test can check: who may import whom, headers, width, and no unfinished work.

use std::fs;
use std::path::{Path, PathBuf};

/// A layer: the paths of its files, and the paths that they must not name.
struct Layer {
    name: &'static str,
    paths: &'static [&'static str],
    forbidden: &'static [&'static str],
}

const LAYERS: [Layer; 14] = [
    Layer {
        name: "vocabulary",
        paths: &[
            "src/cause.rs",
            "src/cursor.rs",
            "src/error.rs",
            "src/event.rs",
            "src/gap.rs",
            "src/json_levels.rs",
            "src/lists.rs",
            "src/permission.rs",
            "src/open_error.rs",
            "src/place.rs",
            "src/secret.rs",
            "src/section.rs",
            "src/text_form.rs",
            "src/time.rs",
            "src/timestamp.rs",
            "src/told_error.rs",
            "src/topic.rs",
            "src/topic_config.rs",
            "src/topic_name.rs",
        ],
        forbidden: &[
            "crate::broker",
            "crate::edge",
            "crate::log",
            "crate::server",
            "axum",
            "prost",
            "sled",
            "tokio",
            "tonic",
            "tracing",
        ],
    },
    Layer {
        name: "log",
        paths: &["src/log"],
        forbidden: &[
            "crate::broker",
            "crate::edge",
            "crate::server",
            "axum",
            "prost",
            "tokio",
            "tonic",
        ],
    },
    Layer {
        name: "broker",
        paths: &["src/blocking.rs", "src/broker"],
        forbidden: &[
            "crate::consumers",
            "crate::edge",
            "crate::server",
            "axum",
            "prost",
            "sled",
            "tonic",
        ],
    },
    // What the broker remembers of its own, for consumers and for access control.
    Layer {
        name: "own topics",
        paths: &["src/own_topics.rs"],
        forbidden: &[
            "crate::access",
            "crate::consumers",
            "crate::edge",
            "crate::log",
            "crate::server",
            "axum",
            "prost",
            "sled",
            "tonic",
        ],
    },
    // Consumers are users of the broker, as a host's own code is.
    Layer {
        name: "consumers",
        paths: &["src/consumers"],
        forbidden: &[
            "crate::access",
            "crate::config",
            "crate::edge",
            "crate::log",
            "crate::server",
            "axum",
            "prost",
            "sled",
            "tonic",
        ],
    },
    Layer {
        name: "edge",
        paths: &["src/edge"],
        forbidden: &["crate::access", "crate::config", "crate::log", "crate::server", "sled"],
    },
    // Access control is a user of the edges' hooks, as a host's own is.
    Layer {
        name: "access",
        paths: &["src/access"],
        forbidden: &["crate::config", "crate::log", "crate::server", "sled"],
    },
    // Webhooks are readers of the broker, and have routes of their own beside those of the edges.
    Layer {
        name: "webhooks",
        paths: &["src/webhooks"],
        forbidden: &["crate::access", "crate::config", "crate::log", "crate::server", "sled"],
    },
    // A fleet is a log whose groups go through a stream: it knows the log's contract.
    Layer {
        name: "cluster",
        paths: &["src/cluster"],
        forbidden: &[
            "crate::access",
            "crate::config",
            "crate::consumers",
            "crate::edge",
            "crate::server",
            "axum",
            "clap",
            "sled",
        ],
    },
    Layer {
        name: "server",
        paths: &["src/config", "src/config.rs", "src/server"],
        forbidden: &["crate::log", "clap", "sled"],
    },
    // The client knows the wire and the vocabulary, and no other part of a broker.
    Layer {
        name: "client",
        paths: &["src/client"],
        forbidden: &[
            "crate::access",
            "crate::config",
            "crate::consumers",
            "crate::log",
            "crate::server",
            "axum",
            "clap",
            "sled",
        ],
    },
    Layer {
        name: "testing",
        paths: &["src/testing"],
        forbidden: &["crate::edge", "crate::server", "axum", "prost", "sled", "tonic"],
    },
    // What the broker trusts as a client, which access control and webhooks are.
    Layer {
        name: "trust",
        paths: &["src/trust.rs"],
        forbidden: &["crate::broker", "crate::edge", "crate::log", "crate::server", "sled"],
    },
    // The measure of the runtime's workers, which the broker, the edges and the server take.
    Layer {
        name: "polls",
        paths: &["src/polls.rs"],
        forbidden: &["crate::broker", "crate::edge", "crate::log", "crate::server", "sled"],
    },
];

/// Files that belong to no layer: they see all of them.
const ABOVE: [&str; 6] =
    ["src/cli", "src/docs", "src/fuzzing", "src/fuzzing.rs", "src/lib.rs", "src/main.rs"];

const MAX_COLUMNS: usize = 100;

/// The lines of a file that needs no reason for its length.
const MAX_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every Rust source below `path`, which may be a file itself.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found: Vec<PathBuf> =
        entries.flat_map(|entry| sources(&entry.unwrap().path())).collect();
    found.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    found.sort();
    found
}

/// Returns the lines of a source with their numbers, without comments.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned());
    (1..).zip(code).collect()
}

/// Whether `line` names `path` as a path of Rust, and not as part of a longer word.
fn names(line: &str, path: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + path.len()..];
        let is_whole = !before.is_some_and(|c| word(c) || c == ':' || c == '"');
        let is_path = after.starts_with("::") || (path.contains("::") && !after.starts_with(word));
        let is_import = line.trim_start().starts_with("use ") && !after.starts_with(word);
        is_whole && (is_path || is_import)
    })
}

#[test]
fn imports_point_one_way_through_the_layers() {
    for layer in LAYERS {
        for file in layer.paths.iter().flat_map(|path| sources(&root().join(path))) {
            for (number, line) in code_lines(&file) {
                for forbidden in layer.forbidden {
                    let place = format!("{}:{number}", file.display());
                    assert!(
                        !names(&line, forbidden),
                        "{place}: {} names {forbidden}: {line}",
                        layer.name
                    );
                }
            }
        }
    }
}

/// Goal: a new file is in a layer, so that the rule about imports holds for it.
#[test]
fn every_source_belongs_to_a_layer() {
    let paths = LAYERS.iter().flat_map(|layer| layer.paths).chain(&ABOVE);
    let paths: Vec<PathBuf> = paths.map(|path| root().join(path)).collect();
    for file in sources(&root().join("src")) {
        let belongs = paths.iter().any(|path| file.starts_with(path));
        assert!(belongs, "{} belongs to no layer", file.display());
    }
}

#[test]
fn the_rule_about_imports_sees_what_it_should() {
    assert!(names("use sled::Tree;", "sled"));
    assert!(names("    let error: sled::Error = x;", "sled"));
    assert!(names("use crate::log::Log;", "crate::log"));
    assert!(names("use crate::log;", "crate::log"));
    assert!(!names("use crate::log::sled_log;", "sled"));
    assert!(!names("mod sled_log;", "sled"));
    assert!(!names("use crate::logic::X;", "crate::log"));
    assert!(!names("let pos = tokio;", "tokio"));
}

#[test]
fn every_file_begins_with_what_it_is_and_no_line_is_too_long_or_a_loose_end() {
    let loose_end = ["TO", "DO"].concat();
    let mut files = sources(&root().join("build.rs"));
    for directory in ["src", "tests", "benches"] {
        files.extend(sources(&root().join(directory)));
    }
    assert!(files.len() > 40, "the sources were not found");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} has no `//!` header", file.display());
        let header = text.lines().take_while(|line| line.starts_with("//!"));
        let has_reason = header.into_iter().any(|line| line.contains("long"));
        let lines = text.lines().count();
        let is_short = lines <= MAX_LINES || has_reason;
        assert!(is_short, "{}: {lines} lines, and its header does not say why", file.display());
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("{}:{number}", file.display());
            let columns = line.chars().count();
            assert!(columns <= MAX_COLUMNS, "{place}: {columns} columns, over {MAX_COLUMNS}");
            assert!(!line.contains(&loose_end), "{place}: unfinished work: {line}");
        }
    }
}

/// Goal: each field, message, call and value of the protos is documented, and its name follows the
/// common style.
#[test]
fn the_protos_are_documented_and_named_by_the_common_style() {
    let proto = fs::read_to_string(root().join("proto/leftoff/v1/leftoff.proto")).unwrap();
    let mut previous = "";
    let mut enumeration: Option<String> = None;
    for (number, line) in (1..).zip(proto.lines()) {
        let code = line.trim();
        let word = |index| code.split_whitespace().nth(index).unwrap_or_default();
        let declares = ["message ", "enum ", "service ", "rpc ", "oneof "];
        let is_field = code.ends_with(';') && line.starts_with("  ");
        if declares.iter().any(|d| code.starts_with(d)) || is_field {
            let ends_above = previous.trim().starts_with("//");
            assert!(ends_above, "leftoff.proto:{number} is not documented: {line}");
        }
        if code.starts_with("enum ") {
            let upper = |c: char| if c.is_uppercase() { format!("_{c}") } else { c.to_string() };
            let prefix: String = word(1).chars().map(upper).collect();
            enumeration = Some(prefix.trim_start_matches('_').to_uppercase() + "_");
        } else if let Some(prefix) = &enumeration
            && is_field
        {
            assert!(word(0).starts_with(prefix), "leftoff.proto:{number}: no {prefix}: {line}");
            let zero = code.ends_with("= 0;");
            assert_eq!(zero, code.contains("_UNSPECIFIED "), "leftoff.proto:{number}: {line}");
        }
        if code.starts_with("rpc ") {
            let call = word(1).split('(').next().unwrap();
            assert!(code.contains(&format!("{call}Request)")), "leftoff.proto:{number}: {line}");
            assert!(code.contains(&format!("{call}Response)")), "leftoff.proto:{number}: {line}");
        }
        if code == "}" {
            enumeration = None;
        }
        previous = line;
    }
}

/// Returns the names of all tests of a folder of sources, as `cargo test` prints them.
fn tests_below(folder: &str) -> Vec<String> {
    let folder = root().join(folder);
    let names = sources(&folder).into_iter().flat_map(|file| {
        let text = fs::read_to_string(&file).unwrap();
        let path = file.strip_prefix(&folder).unwrap().with_extension("");
        let mut module: Vec<String> =
            path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        module.retain(|part| part != "mod" && part != "main");
        let inner = if text.contains("\nmod tests {") { "tests::" } else { "" };
        let mut is_test = false;
        let names = text.lines().map(str::trim).filter_map(|line| {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
            std::mem::take(&mut is_test).then(|| function.split('(').next().unwrap_or_default())
        });
        let module = module.join("::");
        names.map(|name| format!("{module}::{inner}{name}")).collect::<Vec<_>>()
    });
    names.collect()
}

/// Goal: each break of the product names a test that exists, so that something can turn red.
#[test]
fn every_break_of_the_product_names_a_test() {
    let (unit, suite) = (tests_below("src"), tests_below("tests/suite"));
    let breaks = fs::read_dir(root().join("tests/mutations")).unwrap();
    let mut count = 0;
    for path in breaks.map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&path).unwrap();
        let command = text.lines().next().unwrap_or_default();
        let filter = command.split(' ').next_back().unwrap_or_default();
        let tests = if command.contains("--lib ") { &unit } else { &suite };
        let is_named = tests.iter().any(|name| name.contains(filter));
        assert!(!filter.is_empty() && is_named, "{}: no test is {filter:?}", path.display());
        count += 1;
    }
    assert!(count > 100, "the breaks were not found");
}

/// Goal: also in release builds, an overflow from clients' numbers panics instead of wrapping.
#[test]
fn releases_check_their_sums() {
    let manifest: toml::Table =
        fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let release = manifest["profile"]["release"].as_table().unwrap();
    assert_eq!(release["overflow-checks"].as_bool(), Some(true));
}
