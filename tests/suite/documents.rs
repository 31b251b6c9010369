//! The README and the pages agree with the product: settings, metrics, commands, codes and paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use leftoff::Config;
use leftoff::access::{IssuerConfig, KeyConfig, RoleConfig};
use serde_json::Value;

use crate::common::{Server, get, leftoff, output_of, text};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the text of a file of the project.
pub(crate) fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the paths of all pages for people.
pub(crate) fn pages() -> Vec<String> {
    fn find(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("node_modules") {
                find(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![root().join("README.md")];
    for directory in [".github", "data", "src", "tests"] {
        find(&root().join(directory), &mut found);
    }
    let relative = |path: PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    let mut pages: Vec<String> = found.into_iter().map(relative).collect();
    pages.sort();
    assert!(pages.len() > 14, "{pages:?}");
    pages
}

/// Returns the rows of all tables of a page, each as its cells.
fn rows(page: &str) -> Vec<Vec<String>> {
    let lines = page.lines().filter(|line| line.starts_with("| "));
    let cells = |line: &str| {
        let cells = line.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    lines.map(cells).collect()
}

/// Returns the texts in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Parses the number of a setting as a page writes it: `32 MiB`, `10,000`, `600,000 (10 min)`,
/// `16 KiB`.
fn number(text: &str) -> Option<u64> {
    let text = text.split(" (").next().unwrap().replace(',', "");
    match text.split_once(' ') {
        Some((number, "KiB")) => Some(number.parse::<u64>().ok()? << 10),
        Some((number, "MiB")) => Some(number.parse::<u64>().ok()? << 20),
        _ => text.parse().ok(),
    }
}

/// Returns all settings with their defaults.
fn settings() -> BTreeMap<String, Value> {
    fn collect(name: String, value: Value, settings: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    collect(format!("{name}.{field}"), value, settings);
                }
            }
            other => {
                settings.insert(name, other);
            }
        }
    }
    let Value::Object(sections) = serde_json::to_value(Config::default()).unwrap() else {
        panic!("no sections");
    };
    let mut settings = BTreeMap::new();
    sections.into_iter().for_each(|(name, value)| collect(name, value, &mut settings));
    settings
}

/// Checks the rows of settings among `rows`, which name them and their defaults: each must be among
/// `known`, with that default, and is taken out of it.
fn take_settings(
    rows: Vec<Vec<String>>,
    is_setting: impl Fn(&String) -> bool,
    known: &mut BTreeMap<String, Value>,
) {
    for row in rows {
        let names = quoted(&row[0]);
        if names.is_empty() || !names.iter().all(&is_setting) {
            continue;
        }
        let each = row[1].strip_suffix(" each");
        let defaults: Vec<&str> = match each {
            Some(each) => vec![each; names.len()],
            None if ["none", "false"].iter().any(|it| row[1].starts_with(it)) => {
                vec![row[1].split(' ').next().unwrap(); names.len()]
            }
            None => row[1].split(", ").collect(),
        };
        assert_eq!(names.len(), defaults.len(), "{row:?}");
        for (name, said) in names.iter().zip(defaults) {
            let default = known.remove(name).unwrap_or_else(|| panic!("{name}: no setting"));
            let is_nothing = ["none", "none;", "required"].contains(&said);
            let is_true = match &default {
                Value::Number(value) => number(said) == value.as_u64(),
                Value::String(value) if value.is_empty() => is_nothing,
                Value::String(value) => said.trim_matches('`') == value,
                Value::Bool(value) => said == value.to_string(),
                Value::Array(value) => value.is_empty() && is_nothing,
                _ => is_nothing && default.is_null(),
            };
            assert!(is_true, "{name}: the page says {said}, not {default}");
        }
    }
}

/// Goal: the page of settings has each setting with its true default.
#[test]
fn every_setting_is_on_its_page_with_its_default() {
    let mut missing = settings();
    assert!(missing.len() > 50, "{missing:?}");
    let is_setting =
        |name: &String| name == "data_dir" || (name.contains('.') && !name.starts_with("topics."));
    take_settings(rows(&document("src/docs/settings.md")), is_setting, &mut missing);
    assert_eq!(missing.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "not on the page");
}

/// Goal: the page of settings has each field of the tables of access with its true default.
#[test]
fn every_field_of_a_table_of_access_is_on_its_page_with_its_default() {
    let page = document("src/docs/settings.md");
    for (table, fields) in [
        ("keys", serde_json::to_value(KeyConfig::default())),
        ("issuers", serde_json::to_value(IssuerConfig::default())),
        ("roles", serde_json::to_value(RoleConfig::default())),
    ] {
        let heading = format!("### A table of `[[access.{table}]]`\n");
        let section = page.split(&heading).nth(1).unwrap_or_else(|| panic!("no {heading}"));
        let section = section.split("\n##").next().unwrap();
        let mut missing: BTreeMap<String, Value> = serde_json::from_value(fields.unwrap()).unwrap();
        take_settings(rows(section), |_| true, &mut missing);
        assert_eq!(missing.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "of {table}");
    }
}

/// Goal: the broker accepts each file of settings that a page shows.
#[test]
fn every_file_of_settings_on_a_page_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.toml");
    let mut tried = 0;
    for page in pages() {
        let text = document(&page);
        for block in text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            fs::write(&file, block).unwrap();
            let loaded = Config::load(Some(&file), &[]);
            assert!(loaded.is_ok(), "{page}: {}\n{block}", loaded.unwrap_err());
            tried += 1;
        }
    }
    assert!(tried > 6, "{tried}");
}

/// The beginning of the names of a fleet's metrics.
pub(crate) const OF_FLEET: &str = "leftoff_fleet_";

/// Returns the metrics of a fleet that the page of operations has.
pub(crate) fn metrics_of_fleets() -> BTreeSet<String> {
    let page = document("src/docs/operations.md");
    let named = rows(&page).into_iter().flat_map(|row| quoted(&row[0]));
    named.filter(|name| name.starts_with(OF_FLEET)).collect()
}

/// Goal: the page of operations has each metric, and no other.
#[tokio::test]
async fn every_metric_is_on_its_page_and_no_other() {
    let server = Server::start().await;
    let metrics = get(server.address, "/metrics").await;
    let metrics = text(&metrics.body);
    let kinds = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let there: BTreeSet<String> =
        kinds.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert!(there.len() > 10, "{there:?}");
    let page = document("src/docs/operations.md");
    let named = rows(&page).into_iter().flat_map(|row| quoted(&row[0]));
    // Those of a fleet are there with a fleet: tests/suite/fleet/serving.rs.
    let is_of_one = |name: &String| name.starts_with("leftoff_") && !name.starts_with(OF_FLEET);
    let named: BTreeSet<String> = named.filter(is_of_one).collect();
    assert_eq!(named, there);
    server.stop().await;
}

/// Goal: the page of operations has each command and each exit code.
#[test]
fn every_command_and_exit_code_is_on_its_page() {
    let help = output_of(leftoff().arg("--help"));
    let help = text(&help.stdout);
    let section = |begin: &str| {
        let lines = help.split(begin).nth(1).unwrap().lines().skip(1);
        let lines = lines.take_while(|line| line.starts_with("  "));
        let names = lines.filter_map(|line| line.trim().split("  ").next());
        names.flat_map(|names| names.split(", ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let page = rows(&document("src/docs/operations.md"));
    let commands: Vec<String> = page.iter().flat_map(|row| quoted(&row[0])).collect();
    let codes: Vec<&str> = page.iter().flat_map(|row| row[0].split(", ")).collect();
    for command in section("Commands:").iter().filter(|command| *command != "help") {
        assert!(commands.contains(command), "{command} is not on the page");
    }
    for code in section("Exit codes:") {
        assert!(codes.contains(&&*code), "exit code {code} is not on the page");
    }
}

/// Returns the project's paths that a text names. A path with a placeholder, as
/// `data/fuzz/TARGET/…`, is cut before it.
fn paths(text: &str) -> BTreeSet<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let words = text.split(|c: char| !is_path(c)).map(|word| word.trim_end_matches('.'));
    let roots = ["src/", "tests/", "benches/", "data/", "proto/", ".ci/", ".github/"];
    let named = words.filter(|word| roots.iter().any(|root| word.starts_with(root)));
    let stands_for_another =
        |part: &&str| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase());
    let path = |word: &str| {
        let parts: Vec<&str> =
            word.split('/').take_while(|part| !stands_for_another(part)).collect();
        parts.join("/")
    };
    named.map(path).collect()
}

/// Goal: each path and each link on a page leads to a file or a heading that exists.
#[test]
fn every_path_and_link_of_a_page_leads_somewhere() {
    let mut named = 0;
    for page in pages() {
        let text = document(&page);
        for path in paths(&text) {
            assert!(root().join(&path).exists(), "{page} names {path}, which is not there");
            named += 1;
        }
        let directory = root().join(&page);
        let directory = directory.parent().unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            // A link without a path leads to a heading of the same page.
            let file = if path.is_empty() { root().join(&page) } else { directory.join(path) };
            assert!(file.exists(), "{page} links {link}, which is not there");
            let headings = match anchor.is_empty() {
                true => Vec::new(),
                false => fs::read_to_string(&file).unwrap().lines().map(heading).collect(),
            };
            assert!(anchor.is_empty() || headings.contains(&anchor.to_owned()), "{page}: {link}");
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
}

/// Returns the anchor of a heading, as a link ends with it, and an empty text for any other line.
fn heading(line: &str) -> String {
    let text = line.trim_start_matches('#').trim().to_lowercase();
    if line.starts_with('#') { text.replace(' ', "-") } else { String::new() }
}

/// Goal: each page below `src/docs` is part of rustdoc, and the README links it.
#[test]
fn every_page_is_in_rustdoc_and_linked_from_the_readme() {
    let (readme, modules) = (document("README.md"), document("src/docs/mod.rs"));
    let own: Vec<String> =
        pages().into_iter().filter(|page| page.starts_with("src/docs/")).collect();
    assert!(own.len() > 8, "{own:?}");
    for page in own {
        let name = page.rsplit('/').next().unwrap();
        assert!(modules.contains(&format!("include_str!(\"{name}\")")), "{page}: not in rustdoc");
        let is_linked =
            readme.contains(&format!("({page})")) || readme.contains(&format!("({page}#"));
        assert!(is_linked, "README.md does not lead to {page}");
    }
}

/// Goal: each line of the README's example is in the example that the tests compile and run.
#[test]
fn the_example_of_the_readme_is_a_part_of_the_one_that_is_run() {
    let readme = document("README.md");
    let example = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    let run = document("src/lib.rs");
    let run: Vec<&str> = run.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
    let lines: Vec<&str> = example.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > 5, "{lines:?}");
    for line in lines {
        assert!(run.contains(&line), "src/lib.rs does not have this line: {line}");
    }
}

/// Goal: the page about WebSocket has the close codes that are sent, and no other.
#[test]
fn the_close_codes_on_the_page_are_those_that_are_sent() {
    let session = ["session.rs", "ending.rs", "waiting.rs"];
    let session = session.map(|file| document(&format!("src/edge/websocket/{file}"))).concat();
    let own = session.lines().filter(|line| line.contains("const ") && line.contains(": u16 = "));
    let own = own.map(|line| line.split(" = ").nth(1).unwrap().trim_end_matches(';').to_owned());
    // Source: RFC 6455, 7.4.1, with the names that the library has for the codes.
    let of_the_rfc = [
        ("Normal", "1000"),
        ("Away", "1001"),
        ("Protocol", "1002"),
        ("Unsupported", "1003"),
        ("Invalid", "1007"),
        ("Policy", "1008"),
        ("Size", "1009"),
        ("Error", "1011"),
        ("Restart", "1012"),
        ("Again", "1013"),
    ];
    let is_sent = |name: &str| session.contains(&format!("CloseCode::{name}"));
    let of_the_rfc = of_the_rfc.into_iter().filter(|(name, _)| is_sent(name));
    let sent: BTreeSet<String> = own.chain(of_the_rfc.map(|(_, code)| code.to_owned())).collect();
    assert!(sent.len() > 7, "{sent:?}");
    let page = document("src/edge/websocket/protocol.md");
    let table = page.split("| close code |").nth(1).unwrap();
    let codes = rows(table)
        .into_iter()
        .flat_map(|row| row[0].split(", ").map(str::to_owned).collect::<Vec<_>>());
    let is_code = |code: &String| code.parse::<u16>().is_ok();
    assert_eq!(codes.filter(is_code).collect::<BTreeSet<_>>(), sent);
}
