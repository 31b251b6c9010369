//! The first commands of the README: whoever types them sees what it says.

use crate::common::{Server, Sse, send, soon, to};

/// The words of a command, as a shell parts them: by blanks, but for what is in single quotes.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    for character in command.chars() {
        match character {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words
}

/// Goal: three events are published, all three are followed, and the third alone comes to whoever
/// resumes after the second.
#[tokio::test]
async fn the_first_commands_of_the_readme_publish_follow_and_resume() {
    let readme = include_str!("../../README.md");
    let commands = readme.lines().filter(|line| line.starts_with("curl "));
    let server = Server::start().await;
    let mut followed = Vec::new();
    let mut published = Vec::new();
    for command in commands {
        let words = words(command);
        let after = |flag: &str| {
            let flags = words.iter().zip(&words[1..]).filter(move |(word, _)| *word == flag);
            flags.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let path = words.last().unwrap().strip_prefix("http://127.0.0.1:4280").unwrap();
        let body = after("-d").first().cloned();
        let method = if body.is_some() { "POST" } else { "GET" };
        let with = |request: http::request::Builder, header: &String| {
            let (name, value) = header.split_once(": ").unwrap();
            request.header(name, value)
        };
        let request = after("-H").iter().fold(to(server.address, method, path), with);
        match body {
            Some(body) => {
                assert_eq!(send(request, body.clone()).await.status, 201, "{command}");
                published.push(body);
            }
            None => {
                let mut stream = Sse::open(request).await.unwrap();
                let mut shown = Vec::new();
                while shown.last() != published.last() {
                    let frame = soon(stream.next()).await.unwrap();
                    if !frame.event.as_deref().unwrap_or_default().starts_with("leftoff.") {
                        shown.extend(frame.data);
                    }
                }
                followed.push(shown);
            }
        }
    }
    assert_eq!(published.len(), 3);
    assert_eq!(followed, [&published[..], &published[2..]]);
}
