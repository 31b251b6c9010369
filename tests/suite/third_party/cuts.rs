//! Event streams that are cut in the middle of a block: a client that resumes gets that event.
//!
//! Some clients take an id over when they have read its line, and not at the end of its block, as
//! the standard says. If the id came before the data, such a client would resume after an event
//! that it never handed on.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::client::{Client, Installed};
use super::event_streams::{NPM, PYPI};
use super::story::{EVENTS, Story};
use crate::common::seed;

/// A client that puts the data of a cut block before the data of the next one, whatever is sent.
/// When it reconnects, it keeps all that it had read of a block except for the last line.
const GLUES: &str = "eventsource-2";

/// The largest number of bytes before a cut: it falls in the head, in a block, or a few blocks
/// later.
const MAX_BYTES: usize = 20_000;

/// Passes connections on to the broker at `to`, and cuts each.
async fn cut(listener: TcpListener, to: SocketAddr, mut random: StdRng) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(pass_on(client, to, random.random_range(1..MAX_BYTES)));
    }
}

/// Passes on `max_bytes` of the answer, or a few more, and ends both sides. The end of one side
/// also ends the other.
async fn pass_on(mut client: TcpStream, to: SocketAddr, max_bytes: usize) -> std::io::Result<()> {
    let mut broker = TcpStream::connect(to).await?;
    let (mut requests, mut answers) = client.split();
    let (mut from_broker, mut to_broker) = broker.split();
    let asking = tokio::io::copy(&mut requests, &mut to_broker);
    let answering = async {
        let (mut answer, mut sent) = (Vec::new(), 0);
        loop {
            if from_broker.read_buf(&mut answer).await? == 0 {
                return Ok(());
            }
            let mut end = answer.len().min(max_bytes.max(sent));
            while end < answer.len() && ends_with_id(&answer[..end]) {
                end += 1;
            }
            answers.write_all(&answer[sent..end]).await?;
            sent = end;
            if sent >= max_bytes && !ends_with_id(&answer[..sent]) {
                return Ok(());
            }
        }
    };
    tokio::select! {
        asked = asking => asked.map(drop),
        answered = answering => answered,
    }
}

/// Whether the last line is a whole `id:`. No order of lines could save a client that is cut
/// between this line and the end of its block, and that takes the id over.
fn ends_with_id(answer: &[u8]) -> bool {
    let Some(lines) = answer.strip_suffix(b"\n") else { return false };
    let start = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    lines[start..].starts_with(b"id:")
}

/// Goal: each client gets every acknowledged event once and in order, although its stream is cut
/// again and again, at any byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_that_are_cut_in_a_block_show_what_was_acknowledged() {
    let Some(installed) = Installed::find() else { return };
    let story = Story::begin().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{EVENTS}?from=earliest", listener.local_addr().unwrap());
    let random = StdRng::seed_from_u64(seed());
    let cutting = tokio::spawn(cut(listener, story.address, random));
    let npm = NPM
        .iter()
        .filter(|name| **name != GLUES)
        .map(|name| installed.node(name, "event_stream.cjs", &[name, &url]));
    let pypi = PYPI.iter().map(|name| installed.python(name, "event_stream.py", &[name, &url]));
    let clients: Vec<Client> = npm.chain(pypi).collect();
    let acknowledged = story.acknowledged();
    for client in &clients {
        client.saw(acknowledged.len() as u64).await;
        client.saw_all(&acknowledged);
    }
    cutting.abort();
}
