//! No published event can steer the terminal of a reader.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use http::StatusCode;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::common::{Server, leftoff, run, send, soon, text, to};

/// A payload that clears the screen, writes to the clipboard, reverses text, and forges a line.
const PAYLOAD: &str = "\u{1b}]52;c;x\u{7}\u{1b}[2J\u{9b}1m\u{202e}\n9 forged";
const SHOWN: &str = "\\u001b]52;c;x\\u0007\\u001b[2J\\u009b1m\\u202e\\n9 forged";

/// Returns the output of a command whose standard output is a terminal.
async fn shown_on_a_terminal(arguments: &[&str]) -> String {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let path = ptsname(&controller, Vec::new()).unwrap();
    let terminal = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    let mut command = leftoff();
    let mut child = command.args(arguments).stdin(Stdio::null()).stdout(terminal).spawn().unwrap();
    drop(command); // The terminal hangs up when the child has ended.
    let shown = tokio::task::spawn_blocking(move || {
        let (mut shown, mut controller) = (Vec::new(), File::from(controller));
        let _hung_up = controller.read_to_end(&mut shown);
        String::from_utf8(shown).unwrap()
    });
    let shown = soon(shown).await.unwrap();
    assert!(child.wait().unwrap().success());
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_shown_control_characters_and_a_pipe_gets_them() {
    let server = Server::start().await;
    let path = "/v1/topics/a/events";
    let request = to(server.address, "POST", path).header("content-type", "text/plain");
    assert_eq!(send(request, PAYLOAD).await.status, StatusCode::CREATED);
    let url = format!("http://{}", server.address);
    for (command, has_lines) in [
        (&["tail", "a", "--from", "earliest", "-n1"][..], true),
        (&["tail", "a", "--from", "earliest", "-n1", "--format", "json"], false),
        (&["export", "--topic", "a"], false),
    ] {
        let arguments = [command, &["--server", &url]].concat();
        let piped = run(&arguments).await;
        assert_eq!(text(&piped.stdout).contains(PAYLOAD), has_lines, "{piped:?}");
        assert!(text(&piped.stdout).contains('\u{9b}'), "{piped:?}");
        let shown = shown_on_a_terminal(&arguments).await;
        let line = shown.strip_suffix("\r\n").unwrap();
        assert!(!line.chars().any(|it| it.is_control() || it == '\u{202e}'), "{line:?}");
        assert!(line.contains(SHOWN), "{line:?}");
    }
    server.stop().await;
}
