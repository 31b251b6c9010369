//! `leftoff cluster status`: how a node of a fleet is.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::asking::get_json;
use super::client::ServerArgs;
use super::failure::CliResult;

/// Says how a node of a fleet is: what it does, who leads, and how far it is behind
///
/// Asks one node, at its address for HTTP.
#[derive(Debug, Args)]
pub(super) struct ClusterStatus {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl ClusterStatus {
    pub(super) async fn run(self) -> CliResult {
        let told = get_json(&self.server.channel().await?, "/v1/cluster").await?;
        let text = if self.json { format!("{told}\n") } else { in_words(&told) };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }
}

/// Returns the answer of a node as lines for people.
fn in_words(told: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |name: &str| told[name].as_u64().unwrap_or(0);
    let version = word(&told["version"]);
    if told["alone"] == true {
        return format!("the broker, of version {version}, is alone: it is no node of a fleet\n");
    }
    let node = |of: &Value| format!("{} at {}", word(&of["node"]), word(&of["address"]));
    let leader = &told["leader"];
    let lines = [
        ("node", format!("{}, version {version}", node(told))),
        ("fleet", word(&told["fleet"])),
        ("role", format!("{}, in term {}", word(&told["role"]), number("term"))),
        ("leader", if leader.is_null() { "none".to_owned() } else { node(leader) }),
        (
            "records",
            format!(
                "{} read, {} applied, {} in the stream",
                number("read_record"),
                number("applied_record"),
                number("last_record")
            ),
        ),
        ("behind", format!("{} records, {} ms", number("lag_records"), number("lag_ms"))),
        ("ready", told["not_ready"].as_str().map_or("yes".to_owned(), |why| format!("no: {why}"))),
    ];
    let problems = [("problem", "problem"), ("engine", "engine_problem"), ("damage", "damage")]
        .map(|(name, field)| told[field].as_str().map(|problem| (name, problem.to_owned())));
    let mut text = String::new();
    for (name, value) in lines.into_iter().chain(problems.into_iter().flatten()) {
        let _infallible = writeln!(text, "{name:<9}{value}");
    }
    let repaired = &told["repaired"];
    if repaired.is_object() {
        let from = repaired["from"]
            .as_str()
            .map_or("the stream".to_owned(), |node| format!("a backup of {node}"));
        let _infallible = writeln!(
            text,
            "repaired with {from}: {}; the damaged log, of {} bytes, is kept in {}",
            word(&repaired["why"]),
            repaired["kept_bytes"].as_u64().unwrap_or(0),
            word(&repaired["kept_in"]),
        );
    }
    let searched = &told["searched"];
    if searched.is_object() {
        let number = |name: &str| searched[name].as_u64().unwrap_or(0);
        let (bytes, passes) = (number("read_bytes"), number("passes"));
        let times = if passes == 1 { "time" } else { "times" };
        let _infallible = writeln!(
            text,
            "searched for damage: {bytes} bytes, the whole log {passes} {times}, since the start"
        );
    }
    for seen in told["nodes"].as_array().into_iter().flatten() {
        let _infallible = writeln!(text, "{}", seen_in_words(seen));
    }
    if told["has_more_nodes"] == true {
        text += "         and more nodes\n";
    }
    text
}

/// Returns a line about a node that was heard.
fn seen_in_words(seen: &Value) -> String {
    let word = |name: &str| seen[name].as_str().unwrap_or("?");
    let number = |name: &str| seen[name].as_u64().unwrap_or(0);
    let heard = match seen["is_live"] == true {
        true => String::new(),
        false => format!("not heard for {} ms, before that ", number("heard_ms_ago")),
    };
    let problem = seen["problem"].as_str().map(|it| format!(": {it}")).unwrap_or_default();
    format!(
        "- {} at {}, version {}: {heard}{} in term {}, {} records behind{problem}",
        word("node"),
        word("address"),
        word("version"),
        word("role"),
        number("term"),
        number("lag_records"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_told_in_lines() {
        let mut told = json!({
            "alone": false,
            "version": "1.2.3",
            "fleet": "orders",
            "node": "n2",
            "address": "http://n2:4280",
            "role": "following",
            "term": 3,
            "leader": { "node": "n1", "address": "http://n1:4280" },
            "read_record": 9,
            "applied_record": 7,
            "last_record": 12,
            "lag_records": 5,
            "lag_ms": 40,
            "ready": true,
        });
        let lines = "\
node     n2 at http://n2:4280, version 1.2.3
fleet    orders
role     following, in term 3
leader   n1 at http://n1:4280
records  9 read, 7 applied, 12 in the stream
behind   5 records, 40 ms
ready    yes
";
        assert_eq!(in_words(&told), lines);
        told["nodes"] = json!([{
            "node": "n1", "address": "http://n1:4280", "version": "1.2.3", "role": "leading",
            "term": 3, "lag_records": 0, "is_live": false, "heard_ms_ago": 9, "problem": "a fault",
        }]);
        let line = "- n1 at http://n1:4280, version 1.2.3: not heard for 9 ms, before that leading \
            in term 3, 0 records behind: a fault\n";
        assert_eq!(in_words(&told), format!("{lines}{line}"));
        (told["leader"], told["not_ready"]) = (Value::Null, json!("it is behind"));
        (told["problem"], told["engine_problem"]) = (json!("a"), json!("b"));
        let said = in_words(&told);
        for line in ["leader   none", "ready    no: it is behind", "problem  a", "engine   b"] {
            assert!(said.lines().any(|it| it == line), "{line}: {said}");
        }
        told["damage"] = json!("a page");
        let kept = json!({ "at_ms": 5, "why": "its end", "from": "n1", "kept_bytes": 77,
            "kept_in": "/data/damaged-5" });
        told["repaired"] = kept;
        told["searched"] = json!({ "passes": 2, "last_at_ms": 5, "read_bytes": 66 });
        let said = in_words(&told);
        for line in [
            "damage   a page",
            "repaired with a backup of n1: its end; the damaged log, of 77 bytes, is kept in \
             /data/damaged-5",
            "searched for damage: 66 bytes, the whole log 2 times, since the start",
        ] {
            assert!(said.lines().any(|it| it == line), "{line}: {said}");
        }
        let alone = in_words(&json!({ "alone": true, "version": "1.2.3" }));
        assert_eq!(alone, "the broker, of version 1.2.3, is alone: it is no node of a fleet\n");
    }
}
