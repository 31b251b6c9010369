//! The command line's messages about mistakes: which argument or setting, where, and which value
//! would be right, in words that need no knowledge of the code.

use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Server, get, leftoff, output_of, run, soon, text};
use crate::disk::Disk;

/// Words of the code and of its libraries, which no message may contain.
const JARGON: [&str; 25] = [
    "u64",
    "u32",
    "u16",
    "usize",
    "i64",
    "f64",
    "struct",
    "enum",
    "alloc::",
    "std::",
    "figment",
    "serde",
    "sequence,",
    "a sequence",
    "a map",
    "unsigned int",
    "signed int",
    "global.",
    "default.",
    "Option",
    "invalid digit",
    "transport error",
    "NewtypeStruct",
    "unit variant",
    "found string",
];

fn assert_plain(said: &str) {
    for word in JARGON {
        assert!(!said.contains(word), "{word:?} is a word of the code: {said}");
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// Runs a command with empty input. Returns its exit code and its error output.
fn ended(arguments: &[&str], environment: &[(&str, &str)], directory: &Path) -> (i32, String) {
    let mut command = leftoff();
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    let output = output_of(command.current_dir(directory));
    (code(&output), text(&output.stderr))
}

/// Adds the names of all settings of a section, and of the sections inside of it.
fn collect(prefix: &str, section: &toml::Table, names: &mut Vec<String>) {
    for (name, value) in section {
        match value.as_table() {
            Some(section) => collect(&format!("{prefix}{name}."), section, names),
            None => names.push(format!("{prefix}{name}")),
        }
    }
}

/// Returns the names of all settings that have a default.
fn settings() -> Vec<String> {
    let output = output_of(leftoff().args(["serve", "--print-config"]));
    let all: toml::Table = text(&output.stdout).parse().unwrap();
    let mut names = Vec::new();
    collect("", &all, &mut names);
    assert!(names.len() > 50, "{names:?}");
    names
}

/// Goal: the message about a wrong setting, from whichever source, says its name, its value and its
/// source, in plain words.
#[test]
fn every_wrong_setting_is_told_by_name_value_and_origin_in_plain_words() {
    let directory = tempfile::tempdir().unwrap();
    let serve = |more: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["serve", "--print-config"], more].concat();
        ended(&arguments, environment, directory.path())
    };
    for name in settings() {
        // A setting that is text takes any value; so does a directory's name.
        let is_text = matches!(name.as_str(), "data_dir" | "server.listen");
        for value in ["soon", "-1", "1.5", "[1]", "{a=1}"] {
            let (code, said) = serve(&["--set", &format!("{name}={value}")], &[]);
            if code == 0 && is_text {
                continue;
            }
            assert_eq!(code, 5, "{name}={value}: {said}");
            assert!(said.contains(&format!("configuration: {name}")), "{name}={value}: {said}");
            assert_plain(&said);
        }
    }
    let (_, said) = serve(&["--set", "broker.max_queue_bytes=soon"], &[]);
    let problem = "broker.max_queue_bytes: \"soon\" is not a whole number from 0";
    assert_eq!(said, format!("leftoff: configuration: {problem} (on the command line)\n"));
    let (_, said) = serve(&[], &[("LEFTOFF_BROKER__MAX_QUEUE_BYTES", "soon")]);
    let origin = "(LEFTOFF_BROKER__MAX_QUEUE_BYTES)";
    assert_eq!(said, format!("leftoff: configuration: {problem} {origin}\n"));
    for (content, words) in [
        ("[broker]\nmax_queue_bytes = 'soon'", problem),
        ("broker = 5", "broker: 5 is not a section of settings"),
        ("broker = []", "broker: a list is not a section of settings"),
        ("access.tickets = [1]", "access.tickets: a list is not a section of settings"),
        ("access.anonymous = []", "access.anonymous: a list is not a section of settings"),
        ("access.keys = [['name']]", "access.keys.0: a list is not a section of settings"),
        ("topics.a = [1]", "topics.a: a list is not a section of settings"),
        ("[brokr]", "brokr: is not known here; known are data_dir, server,"),
        ("server.listen = 5", "server.listen: 5 is not an address with a port"),
        ("server.listen = 'here'", "server.listen: \"here\" is not an address with a port"),
        ("data_dir = 5", "data_dir: 5 is not the name of a file or a directory"),
        ("[follow]\nlist_connections = 1", "1 is not true or false"),
        ("[access]\nallowed_origins = 'x'", "\"x\" is not a list"),
        ("[topics.'a.>']\ncompact = 3", "topics.\"a.>\".compact: 3 is not true or false"),
        ("[topics.'a.>']\ncompat = true", "topics.\"a.>\".compat: is not known here"),
        (
            "[topics.a]\ndurability = 'x'",
            "topics.a.durability: \"x\" is not one of memory, process",
        ),
    ] {
        std::fs::write(directory.path().join("broker.toml"), content).unwrap();
        let (code, said) = serve(&["--config", "broker.toml"], &[]);
        assert_eq!(code, 5, "{content}: {said}");
        assert!(said.contains(words), "{content}: {said}");
        assert!(said.contains("broker.toml"), "{content}: {said}");
        assert_plain(&said);
    }
}

/// Goal: settings of topics can be given by flags and variables, whatever dots their patterns
/// contain.
#[test]
fn settings_of_patterns_with_dots_are_taken_from_flags_and_variables() {
    let compact = |arguments: &[&str], environment: &[(&str, &str)], pattern: &str| {
        let mut command = leftoff();
        command.args(["serve", "--print-config"]).args(arguments);
        let output = output_of(command.envs(environment.iter().copied()));
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let all: toml::Table = text(&output.stdout).parse().unwrap();
        assert_eq!(all["topics"].as_table().unwrap().len(), 1, "{all}");
        all["topics"][pattern]["compact"].as_bool()
    };
    for (setting, pattern) in [
        ("topics.\"users.42.>\".compact=true", "users.42.>"),
        ("topics.users.42.>.compact=true", "users.42.>"),
        ("topics.'users.*'.compact=true", "users.*"),
        ("topics.users.compact=true", "users"),
        ("topics.\"a=b.c\".compact=true", "a=b.c"),
        ("topics.\"users.>\"={compact=true}", "users.>"),
    ] {
        assert_eq!(compact(&["--set", setting], &[], pattern), Some(true), "{setting}");
    }
    let variable = ("LEFTOFF_TOPICS__USERS__DE__COMPACT", "true");
    assert_eq!(compact(&[], &[variable], "users.de"), Some(true));
}

/// Goal: messages about wrong numbers and addresses say what was expected, in plain words.
#[test]
fn wrong_arguments_are_told_in_plain_words() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, status, words) in [
        (&["tail", "a", "--count", "x"][..], 2, "it is not a whole number, like 42"),
        (&["tail", "a", "--count", "0"], 2, "0 is less than 1"),
        (&["tail", "a", "--retry-seconds", "99999999999999999999"], 2, "is too large"),
        (&["topic", "update", "a", "--max-events", "1.5"], 2, "it is not a whole number, like 42"),
        (&["topic", "update", "a", "--max-events=-1"], 2, "it is not a whole number, like 42"),
        (&["topic", "purge", "a", "--before", ""], 2, "it is not a whole number, like 42"),
        (&["bench", "publish", "--clients", "0"], 2, "0 is not within 1 and 10000"),
        (&["topics", "--server", "a b"], 5, "--server \"a b\" is not a URL; write http://"),
        (&["topics", "--server", "127.0.0.1:4280"], 5, "is not a URL of a server; write http://"),
        (&["topics", "--server", "ftp://a"], 5, "is not a URL of a server; write http://"),
        (&["topics", "--server", "http://a", "--ca", "b"], 5, "has no TLS, for which --ca is;"),
        (&["topics", "--server", "http://127.0.0.1:1"], 4, "cannot reach http://127.0.0.1:1: Conn"),
    ] {
        let (code, said) = ended(arguments, &[], directory.path());
        assert_eq!(code, status, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert_plain(&said);
        let repeated = said.matches("refused").count() + said.matches("Connection").count();
        assert!(repeated <= 2, "the message repeats a cause: {said}");
    }
}

/// Goal: a file name in the topic's place is reported at once, without waiting for standard input.
#[tokio::test]
async fn a_file_in_the_place_of_the_topic_is_told_and_nothing_is_published() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("events.ndjson"), "{\"data\":1}\n{\"data\":2}\n").unwrap();
    let publish = async |arguments: &[&str]| {
        let mut command = leftoff();
        command.arg("publish").args(arguments).args(["--server", &url]);
        command.current_dir(directory.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut publish = command.spawn().unwrap();
        // No one writes to the command's input. The input is closed only if `-` asks for it.
        let input = publish.stdin.take().filter(|_| !arguments.contains(&"-"));
        let ended = tokio::task::spawn_blocking(move || publish.wait_with_output().unwrap());
        let ended = soon(ended).await.unwrap();
        drop(input);
        ended
    };
    let refused = publish(&["events.ndjson"]).await;
    let said = text(&refused.stderr);
    assert_eq!(code(&refused), 5, "{said}");
    assert!(said.contains("events.ndjson is a file"), "{said}");
    assert!(said.contains("`--file events.ndjson`"), "{said}");
    assert_eq!(get(server.address, "/v1/topics").await.json()["topics"], Value::Array(Vec::new()));
    let topic = || ["events.ndjson", "--file"];
    let taken = publish(&[&topic()[..], &["events.ndjson"]].concat()).await;
    assert_eq!(code(&taken), 0, "{}", text(&taken.stderr));
    let taken = publish(&[&topic()[..], &["-"]].concat()).await;
    assert!(text(&taken.stderr).contains("0 events stored"), "{}", text(&taken.stderr));
    let topics = get(server.address, "/v1/topics").await.json();
    assert_eq!(topics["topics"][0]["events"], 2, "{topics}");
}

/// Goal: whatever ends a publish, the message names the line.
#[tokio::test]
async fn every_error_of_publish_names_the_line() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    let directory = tempfile::tempdir().unwrap();
    let publish = async |input: &[u8], url: &str| {
        let path = directory.path().join("lines");
        std::fs::write(&path, input).unwrap();
        let file = path.to_str().unwrap();
        let more = ["--server", url, "--retry-seconds", "0"];
        run(&[&["publish", "a", "--file", file][..], &more].concat()).await
    };
    let lines = |bad: &str| format!("{{\"data\":1}}\n\n{bad}\n").into_bytes();
    let long = format!("{{\"data\":\"{}\"}}", "x".repeat(64 << 20));
    for (input, words) in [
        (lines("{\"data\":"), "the JSON ends before it is complete, at column 8"),
        (lines("{\"dta\":1}"), "\"dta\" is not a known name; known are topic, id,"),
        (lines("{\"ttl_ms\":-1}"), "-1 is not a whole number from 0, at column 12"),
        (lines("{\"id\":5}"), "5 is not a string, at column 7"),
        (lines("\"x\""), "a string is not an event; write an object"),
        (lines("{} x"), "something follows the JSON value, at column 4"),
        (lines("{\"data_base64\":\"!\"}"), "data_base64: is not base64"),
        (lines("{\"topic\":\"a b\"}"), "topic: holds ' '"),
        (lines("{\"type\":\"leftoff.x\"}"), "type: "),
        (lines(&format!("{{\"id\":\"{}\"}}", "x".repeat(256))), "256 is over the limit of 255"),
        (lines(&long), "is longer than 67108864 bytes"),
        (lines(&format!("{{\"data\":\"{}\"}}", "x".repeat(2 << 20))), "payload"),
    ] {
        let refused = publish(&input, &url).await;
        let said = text(&refused.stderr);
        let line = said.lines().last().unwrap_or_default();
        assert_eq!(code(&refused), 5, "{line}");
        assert!(line.starts_with("leftoff: line 3: "), "{line}");
        assert!(line.contains(words), "{words}: {line}");
        assert_plain(line);
    }
    let unreachable = publish(&lines("{}"), "http://127.0.0.1:1").await;
    let said = text(&unreachable.stderr);
    assert_eq!(code(&unreachable), 4, "{said}");
    assert!(said.contains("leftoff: line 1: cannot reach http://127.0.0.1:1"), "{said}");
}

/// Goal: `check` uses the data directory that `serve` would use, and a flag wins over all else.
#[test]
fn check_takes_the_data_directory_of_the_settings() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("broker.toml"), "data_dir = 'from-file'").unwrap();
    let check = |arguments: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["check"], arguments].concat();
        let (code, said) = ended(&arguments, environment, directory.path());
        assert_eq!(code, 1, "{said}");
        said
    };
    let file = ["--config", "broker.toml"];
    let variable = ("LEFTOFF_DATA_DIR", "from-variable");
    assert!(check(&[], &[]).contains("cannot open leftoff-data: there is no log in it"));
    assert!(check(&file, &[]).contains("cannot open from-file:"));
    assert!(check(&[], &[("LEFTOFF_CONFIG", "broker.toml")]).contains("cannot open from-file:"));
    assert!(check(&file, &[variable]).contains("cannot open from-variable:"));
    let flag = [&file[..], &["--data-dir", "from-flag"]].concat();
    assert!(check(&flag, &[variable]).contains("cannot open from-flag:"));
}

/// Goal: anything else at the path of a data directory is reported, and left as it is.
#[test]
fn what_stands_in_the_place_of_a_data_directory_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    std::os::unix::fs::symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    std::fs::write(root.join("file"), "x").unwrap();
    let link = "it is a symbolic link to /nowhere/at/all, which is not there";
    let file = "it is a file, and no directory";
    for (name, said_of, words) in [
        ("dangling", "dangling", link),
        ("dangling/inner", "dangling", link),
        ("file", "file", file),
        ("file/inner", "file", file),
    ] {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", name];
        let (code, said) = ended(&serve, &[], root);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("cannot open {said_of}: {words}")), "{name}: {said}");
        assert!(!said.contains("File exists"), "{said}");
        if name == said_of {
            let (code, said) = ended(&["check", "--data-dir", name], &[], root);
            assert_eq!((code, said.contains(words)), (1, true), "{name}: {said}");
        }
    }
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 2, "something was created");
}

/// Goal: a failed backup leaves no file behind, so a disk that it filled has its space back.
#[tokio::test]
async fn a_backup_that_fails_leaves_nothing_behind() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    for _ in 0..4 {
        server.publish("a", vec![b'x'; 1 << 20]).await;
    }
    let Some(disk) = Disk::in_memory(2) else { return };
    let file = disk.path().join("a.backup");
    let failed = run(&["backup", file.to_str().unwrap(), "--server", &url]).await;
    let said = text(&failed.stderr);
    assert_eq!(code(&failed), 1, "{said}");
    assert!(said.contains("a.backup.part: No space left on device"), "{said}");
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0, "{said}");
}

/// Passes on all bytes to `server`, and the first `most` bytes that come back; then falls silent.
async fn stalled_after(most: u64, server: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        let (mut asks, mut hears) = client.split();
        let (answers, mut asked) = server.split();
        let mut answers = answers.take(most);
        let _ended = tokio::join!(copy(&mut asks, &mut asked), copy(&mut answers, &mut hears));
    });
    address
}

/// Goal: an interrupted backup leaves no file behind either.
/// Method: let the server fall silent in the middle, and send the signal then.
#[tokio::test]
async fn a_backup_that_is_interrupted_leaves_nothing_behind() {
    let server = Server::start().await;
    for _ in 0..4 {
        server.publish("a", vec![b'x'; 1 << 20]).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let part = directory.path().join("a.backup.part");
    for (signal, ends_with) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let url = format!("http://{}", stalled_after(1 << 20, server.address).await);
        let mut command = leftoff();
        command.args(["backup", "--server", &url]).arg(directory.path().join("a.backup"));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = async {
            while !part.exists() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        soon(begun).await;
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = async {
            loop {
                match child.try_wait().unwrap() {
                    Some(status) => break status,
                    None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        let status = soon(ended).await;
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{status}");
        assert_eq!(status.code(), Some(ends_with), "{status}");
    }
}
