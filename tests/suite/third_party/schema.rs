//! Requests that schemathesis derives from the OpenAPI document: the ones that it permits and the
//! ones that it forbids, in many combinations.

use std::time::Duration;

use super::client::Installed;
use crate::common::{Process, get, post, text};

/// The time limit of the whole run.
const PATIENCE: Duration = Duration::from_secs(300);

/// The checks: no answer is a failure of the server, and each has a status, a media type, headers
/// and a body that the document describes.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method";

/// Goal: each answer to any request is one that the document describes, and no failure of the
/// server.
/// Method: a fixed seed gives the same requests each time. Pages wait only for a short time.
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
    let output = tokio::time::timeout(PATIENCE, run).await.expect("the run ends in time").unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    let operations = get(process.address, "/openapi.json").await.json()["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|item| item.as_object().unwrap().len())
        .sum::<usize>();
    // The document itself was requested already, and is not tried again.
    let all = format!("{0} selected / {0} total", operations - 1);
    assert!(said.contains(&all), "not all of {operations} were tried: {said}");
}
