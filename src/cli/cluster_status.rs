//! `leftoff cluster status`: how a node of a fleet is.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tonic::body::Body;
use tower::ServiceExt as _;

use super::client::ServerArgs;
use super::failure::{CliError, CliResult, ExitReason};

/// The largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

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
        let told = self.ask().await?;
        let text = if self.json { format!("{told}\n") } else { in_words(&told) };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }

    async fn ask(&self) -> CliResult<Value> {
        let channel = self.server.client().await?.channel().await;
        let channel = channel.map_err(|error| self.server.in_words(error))?;
        let request = Request::get("/v1/cluster").body(Body::empty());
        let request = request.map_err(|error| failed(ExitReason::Other, &error.to_string()))?;
        let answer = channel.oneshot(request).await;
        let answer = answer.map_err(|error| failed(ExitReason::Unreachable, &error.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| failed(ExitReason::Unreachable, &error.to_string()))?;
        let told: Option<Value> = serde_json::from_slice(&body.to_bytes()).ok();
        match (status, told) {
            (StatusCode::OK, Some(told)) if told["alone"].is_boolean() => Ok(told),
            (status, told) => {
                let detail = told.as_ref().and_then(|it| it["detail"].as_str());
                let problem = format!(
                    "the server answers {status} to GET /v1/cluster: {}",
                    detail.unwrap_or("it may be no broker, or its address for gRPC")
                );
                let reason = match status.is_client_error() {
                    true => ExitReason::Refused,
                    false => ExitReason::Other,
                };
                Err(failed(reason, &problem))
            }
        }
    }
}

fn failed(reason: ExitReason, problem: &str) -> CliError {
    CliError::new(reason, problem)
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
    let problems = [("problem", "problem"), ("engine", "engine_problem")]
        .map(|(name, field)| told[field].as_str().map(|problem| (name, problem.to_owned())));
    let mut text = String::new();
    for (name, value) in lines.into_iter().chain(problems.into_iter().flatten()) {
        let _infallible = writeln!(text, "{name:<9}{value}");
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
        false => format!(", not heard for {} ms", number("heard_ms_ago")),
    };
    let problem = seen["problem"].as_str().map(|it| format!(": {it}")).unwrap_or_default();
    format!(
        "- {} at {}, version {}: {} in term {}, {} records behind{heard}{problem}",
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
        let line = "- n1 at http://n1:4280, version 1.2.3: leading in term 3, 0 records behind, \
            not heard for 9 ms: a fault\n";
        assert_eq!(in_words(&told), format!("{lines}{line}"));
        (told["leader"], told["not_ready"]) = (Value::Null, json!("it is behind"));
        (told["problem"], told["engine_problem"]) = (json!("a"), json!("b"));
        let said = in_words(&told);
        for line in ["leader   none", "ready    no: it is behind", "problem  a", "engine   b"] {
            assert!(said.lines().any(|it| it == line), "{line}: {said}");
        }
        let alone = in_words(&json!({ "alone": true, "version": "1.2.3" }));
        assert_eq!(alone, "the broker, of version 1.2.3, is alone: it is no node of a fleet\n");
    }
}
