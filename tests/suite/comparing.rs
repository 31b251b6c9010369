//! `leftoff check --against`: two logs are compared by hashes of their events.

use std::path::Path;
use std::process::Output;

use serde_json::json;

use crate::common::{Process, post, run, send, text, to};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn copy(from: &Path, to: &Path) {
    for name in ["sled", ""] {
        std::fs::create_dir_all(to.join(name)).unwrap();
        for entry in std::fs::read_dir(from.join(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, to.join(name).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
}

fn url(process: &Process) -> String {
    format!("http://{}", process.address)
}

/// Goal: a directory is equal to a running broker that has more by now, the first difference of a
/// topic is named, and other topics are told to be equal. Brokers are compared in the same way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_compares_with_a_running_broker_and_names_the_first_difference() {
    let parent = tempfile::tempdir().unwrap();
    let (one, other) = (parent.path().join("one"), parent.path().join("other"));
    let file = parent.path().join("a.ndjson");
    let lines: String = (0..600).map(|n| format!("{{\"data\":{n}}}\n")).collect();
    std::fs::write(&file, lines).unwrap();
    let process = Process::serve(&one, &[]);
    let published = ["publish", "a", "--file", file.to_str().unwrap(), "--server", &url(&process)];
    assert_eq!(code(&run(&published).await), 0);
    assert_eq!(post(process.address, "/v1/topics/b/events", "b").await.status, 201);
    process.kill();
    copy(&one, &other);
    let process = Process::serve(&other, &[]);
    assert_eq!(post(process.address, "/v1/topics/a/events", "more").await.status, 201);
    let directory = one.to_str().unwrap();
    let against = url(&process);
    let check = ["check", "--data-dir", directory, "--against", &against];
    let equal = run(&check).await;
    assert_eq!(code(&equal), 0, "{}", text(&equal.stderr));
    let said = text(&equal.stdout);
    for line in ["equal    a: 600 events", "equal    b: 1 events"] {
        assert!(said.lines().any(|it| it == line), "{said}");
    }
    assert!(said.starts_with("up to position 601, against http://"), "{said}");

    let second = Process::serve(&one, &[]);
    assert_eq!(post(second.address, "/v1/topics/a/events", "else").await.status, 201);
    let settings = to(second.address, "PUT", "/v1/topics/b");
    assert_eq!(send(settings, json!({ "compact": true }).to_string()).await.status, 200);
    let brokers = run(&["check", "--against", &url(&second), &against]).await;
    second.kill();
    for differs in [brokers, run(&check).await] {
        assert_eq!(code(&differs), 3, "{}", text(&differs.stderr));
        let said = text(&differs.stdout);
        let line = "differs  a: its first difference is in sequences 513 to 768: 89 events in \
            both, and they are not the same";
        assert!(said.lines().any(|it| it == line), "{said}");
        assert!(said.contains("differs  b: its settings are {"), "{said}");
        assert!(text(&differs.stderr).contains("2 topics differ"), "{}", text(&differs.stderr));
    }
    let away = ["check", "--data-dir", directory, "--against", "http://127.0.0.1:1"];
    assert_eq!(code(&run(&away).await), 4);
    process.kill();
}
