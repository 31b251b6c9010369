//! The command line: settings and their sources, exit codes, and commands against a server.

use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::{
    Process, Server, get, leftoff, output_of, post, quakes, read_all, run, soon, text,
};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// Returns the settings that `serve` would use, or its error message.
fn settings(arguments: &[&str], environment: &[(&str, &str)]) -> Result<toml::Table, String> {
    let mut command = leftoff();
    command.args(["serve", "--print-config"]).args(arguments);
    let output = output_of(command.envs(environment.iter().copied()));
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout).parse().unwrap()),
        Some(5) => Err(text(&output.stderr)),
        other => panic!("{other:?}: {}", text(&output.stderr)),
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let content =
        "data_dir = 'file'\n[broker]\nmax_queue_wait_ms = 1\n[server]\nlisten = '127.0.0.1:1'\n";
    std::fs::write(file.path(), content).unwrap();
    let path = file.path().to_str().unwrap();
    let values = |settings: &toml::Table| {
        let directory = settings["data_dir"].as_str().unwrap().to_owned();
        let wait_ms = settings["broker"]["max_queue_wait_ms"].as_integer().unwrap();
        let listen = settings["server"]["listen"].as_str().unwrap().to_owned();
        (directory, wait_ms, listen)
    };
    let of =
        |directory: &str, wait_ms, listen: &str| (directory.to_owned(), wait_ms, listen.to_owned());
    let default = settings(&[], &[]).unwrap();
    assert_eq!(values(&default), of("leftoff-data", 5_000, "127.0.0.1:4280"));
    let from_file = settings(&["--config", path], &[]).unwrap();
    assert_eq!(values(&from_file), of("file", 1, "127.0.0.1:1"));
    let environment = [
        ("LEFTOFF_CONFIG", path),
        ("LEFTOFF_DATA_DIR", "environment"),
        ("LEFTOFF_BROKER__MAX_QUEUE_WAIT_MS", "2"),
        ("LEFTOFF_SERVER__LISTEN", "127.0.0.1:2"),
        ("LEFTOFF_SERVER", "http://elsewhere"),
    ];
    let from_environment = settings(&[], &environment).unwrap();
    assert_eq!(values(&from_environment), of("environment", 2, "127.0.0.1:2"));
    let flags =
        ["--data-dir", "flag", "--listen", "127.0.0.1:3", "--set", "broker.max_queue_wait_ms=3"];
    let from_flags = settings(&flags, &environment).unwrap();
    assert_eq!(values(&from_flags), of("flag", 3, "127.0.0.1:3"));
}

#[test]
fn what_is_printed_as_the_configuration_can_be_loaded_again() {
    let printed = toml::to_string(&settings(&[], &[]).unwrap()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &printed).unwrap();
    let loaded = settings(&["--config", file.path().to_str().unwrap()], &[]).unwrap();
    assert_eq!(toml::to_string(&loaded).unwrap(), printed);
}

#[test]
fn unknown_and_impossible_settings_are_refused_by_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (content, words) in [
        ("data_dri = 'x'", "data_dri"),
        ("[broker]\nmax_quue_bytes = 1", "max_quue_bytes"),
        ("[follow]\nheartbeat_ms = 'often'", "heartbeat_ms"),
        ("[follow]\nheartbeat_ms = 1", "follow.heartbeat_ms: 1 is not within 10 and 3600000"),
        ("[broker]\nmax_queue_bytes = 1", "broker.max_queue_bytes: 1 is not within 4194304 and"),
        ("[", "TOML"),
    ] {
        std::fs::write(file.path(), content).unwrap();
        let error = settings(&["--config", path], &[]).unwrap_err();
        assert!(error.contains(words), "{content:?}: {error}");
    }
    let error = settings(&["--set", "broker.nothing=1"], &[]).unwrap_err();
    assert!(error.contains("nothing"), "{error}");
    let error = settings(&[], &[("LEFTOFF_FOLLOW__HEARTBEAT_MS", "often")]).unwrap_err();
    assert!(error.contains("heartbeat_ms"), "{error}");
    let error = settings(&["--listen", "here"], &[]).unwrap_err();
    assert!(error.contains("server.listen"), "{error}");
    let error = settings(&["--config", "/nowhere.toml"], &[]).unwrap_err();
    assert!(error.contains("/nowhere.toml"), "{error}");
}

/// Goal: environment variables that Kubernetes sets for a service named `leftoff`, or for one
/// beside it, do not keep a broker from starting. A mistyped setting is reported with a warning.
#[test]
fn variables_that_are_no_settings_are_left_alone_with_a_warning() {
    let foreign = [
        ("LEFTOFF_PORT", "tcp://10.0.0.7:4280"),
        ("LEFTOFF_PORT_4280_TCP", "tcp://10.0.0.7:4280"),
        ("LEFTOFF_PORT_4280_TCP_ADDR", "10.0.0.7"),
        ("LEFTOFF_SERVICE_HOST", "10.0.0.7"),
        ("LEFTOFF_SERVICE_PORT_HTTP", "4280"),
        ("LEFTOFF_SERVER_PORT", "tcp://10.0.0.8:80"),
        ("LEFTOFF_LOG_PORT", "tcp://10.0.0.9:80"),
        ("LEFTOFF_BROKER", "tcp://10.0.0.9:80"),
        ("LEFTOFF_", "x"),
        ("LEFTOFF_BROKER__MAX_QUEU_BYTES", "1"),
    ];
    let known = [("LEFTOFF_BROKER__MAX_QUEUE_WAIT_MS", "7"), ("LEFTOFF_DATA_DIR", "2026")];
    let mut command = leftoff();
    command.args(["serve", "--print-config"]).envs(foreign).envs(known);
    let output = output_of(command.env("LEFTOFF_LOG_FILTER", "warn"));
    let said = text(&output.stderr);
    assert_eq!(code(&output), 0, "{said}");
    for (variable, _) in foreign {
        assert!(said.contains(&format!("variable={variable:?}")), "{variable}: {said}");
    }
    for (variable, _) in known {
        assert!(!said.contains(variable), "{said}");
    }
    let settings: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(settings["broker"]["max_queue_wait_ms"].as_integer(), Some(7));
    assert_eq!(settings["data_dir"].as_str(), Some("2026"), "a number may name a directory");
}

#[test]
fn an_empty_directory_name_is_refused_before_anything_is_written() {
    let nowhere = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "data_dir = ''").unwrap();
    let path = file.path().to_str().unwrap();
    for (variable, value) in [("LEFTOFF_DATA_DIR", ""), ("LEFTOFF_CONFIG", path)] {
        let mut command = leftoff();
        command.arg("serve").env(variable, value);
        let output = output_of(command.current_dir(nowhere.path()));
        let said = text(&output.stderr);
        assert!(said.contains("data_dir: is empty"), "{said}");
        assert_eq!(code(&output), 5, "{said}");
        assert_eq!(std::fs::read_dir(nowhere.path()).unwrap().count(), 0);
    }
}

/// Goal: log lines of the storage engine are written to the broker's log, unchanged.
#[tokio::test]
async fn the_storage_engines_own_lines_are_among_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = leftoff();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory.path());
    command.env("LEFTOFF_LOG_FILTER", "debug").stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let heard = tokio::task::spawn_blocking(move || lines.any(|line| line.contains(" sled::")));
    let heard = tokio::time::timeout(Duration::from_secs(30), heard).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(heard.unwrap().unwrap(), "no line of the engine was logged");
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_happened() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    assert_eq!(code(&run(&["--help"]).await), 0);
    assert_eq!(code(&run(&["no-such-command"]).await), 2);
    assert_eq!(code(&run(&["serve", "--no-such-flag"]).await), 2);
    let nobody = ["topics", "--server", "http://127.0.0.1:1"];
    assert_eq!(code(&run(&nobody).await), 4);
    let nobody = ["tail", "a", "--server", "http://127.0.0.1:1", "--retry-seconds", "0"];
    assert_eq!(code(&run(&nobody).await), 4);
    let mistyped = run(&["tail", "a", "--from", "yesterday", "--server", &url]).await;
    assert_eq!(code(&mistyped), 2, "{}", text(&mistyped.stderr));
    let nothing = run(&["publish", "a", "--file", "/nowhere", "--server", &url]).await;
    assert_eq!((code(&nothing), text(&nothing.stderr).contains("/nowhere")), (1, true));
    let no_log = tempfile::tempdir().unwrap();
    let check = run(&["check", "--data-dir", no_log.path().to_str().unwrap()]).await;
    assert_eq!((code(&check), text(&check.stderr).contains("no log in it")), (1, true));
}

/// Runs `leftoff publish` with `input` on standard input.
async fn publish_lines(url: &str, topic: Option<&str>, input: &str) -> Output {
    let mut command = leftoff();
    command.arg("publish").args(topic).args(["--server", url, "--receipts"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn publish_takes_lines_for_several_topics_and_can_be_repeated() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    let input = "{\"data\":1}\n{\"topic\":\"b\",\"id\":\"own\",\"data\":2}\n\n{\"data\":1}\n";
    let first = publish_lines(&url, Some("a"), input).await;
    assert_eq!(code(&first), 0, "{}", text(&first.stderr));
    assert!(text(&first.stderr).contains("3 events stored, 0 were stored before"));
    let receipts = |output: &Output| -> Vec<(String, u64, bool)> {
        let lines = text(&output.stdout);
        let receipt = |line: &str| {
            let json: Value = serde_json::from_str(line).unwrap();
            let topic = json["topic"].as_str().unwrap().to_owned();
            (topic, json["sequence"].as_u64().unwrap(), json["duplicate"].as_bool().unwrap())
        };
        lines.lines().map(receipt).collect()
    };
    let told = |duplicate| {
        [("a", 1), ("b", 1), ("a", 2)].map(|(topic, s)| (topic.to_owned(), s, duplicate)).to_vec()
    };
    assert_eq!(receipts(&first), told(false));
    let again = publish_lines(&url, Some("a"), input).await;
    assert!(text(&again.stderr).contains("0 events stored, 3 were stored before"));
    assert_eq!(receipts(&again), told(true));

    for (input, words) in [
        ("{\"data\":1}\n{\"date\":2}\n", "line 2: \"date\" is not a known name"),
        ("{\"topic\":\"a b\"}\n", "line 1: topic: "),
        ("{\"topic\":\"a\",\"type\":\"leftoff.x\"}\n", "reserved"),
    ] {
        let refused = publish_lines(&url, Some("c"), input).await;
        assert_eq!(code(&refused), 5, "{input:?}");
        assert!(text(&refused.stderr).contains(words), "{}", text(&refused.stderr));
    }
    let no_topic = publish_lines(&url, None, "{\"data\":1}\n").await;
    assert_eq!((code(&no_topic), text(&no_topic.stderr).contains("names none")), (5, true));
}

/// Goal: each line on standard input is published as soon as it is written, also across a restart
/// of the server. A wrong line ends the command, but only after all lines before it are stored.
/// Method: keep the input open; kill the server, and write lines for more topics than requests may
/// be in flight.
#[tokio::test]
async fn lines_are_published_as_they_come_through_a_restart_and_up_to_a_bad_one() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    let mut command = leftoff();
    command.args(["publish", "a", "--receipts", "--server", &format!("http://{address}")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut publish = command.spawn().unwrap();
    let mut input = publish.stdin.take().unwrap();
    let (printed, mut receipts) = tokio::sync::mpsc::channel(1_000);
    let output = BufReader::new(publish.stdout.take().unwrap());
    std::thread::spawn(move || {
        output.lines().for_each(|line| printed.blocking_send(line.unwrap()).unwrap());
    });
    input.write_all(b"{\"data\":\"first\"}\n").unwrap();
    let receipt = soon(receipts.recv()).await.unwrap();
    assert!(receipt.contains("\"sequence\":1"), "{receipt}");
    process.kill();
    let lines: String =
        (0..300).map(|n| format!("{{\"topic\":\"t{n}\",\"data\":\"{n}\"}}\n")).collect();
    input.write_all(lines.as_bytes()).unwrap();
    let path = directory.path().to_owned();
    let start = move || Process::serve_at(address, &path, &[]);
    let _process = tokio::task::spawn_blocking(start).await.unwrap();
    for _ in 0..300 {
        soon(receipts.recv()).await.unwrap();
    }
    input.write_all(b"{\"data\":\"last\"}\n{\"date\":1}\n{\"data\":\"never\"}\n").unwrap();
    let output = tokio::task::spawn_blocking(move || publish.wait_with_output().unwrap());
    let output = soon(output).await.unwrap();
    assert_eq!(code(&output), 5, "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("line 303: "), "{}", text(&output.stderr));
    let expected = [(1, "first".to_owned()), (2, "last".to_owned())];
    assert_eq!(read_all(address, "a").await, expected);
    assert_eq!(read_all(address, "t299").await, [(1, "299".to_owned())]);
}

#[tokio::test]
async fn an_event_is_one_line_of_json_however_its_payload_is_laid_out() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    let payload = "{\n  \"text\": \"a\\nb\",\r\n  \"n\": 1\n}";
    let request = crate::common::to(server.address, "POST", "/v1/topics/a/events");
    let request = request.header("content-type", "application/json");
    assert_eq!(crate::common::send(request, payload).await.status, 201);
    let arguments =
        ["tail", "a", "--from", "earliest", "--no-follow", "--format", "json", "--server", &url];
    let printed = text(&run(&arguments).await.stdout);
    assert_eq!(printed.lines().count(), 1, "{printed}");
    let event: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(event["data"], serde_json::json!({"text": "a\nb", "n": 1}));
}

#[tokio::test]
async fn tail_prints_what_is_there_and_topics_lists_it() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    for payload in ["one", "two", "three"] {
        server.publish("a", payload).await;
    }
    let arguments =
        ["tail", "a", "--from", "1", "--no-follow", "--format", "json", "--server", &url];
    let tail = run(&arguments).await;
    assert_eq!(code(&tail), 0, "{}", text(&tail.stderr));
    let lines: Vec<Value> =
        text(&tail.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let page = get(server.address, "/v1/topics/a/events?after=1").await.json();
    assert_eq!(Value::from(lines), page["events"], "the JSON is not that of a page");
    let tail = run(&["tail", "a", "--from", "earliest", "-n", "2", "--server", &url]).await;
    let printed = text(&tail.stdout);
    let last_words: Vec<&str> = printed.lines().filter_map(|l| l.split(' ').next_back()).collect();
    assert_eq!(last_words, ["one", "two"]);
    let topics = run(&["topics", "--json", "--server", &url]).await;
    let topic: Value = serde_json::from_str(text(&topics.stdout).trim()).unwrap();
    assert_eq!((&topic["name"], &topic["tail"]), (&"a".into(), &4.into()));
}

#[tokio::test]
async fn tail_goes_on_where_it_was_when_the_server_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    let url = format!("http://{address}");
    let publish = async |number: u64| {
        let path = "/v1/topics/a/events";
        let answer = post(address, path, number.to_string()).await;
        assert_eq!(answer.json()["sequence"], number);
    };
    publish(1).await;
    publish(2).await;
    let mut command = leftoff();
    command.args(["tail", "a", "--from", "earliest", "-n", "4", "--server", &url]);
    let mut tail = command.stdout(Stdio::piped()).spawn().unwrap();
    let (printed, mut sequences) = tokio::sync::mpsc::channel(8);
    let output = BufReader::new(tail.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines() {
            let sequence = line.unwrap().split(' ').next().unwrap().to_owned();
            printed.blocking_send(sequence).unwrap();
        }
    });
    assert_eq!(soon(sequences.recv()).await.as_deref(), Some("1"));
    assert_eq!(soon(sequences.recv()).await.as_deref(), Some("2"), "half of the events");
    process.kill();
    let path = directory.path().to_owned();
    let start = move || Process::serve_at(address, &path, &[]);
    let _process = tokio::task::spawn_blocking(start).await.unwrap();
    publish(3).await;
    publish(4).await;
    assert_eq!(soon(sequences.recv()).await.as_deref(), Some("3"));
    assert_eq!(soon(sequences.recv()).await.as_deref(), Some("4"));
    assert_eq!(soon(sequences.recv()).await, None, "more events were printed than requested");
    assert!(tail.wait().unwrap().success());
}

/// Goal: `check` finds damage on the disk, names it and reports it by its exit code; it changes
/// nothing.
/// Method: flip one bit of a payload in the database file.
#[tokio::test]
async fn check_finds_damage_and_serve_names_it_to_whoever_reads_there() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let process = Process::serve(directory.path(), &[]);
    for number in 1..=5 {
        let path = format!("/v1/topics/a/events?id={number}");
        let payload = format!("needle-{number} in the log");
        assert_eq!(post(process.address, &path, payload).await.status, 201);
    }
    let busy = run(&["check", "--data-dir", data_dir]).await;
    assert_eq!(code(&busy), 1);
    assert!(text(&busy.stderr).contains("another process has it open"), "{}", text(&busy.stderr));
    let second = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir]).await;
    assert_eq!(code(&second), 1);
    assert!(text(&second.stderr).contains("another process has it open"));
    process.kill();
    let whole = run(&["check", "--data-dir", data_dir]).await;
    assert_eq!(code(&whole), 0, "{}", text(&whole.stderr));
    assert!(
        text(&whole.stdout).contains("1 topics, 5 blocks, 5 events"),
        "{}",
        text(&whole.stdout)
    );

    let database = directory.path().join("sled/db");
    let mut bytes = std::fs::read(&database).unwrap();
    let needle = b"needle-3 in";
    let mut found = 0;
    for at in 0..bytes.len() - needle.len() {
        if bytes[at..].starts_with(needle) {
            bytes[at] ^= 1;
            found += 1;
        }
    }
    assert!(found > 0);
    std::fs::write(&database, &bytes).unwrap();
    let damaged = run(&["check", "--data-dir", data_dir]).await;
    assert_eq!(code(&damaged), 3, "{}", text(&damaged.stderr));
    assert!(text(&damaged.stdout).contains("damage: "), "{}", text(&damaged.stdout));
    assert!(std::fs::read(&database).unwrap() == bytes, "the check changed what it examined");
    let path = directory.path().to_owned();
    let process = tokio::task::spawn_blocking(move || Process::serve(&path, &[])).await.unwrap();
    let page = |after: u64| {
        let path = format!("/v1/topics/a/events?after={after}");
        async move { get(process.address, &path).await }
    };
    assert_eq!(page(0).await.json()["events"].as_array().unwrap().len(), 2);
    let told = page(2).await;
    assert_eq!(told.status, 500, "{told:?}");
    let told = told.json();
    assert_eq!(told["type"], "urn:leftoff:problem:damaged", "{told}");
    assert!(told["detail"].as_str().unwrap().contains("3"), "{told}");
    assert_eq!(page(3).await.json()["events"].as_array().unwrap().len(), 2);
    assert_eq!(post(process.address, "/v1/topics/a/events", "more").await.status, 201);
    process.kill();
}

#[tokio::test]
async fn the_bench_measures_a_running_broker_beside_a_plain_file() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    let directory = tempfile::tempdir().unwrap();
    for unary in [false, true] {
        let mut arguments = vec!["bench", "publish", "--server", &url, "--clients", "2", "--json"];
        arguments.extend(["--batch", "5", "--size", "10", "--seconds", "1"]);
        arguments.extend(["--plain-dir", directory.path().to_str().unwrap()]);
        arguments.extend(unary.then_some("--unary"));
        let before =
            server.broker.topic(&crate::common::name("bench")).map_or(1, |t| t.extent.tail.get());
        let output = run(&arguments).await;
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let measured: Value = serde_json::from_str(text(&output.stdout).trim()).unwrap();
        let tail = server.broker.topic(&crate::common::name("bench")).unwrap().extent.tail.get();
        assert_eq!(measured["events"].as_u64().unwrap(), tail - before, "the count is wrong");
        for key in ["events_per_second", "megabytes_per_second", "p50_ms", "p99_ms", "p99_9_ms"] {
            assert!(measured[key].as_f64().unwrap() > 0.0, "{key} in {measured}");
            assert!(measured["plain_file"][key].as_f64().unwrap() >= 0.0, "{key} in {measured}");
        }
    }
}

#[tokio::test]
async fn the_try_out_file_can_be_published_as_the_readme_says() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    let path = quakes();
    let output = run(&["publish", "--file", path.to_str().unwrap(), "--server", &url]).await;
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let topics = get(server.address, "/v1/topics").await.json();
    assert!(topics["topics"].as_array().unwrap().len() > 5, "{topics}");
}
