//! The client commands over TLS, and with a credential.

use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use super::{Authority, Noting, Process, Running, arguments, settings};
use crate::common::{leftoff, text};

/// Runs a command against a server, with `input`, and returns its output.
async fn command(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
    let mut command = leftoff();
    command.args(arguments).envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let _it_may_be_gone = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    });
    crate::common::soon(run).await.unwrap()
}

/// Goal: each kind of client command works over https with the issuer's certificate, and a server
/// that is not trusted is refused at once, with what to do.
#[tokio::test]
async fn commands_speak_tls_with_a_server_that_they_trust() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let given = arguments(&authority);
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let process = Process::serve(directory.path(), &given);
    let (ca, other) = (authority.path("ca.pem"), stranger.path("ca.pem"));
    let (ca, other) = (ca.to_str().unwrap(), other.to_str().unwrap());
    for server in [
        format!("https://{}", process.address),
        format!("https://localhost:{}", process.address.port()),
    ] {
        let server = ["--server", &server, "--ca", ca];
        let with = |arguments: &[&'static str]| [arguments, &server[..]].concat();
        let line = "{\"data\":\"paid\"}\n";
        let published = command(&with(&["publish", "orders"]), &[], line).await;
        assert!(published.status.success(), "{}", text(&published.stderr));
        let tail = ["tail", "orders", "--from", "last:1", "--no-follow"];
        let followed = command(&with(&tail), &[], "").await;
        assert!(text(&followed.stdout).contains("paid"), "{}", text(&followed.stderr));
        for arguments in
            [&["topics"][..], &["topic", "show", "orders"], &["export", "--topic", "orders"]]
        {
            let output = command(&with(arguments), &[], "").await;
            assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
            assert!(text(&output.stdout).contains("orders"), "{arguments:?}");
        }
    }
    let https = format!("https://{}", process.address);
    let started = Instant::now();
    for (arguments, code, expected) in [
        (["topics", "--server", &https, "--ca", other], 5, "is not trusted"),
        (["tail", "orders", "--server", &https, "--from=earliest"], 5, "--ca"),
        (["topics", "--server", &https, "--ca", "missing.pem"], 5, "--ca missing.pem"),
        (["topics", "--server", "http://127.0.0.1:1", "--ca", ca], 5, "write https://"),
    ] {
        let output = command(&arguments, &[("SSL_CERT_FILE", other)], "").await;
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(expected), "{told}");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "what cannot succeed is not tried again");
    let trusted = command(&["topics", "--server", &https], &[("SSL_CERT_FILE", ca)], "").await;
    assert!(trusted.status.success(), "of the system: {}", text(&trusted.stderr));
}

/// Goal: a credential comes from a file or from the environment, is sent with each call, and is
/// never shown; one that is refused ends the command at once with the code for what is refused.
#[tokio::test]
async fn commands_carry_a_credential_and_never_show_it() {
    let authority = Authority::new();
    let server = Running::start(settings(&authority), Some(Noting::default())).await;
    let (https, ca) = (format!("https://{}", server.address), authority.path("ca.pem"));
    let ca = ca.to_str().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(authority.path(name), text).unwrap();
        authority.path(name).to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "lok_right\n"), file("wrong", "lok_wrong"));
    let (empty, two) = (file("empty", "\n"), file("two", "lok_secret lok_right"));
    let base = ["publish", "orders", "--server", &https, "--ca", ca];
    let variable = |value| [("LEFTOFF_TOKEN", value)];
    for (more, variables, code, expected) in [
        (&["--token-file", &right][..], &[][..], 0, ""),
        (&["--key-file", &right], &[], 0, ""),
        (&[], &variable("lok_right"), 0, ""),
        (&["--key-file", &right], &variable("lok_wrong"), 0, ""),
        (&[], &[], 5, "show a certificate or a token"),
        (&["--key-file", &wrong], &variable("lok_right"), 5, "show a certificate or a token"),
        (&["--key-file", &empty], &[], 5, "has no credential in it"),
        (&["--token-file", &two], &[], 5, "one line with one credential"),
        (&["--token-file", "missing"], &[], 5, "--token-file missing"),
        (&["--token-file", &right, "--key-file", &right], &[], 2, "cannot be used with"),
    ] {
        let started = Instant::now();
        let output = command(&[&base[..], more].concat(), variables, "{\"data\":1}\n").await;
        let told = [text(&output.stdout), text(&output.stderr)].concat();
        assert_eq!(output.status.code(), Some(code), "{more:?}: {told}");
        assert!(told.contains(expected), "{more:?}: {told}");
        assert!(!told.contains("lok_"), "{more:?}: {told}");
        assert!(started.elapsed() < Duration::from_secs(10), "{more:?}: it was tried again");
    }
    server.stop().await;
}
