//! The commands of the README and of the pages work as the text says.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::common::{
    Answer, Frame, PATIENCE, Process, Sse, lasting_address, leftoff, output_of, send, soon, text,
    to,
};
use crate::documents::{document, pages};

/// Returns the words of a command, parted as a shell does: by blanks outside of quotes.
/// `$(cat FILE)` is the content of the file in `directory`, without the line's end.
fn words(command: &str, directory: &Path) -> Vec<String> {
    let mut command = command.to_owned();
    while let Some((before, rest)) = command.split_once("$(cat ") {
        let (file, after) = rest.split_once(')').unwrap();
        let content = std::fs::read_to_string(directory.join(file)).unwrap();
        command = format!("{before}{}{after}", content.trim_end());
    }
    let (mut words, mut quote) = (vec![String::new()], None);
    for character in command.chars() {
        match (character, quote) {
            ('\'' | '"', None) => quote = Some(character),
            (character, Some(quoted)) if character == quoted => quote = None,
            (' ', None) => words.push(String::new()),
            (other, _) => words.last_mut().unwrap().push(other),
        }
    }
    words
}

/// Returns the shell commands of a page, in their order.
fn commands(page: &str) -> Vec<String> {
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// A new broker for one page, and the directory in which the page's commands run.
struct Terminal {
    broker: Process,
    directory: TempDir,
}

/// The output of a curl command.
enum Shown {
    /// An answer, with the request's body.
    Answer(Answer, Option<String>),
    /// An event stream.
    Stream(Sse),
}

impl Terminal {
    fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        std::os::unix::fs::symlink(data, directory.path().join("data")).unwrap();
        let broker = Process::serve(&directory.path().join("leftoff-data"), &[]);
        Self { broker, directory }
    }

    /// Sends the request that curl would send.
    async fn curl(&self, words: &[String]) -> Shown {
        let values = |flag: &str| {
            let flags = words.iter().zip(&words[1..]).filter(|(word, _)| *word == flag);
            flags.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let url = words.last().unwrap();
        let path = url.strip_prefix("http://127.0.0.1:4280").unwrap_or_else(|| panic!("{url}"));
        let body = values("-d").pop();
        let otherwise = if body.is_some() { "POST" } else { "GET" };
        let method = values("-X").pop().unwrap_or_else(|| otherwise.to_owned());
        let with = |request: http::request::Builder, header: &String| {
            let (name, value) = header.split_once(": ").unwrap();
            request.header(name, value)
        };
        let headers = values("-H");
        let request = headers.iter().fold(to(self.broker.address, &method, path), with);
        let is_stream = headers.iter().any(|header| header == "Accept: text/event-stream");
        assert_eq!(is_stream, words.contains(&"-N".to_owned()), "curl buffers without -N: {url}");
        match is_stream {
            true => Shown::Stream(Sse::open_with(request, body.unwrap_or_default()).await.unwrap()),
            false => {
                Shown::Answer(send(request, body.clone().unwrap_or_default()).await, body.clone())
            }
        }
    }

    /// Runs a command of the program until it ends, or `serve` until it listens. A broker with a
    /// file of settings is the one to which the commands after it go.
    async fn leftoff(&mut self, arguments: &[&str]) {
        let directory = self.directory.path();
        match arguments {
            ["serve", "--print-config"] => {}
            ["serve", settings @ ..] if settings.contains(&"--config") => {
                self.broker.crash();
                let (address, mut serve) = (lasting_address(), leftoff());
                serve.args(["serve", "--listen", &address.to_string()]).args(settings);
                serve.current_dir(directory).stdout(Stdio::null());
                self.broker = Process::adopt(serve.spawn().unwrap(), address);
                return self.broker.until_ready().await;
            }
            ["serve", settings @ ..] => {
                return Process::serve(&directory.join("served"), settings).kill();
            }
            _ => {}
        }
        let server = format!("http://{}", self.broker.address);
        let mut command = leftoff();
        let (arguments, file) = match arguments {
            [arguments @ .., ">" | ">>", file] => (arguments, Some(directory.join(file))),
            arguments => (arguments, None),
        };
        command.args(arguments).current_dir(directory).stdin(Stdio::null());
        if arguments[0] == "bench" {
            command.args(["--seconds", "1"]);
        }
        let output = output_of(command.env("LEFTOFF_SERVER", server));
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        if let Some(file) = file {
            let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
            file.write_all(&output.stdout).unwrap();
        }
    }
}

/// Goal: the commands publish three events, follow all three, and resume after the second, which
/// brings the third alone.
#[tokio::test]
async fn the_first_commands_of_the_readme_publish_follow_and_resume() {
    let readme = document("README.md");
    let begin = readme.split("## Quick start").nth(1).unwrap().split("\n## ").next().unwrap();
    let terminal = Terminal::open();
    let (mut published, mut followed) = (Vec::new(), Vec::new());
    for command in commands(begin).into_iter().filter(|command| command.starts_with("curl ")) {
        match terminal.curl(&words(&command, terminal.directory.path())).await {
            Shown::Answer(answer, body) => {
                assert_eq!(answer.status, 201, "{command}");
                published.extend(body);
            }
            Shown::Stream(mut stream) => {
                let mut shown = Vec::new();
                while shown.last() != published.last() {
                    shown.extend(soon(stream.find(Frame::is_event)).await.data);
                }
                followed.push(shown);
            }
        }
    }
    assert_eq!(published.len(), 3);
    assert_eq!(followed, [&published[..], &published[2..]]);
}

/// Goal: each command of each page works as written, one after the other, on a new broker.
#[tokio::test]
async fn every_command_of_every_page_works_as_it_is_written() {
    let mut tried = 0;
    for page in pages() {
        let commands = commands(&document(&page));
        if commands.is_empty() {
            continue;
        }
        let mut terminal = Terminal::open();
        for command in commands {
            let words = words(&command, terminal.directory.path());
            let borrowed: Vec<&str> = words.iter().map(String::as_str).collect();
            match borrowed[..] {
                ["curl", ..] => match terminal.curl(&words).await {
                    Shown::Answer(answer, _) => {
                        assert!(answer.status.is_success(), "{page}: {command}: {answer:?}");
                    }
                    Shown::Stream(mut stream) => {
                        assert_eq!(stream.status, 200, "{page}: {command}");
                        let event = tokio::time::timeout(PATIENCE, stream.find(Frame::is_event));
                        assert!(event.await.is_ok(), "{page}: {command} shows nothing");
                    }
                },
                ["cargo", "run", "--release", "--", ref arguments @ ..] => {
                    terminal.leftoff(arguments).await;
                }
                ["head", ..] => {
                    let mut shell = Command::new("sh");
                    shell.args(["-c", &command]).current_dir(terminal.directory.path());
                    assert!(output_of(&mut shell).status.success(), "{page}: {command}");
                }
                _ => panic!("{page}: this test cannot run {command}"),
            }
            tried += 1;
        }
    }
    assert!(tried > 40, "{tried}");
}

/// Returns the text of all Rust sources below `directory`.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => all.push_str(&sources(&path)),
            Some(extension) if extension == "rs" => {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
            _ => {}
        }
    }
    all
}

/// Goal: each test, bench, fuzz target and script that a page names exists.
#[test]
fn every_test_bench_and_script_that_a_page_names_is_there() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = document("Cargo.toml").parse().unwrap();
    let benches = manifest["bench"].as_array().unwrap();
    let benches: Vec<&str> = benches.iter().map(|bench| bench["name"].as_str().unwrap()).collect();
    let suite = document("tests/suite/main.rs");
    let code = [sources(&root.join("src")), sources(&root.join("tests"))].concat();
    let mut named = 0;
    for page in pages() {
        let text = document(&page);
        let prose: String = text.split("```").step_by(2).collect();
        let inline = prose.split('`').skip(1).step_by(2);
        for command in inline.filter(|code| code.contains("cargo ") || code.starts_with(".ci/")) {
            let words: Vec<&str> = command.split(' ').filter(|word| !word.contains('=')).collect();
            let is_there = match words[..] {
                ["cargo", "bench", "--bench", name, ..] => benches.contains(&name),
                ["cargo", "test", "--test", "suite", filter, ..] => {
                    let module = filter.trim_end_matches("::");
                    suite.contains(&format!("mod {module};"))
                }
                ["cargo", "test", "--lib", filter, ..] => {
                    let module = filter.trim_end_matches("::").rsplit("::").next().unwrap();
                    code.contains(&format!("mod {module};")) || module == "autobahn"
                }
                ["cargo", "test", "--benches" | "--doc"] => true,
                ["cargo", "test", "--manifest-path", path] => root.join(path).exists(),
                ["cargo", "fuzz"] | ["cargo", "test"] => true,
                [".ci/fuzz", _, target] => {
                    root.join(format!("tests/fuzz/targets/{target}.rs")).exists()
                }
                [script, ..] if script.starts_with(".ci/") => root.join(script).exists(),
                _ => panic!("{page}: this test does not know `{command}`"),
            };
            assert!(is_there, "{page}: `{command}`");
            named += 1;
        }
        let is_test = |name: &&str| {
            name.matches('_').count() > 3 && name.chars().all(|c| c == '_' || c.is_alphanumeric())
        };
        let is_setting = |name: &&str| code.contains(&format!("pub {name}: "));
        let names = text.split('`').filter(is_test).filter(|name| !name.starts_with("leftoff_"));
        let names = names.filter(|name| !is_setting(name));
        for name in names {
            assert!(code.contains(&format!("fn {name}(")), "{page}: there is no test {name}");
            named += 1;
        }
    }
    assert!(named > 60, "{named}");
}
