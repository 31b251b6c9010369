//! What does not use access control works as before, and nobody is open to others by mistake.

use crate::common::{Process, get, leftoff, output_of, post, run, text};

/// Goal: a broker without access control does not listen beyond the machine, on neither address,
/// unless that is asked for; and says what to do.
#[tokio::test]
async fn an_open_broker_does_not_listen_beyond_the_machine_by_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for addresses in [
        &["--listen", "0.0.0.0:0"][..],
        &["--listen", "[::]:0"],
        &["--listen", "127.0.0.1:0", "--grpc-listen", "0.0.0.0:0"],
    ] {
        let mut arguments = vec!["serve", "--data-dir", path];
        arguments.extend(addresses);
        let output = run(&arguments).await;
        let told = text(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{addresses:?}: {told}");
        for word in ["--insecure", "access"] {
            assert!(told.contains(word), "{addresses:?}: {told}");
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is opened");
    let insecure = Process::serve_at(([0, 0, 0, 0], 0).into(), directory.path(), &["--insecure"]);
    assert_eq!(get(insecure.address, "/v1/topics").await.status, 200);
}

/// Goal: an open broker asks nobody for anything, knows no route of access control, and does not
/// refuse what looks like a credential.
#[tokio::test]
async fn an_open_broker_asks_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    assert_eq!(post(address, "/v1/topics/a/events", "x").await.status, 201);
    for path in ["/v1/topics/a/events", "/v1/topics", "/metrics", "/readyz"] {
        let request = crate::common::to(address, "GET", path).header("authorization", "Bearer x");
        let answer = crate::common::send(request.header("accept", "*/*"), "").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    assert_eq!(post(address, "/v1/tickets", "{}").await.status, 404);
    assert_eq!(get(address, "/v1/access/revocations").await.status, 404);
    let mut command = leftoff();
    command.args(["topics", "--server", &format!("http://{address}")]);
    let listed = tokio::task::spawn_blocking(move || output_of(&mut command)).await.unwrap();
    assert!(text(&listed.stdout).contains('a'), "{listed:?}");
}
