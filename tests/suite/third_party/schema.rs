//! Requests that schemathesis makes of the OpenAPI document: what it describes and what it rules
//! out, in any combination.

use std::time::Duration;

use super::client::Installed;
use crate::common::{Process, get, post, text};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is compared: no answer is a failure of the server, and each has a status, a media type,
/// headers and a body that the document describes.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method";

/// Goal: whatever is asked, the answer is one that the document describes, and no failure.
/// Method: the requests are the same each time, by their seed. Streams have no end, and a page
/// does not wait for long.
#[tokio::test]
async fn whatever_is_asked_over_http_the_answer_is_one_that_is_described() {
    let Some(installed) = Installed::find() else { return };
    let directory = tempfile::tempdir().unwrap();
    let settings = ["--set", "follow.max_wait_ms=50", "--set", "follow.list_connections=true"];
    let process = Process::serve(directory.path(), &settings);
    for number in 0..20 {
        let path = format!("/v1/topics/orders.eu/events?key=k{}&id=i{number}", number % 5);
        assert_eq!(post(process.address, &path, "{\"data\":1}").await.status, 201);
    }
    let url = format!("http://{}/openapi.json", process.address);
    let arguments = [
        "run",
        &url,
        "--checks",
        CHECKS,
        "--seed",
        "1",
        "--max-examples",
        "40",
        "--phases",
        "examples,coverage,fuzzing",
        "--request-timeout",
        "30",
        "--workers",
        "1",
        "--no-color",
        "--generation-database",
        "none",
    ];
    let mut command = installed.schemathesis();
    command.args(arguments).current_dir(directory.path());
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it takes too long").unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    let operations = get(process.address, "/openapi.json").await.json()["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|item| item.as_object().unwrap().len())
        .sum::<usize>();
    // The document itself is asked for already, and not tried once more.
    let all = format!("{0} selected / {0} total", operations - 1);
    assert!(said.contains(&all), "not all of {operations} were tried: {said}");
}
