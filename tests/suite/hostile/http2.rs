//! HTTP/2 frames that break the rules of the protocol, one by one, and floods of frames that keep
//! them.
//!
//! The table covers the same rules as h2spec, but is not h2spec: its cases are those of RFC 9113
//! and RFC 7541 that h2spec's sections name, written anew. Where the RFC names a code for the end
//! of a connection, PROTOCOL_ERROR is accepted as well, which the library sends in most cases.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bystander::Bystander;
use super::{Chance, Open, peak_mib};
use crate::common::{Process, get, post, soon};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EVENTS: &str = "/v1/topics/a/events";
/// A long poll that is not answered before the test ends.
const WAIT: &str = "/v1/topics/a/events?from=latest&wait=20s";

// Kinds of frames, and their flags. Source: RFC 9113, 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

// Error codes. Source: RFC 9113, 7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

/// The outcome of a case.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// The connection ends with GOAWAY and this code, or PROTOCOL_ERROR.
    Ends(u32),
    /// One stream ends with this code, and the connection goes on.
    Resets(u32),
    /// The connection goes on, with all of its streams.
    GoesOn,
    /// The connection is closed without GOAWAY.
    Closes,
}
use Outcome::{Closes, Ends, GoesOn, Resets};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// Returns a header with a name from the static table, at `index`.
fn indexed(index: u8, value: &str) -> Vec<u8> {
    let name = if index < 15 { vec![index] } else { vec![15, index - 15] };
    [&name, &[value.len() as u8][..], value.as_bytes()].concat()
}

fn header(name: &str, value: &str) -> Vec<u8> {
    let (name_bytes, value_bytes) = ([0, name.len() as u8], [value.len() as u8]);
    [&name_bytes[..], name.as_bytes(), &value_bytes, value.as_bytes()].concat()
}

/// Returns the head of a request: `method` is 2 for GET and 3 for POST.
fn head(address: SocketAddr, method: u8, path: &str, more: &[Vec<u8>]) -> Vec<u8> {
    let scheme = vec![0x80 | method, 0x86];
    [&[scheme, indexed(4, path), indexed(1, &address.to_string())], more].concat().concat()
}

type Case = (&'static str, Outcome, Vec<Vec<u8>>);

/// Returns cases of frames with a wrong kind, length or place.
fn frames(address: SocketAddr) -> Vec<Case> {
    let get = || frame(HEADERS, 5, 1, &head(address, 2, WAIT, &[]));
    let post = || frame(HEADERS, END_HEADERS, 1, &head(address, 3, EVENTS, &[]));
    let begun = |stream| frame(HEADERS, END_STREAM, stream, &head(address, 2, WAIT, &[]));
    let other = |stream| frame(HEADERS, 5, stream, &head(address, 2, WAIT, &[]));
    let data = |stream| frame(DATA, END_STREAM, stream, b"x");
    let number = |n: u32| n.to_be_bytes().to_vec();
    let priority = |of: u32| [&of.to_be_bytes()[..], &[16]].concat();
    let reset = |stream| frame(RST_STREAM, 0, stream, &number(8));
    let widened = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let widest = (1 << 31) - 1;
    let own_priority = [priority(1), head(address, 2, WAIT, &[])].concat();
    let large = vec![0; 16_385];
    let block = head(address, 2, WAIT, &[]);
    vec![
        ("4.1: a frame of an unknown kind", GoesOn, vec![frame(0xf0, 0xff, 0, b"12345678")]),
        ("4.1: the reserved bit is set", GoesOn, vec![frame(PING, 0, 1 << 31, b"12345678")]),
        ("4.2: DATA too large", Ends(FRAME_SIZE_ERROR), vec![post(), frame(DATA, 0, 1, &large)]),
        ("4.2: HEADERS too large", Ends(FRAME_SIZE_ERROR), vec![frame(HEADERS, 5, 1, &large)]),
        (
            "4.3: a block that is none",
            Ends(COMPRESSION_ERROR),
            vec![frame(HEADERS, 5, 1, &[255; 6])],
        ),
        (
            "4.3: PRIORITY within a block",
            Ends(PROTOCOL_ERROR),
            vec![begun(1), frame(PRIORITY, 0, 1, &priority(0))],
        ),
        ("4.3: HEADERS within a block", Ends(PROTOCOL_ERROR), vec![begun(1), other(3)]),
        ("5.1: DATA on an idle stream", Ends(PROTOCOL_ERROR), vec![data(1)]),
        ("5.1: RST_STREAM on an idle stream", Ends(PROTOCOL_ERROR), vec![reset(1)]),
        ("5.1: WINDOW_UPDATE on an idle stream", Ends(PROTOCOL_ERROR), vec![widened(1, 9)]),
        ("5.1: DATA after the end", Ends(STREAM_CLOSED), vec![get(), data(1)]),
        ("5.1: HEADERS after the end", Ends(STREAM_CLOSED), vec![get(), get()]),
        ("5.1: DATA after RST_STREAM", Resets(STREAM_CLOSED), vec![post(), reset(1), data(1)]),
        ("5.1: HEADERS after RST_STREAM", Ends(STREAM_CLOSED), vec![post(), reset(1), get()]),
        ("5.1.1: a stream of an even number", Ends(PROTOCOL_ERROR), vec![other(2)]),
        ("5.1.1: a lower number than before", Ends(PROTOCOL_ERROR), vec![other(5), other(3)]),
        (
            "5.3.1: a stream depends on itself",
            Resets(PROTOCOL_ERROR),
            vec![frame(HEADERS, WITH_PRIORITY | 5, 1, &own_priority)],
        ),
        ("6.1: DATA on stream 0", Ends(PROTOCOL_ERROR), vec![data(0)]),
        (
            "6.1: more padding than DATA",
            Ends(PROTOCOL_ERROR),
            vec![post(), frame(DATA, PADDED, 1, b"\x06xxxxx")],
        ),
        ("6.2: HEADERS on stream 0", Ends(PROTOCOL_ERROR), vec![other(0)]),
        (
            "6.2: more padding than HEADERS",
            Ends(PROTOCOL_ERROR),
            vec![frame(HEADERS, PADDED | 5, 1, b"\xff\x82")],
        ),
        ("6.3: PRIORITY on stream 0", Ends(PROTOCOL_ERROR), vec![frame(2, 0, 0, &priority(1))]),
        ("6.3: PRIORITY of 4 bytes", Ends(FRAME_SIZE_ERROR), vec![frame(2, 0, 1, &number(1))]),
        ("6.4: RST_STREAM on stream 0", Ends(PROTOCOL_ERROR), vec![reset(0)]),
        (
            "6.4: RST_STREAM of 3 bytes",
            Ends(FRAME_SIZE_ERROR),
            vec![post(), frame(3, 0, 1, b"123")],
        ),
        ("6.5: SETTINGS on a stream", Ends(PROTOCOL_ERROR), vec![frame(SETTINGS, 0, 1, &[])]),
        (
            "6.5: an answer with a setting",
            Ends(FRAME_SIZE_ERROR),
            vec![frame(SETTINGS, 1, 0, b"x")],
        ),
        ("6.5: half a setting", Ends(FRAME_SIZE_ERROR), vec![frame(SETTINGS, 0, 0, b"123")]),
        ("6.5.2: ENABLE_PUSH is 2", Ends(PROTOCOL_ERROR), vec![setting(2, 2)]),
        ("6.5.2: a window of 2^31", Ends(FLOW_CONTROL_ERROR), vec![setting(4, 1 << 31)]),
        ("6.5.2: frames of 16,383", Ends(PROTOCOL_ERROR), vec![setting(5, 16_383)]),
        ("6.5.2: frames of 2^24", Ends(PROTOCOL_ERROR), vec![setting(5, 1 << 24)]),
        ("6.5.2: an unknown setting", GoesOn, vec![setting(255, 1)]),
        (
            "6.6: a client pushes",
            Ends(PROTOCOL_ERROR),
            vec![post(), frame(PUSH_PROMISE, END_HEADERS, 1, &[number(2), block.clone()].concat())],
        ),
        ("6.7: PING on a stream", Ends(PROTOCOL_ERROR), vec![frame(PING, 0, 1, b"12345678")]),
        ("6.7: PING of 6 bytes", Ends(FRAME_SIZE_ERROR), vec![frame(PING, 0, 0, b"123456")]),
        ("6.7: an answer to no PING", GoesOn, vec![frame(PING, 1, 0, b"12345678")]),
        ("6.8: GOAWAY on a stream", Ends(PROTOCOL_ERROR), vec![frame(GOAWAY, 0, 1, &[0; 8])]),
        ("6.9: a window widened by 0", Ends(PROTOCOL_ERROR), vec![widened(0, 0)]),
        ("6.9: WINDOW_UPDATE of 3 bytes", Ends(FRAME_SIZE_ERROR), vec![frame(8, 0, 0, b"123")]),
        ("6.9.1: a window over 2^31", Ends(FLOW_CONTROL_ERROR), vec![widened(0, widest); 2]),
        (
            "6.9.1: a stream's window over 2^31",
            Resets(FLOW_CONTROL_ERROR),
            vec![post(), widened(1, widest), widened(1, widest)],
        ),
        (
            "6.9.2: a setting widens a window over 2^31",
            Ends(FLOW_CONTROL_ERROR),
            vec![post(), widened(1, widest - 65_535), setting(4, widest)],
        ),
        ("6.10: CONTINUATION of nothing", Ends(PROTOCOL_ERROR), vec![frame(9, 4, 1, &block)]),
        (
            "6.10: CONTINUATION after the end",
            Ends(PROTOCOL_ERROR),
            vec![post(), frame(9, 4, 1, &[])],
        ),
        (
            "6.10: CONTINUATION on stream 0",
            Ends(PROTOCOL_ERROR),
            vec![begun(1), frame(CONTINUATION, END_HEADERS, 0, &[])],
        ),
    ]
}

/// Returns cases of heads that no request may have.
fn heads(address: SocketAddr) -> Vec<Case> {
    let request = |block: Vec<u8>| vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)];
    let with = |name, value| request(head(address, 2, WAIT, &[header(name, value)]));
    let raw = |block: &[u8]| request(head(address, 2, WAIT, &[block.to_vec()]));
    let before = |block: &[u8]| request([block, &head(address, 2, WAIT, &[])].concat());
    let (path, authority) = (indexed(4, WAIT), indexed(1, &address.to_string()));
    let pieces = |pieces: &[&[u8]]| request(pieces.concat());
    let body = |length: &[&str], data: &str| {
        let lengths: Vec<_> = length.iter().map(|n| header("content-length", n)).collect();
        let block = head(address, 3, EVENTS, &lengths);
        vec![frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, END_STREAM, 1, data.as_bytes())]
    };
    let mut no_end = body(&[], "x");
    no_end[1] = frame(DATA, 0, 1, b"x");
    no_end.push(frame(HEADERS, END_HEADERS, 1, &header("a", "b")));
    vec![
        ("8.1: trailers that are not the end", Resets(PROTOCOL_ERROR), no_end),
        ("8.1.1: less than content-length", Resets(PROTOCOL_ERROR), body(&["9"], "test")),
        ("8.1.1: more than content-length", Resets(PROTOCOL_ERROR), body(&["1"], "test")),
        ("8.1.1: two content-lengths", Resets(PROTOCOL_ERROR), body(&["4", "5"], "test")),
        ("8.2.1: a name in capitals", Ends(PROTOCOL_ERROR), with("X-Test", "a")),
        ("8.2.1: NUL in a value", Ends(PROTOCOL_ERROR), with("x", "a\0b")),
        ("8.2.1: a line end in a value", Ends(PROTOCOL_ERROR), with("x", "a\r\nb: c")),
        ("8.2.2: connection", Resets(PROTOCOL_ERROR), with("connection", "keep-alive")),
        ("8.2.2: te", Resets(PROTOCOL_ERROR), with("te", "gzip")),
        ("8.2.2: transfer-encoding", Resets(PROTOCOL_ERROR), with("transfer-encoding", "chunked")),
        ("8.3: an unknown pseudo-header", Ends(PROTOCOL_ERROR), with(":test", "a")),
        ("8.3: one of answers", Resets(PROTOCOL_ERROR), with(":status", "200")),
        (
            "8.3: one after the others",
            Resets(PROTOCOL_ERROR),
            pieces(&[b"\x82\x86", &header("a", "b"), &path, &authority]),
        ),
        (
            "8.3.1: an empty path",
            Resets(PROTOCOL_ERROR),
            pieces(&[b"\x82\x86", &indexed(4, ""), &authority]),
        ),
        ("8.3.1: no method", Resets(PROTOCOL_ERROR), pieces(&[b"\x86", &path, &authority])),
        ("8.3.1: no scheme", Resets(PROTOCOL_ERROR), pieces(&[b"\x82", &path, &authority])),
        ("8.3.1: no path", Resets(PROTOCOL_ERROR), pieces(&[b"\x82\x86", &authority])),
        ("8.3.1: two methods", Resets(PROTOCOL_ERROR), before(b"\x82")),
        ("8.3.1: two paths", Resets(PROTOCOL_ERROR), raw(&path)),
        ("HPACK 2.3.3: index 0", Ends(COMPRESSION_ERROR), before(b"\x80")),
        ("HPACK 2.3.3: an index of nothing", Ends(COMPRESSION_ERROR), before(b"\xc6")),
        ("HPACK 4.2: a size at the end", Ends(COMPRESSION_ERROR), raw(b"\x20")),
        ("HPACK 5.1: an endless number", Ends(COMPRESSION_ERROR), before(&[255; 20])),
        (
            "HPACK 5.2: a byte of padding",
            Ends(COMPRESSION_ERROR),
            raw(b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
        ),
        (
            "HPACK 5.2: padding of zeros",
            Ends(COMPRESSION_ERROR),
            raw(b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
        ),
        (
            "HPACK 5.2: the end of a string in it",
            Ends(COMPRESSION_ERROR),
            raw(b"\x00\x85\xf2\xb2\x4a\x84\xff\x88\x49\x50\x9f\xff\xff\xff\xff\xff"),
        ),
        ("HPACK 6.3: a table too large", Ends(COMPRESSION_ERROR), before(b"\x3f\xff\xff\x03")),
    ]
}

/// Sends `bytes` and then a PING, and returns the outcome.
async fn outcome(address: SocketAddr, bytes: &[u8], chance: &Chance) -> Outcome {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (mut read, mut write) = socket.into_split();
    let ping = frame(PING, 0, 0, b"are you?");
    // The broker may close the connection before all is sent; its answers can still be read.
    let sent = [bytes, &ping].concat();
    let _closed = soon(chance.send(&mut write, &sent)).await;
    let (mut gone, mut reset, mut answered) = (None, None, false);
    let mut head = [0; 9];
    while soon(read.read_exact(&mut head)).await.is_ok() {
        let [_, a, b, kind, flags, ..] = head;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([a, b]))];
        if soon(read.read_exact(&mut payload)).await.is_err() {
            break;
        }
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            GOAWAY => gone = Some(code(4)),
            RST_STREAM => reset = Some(code(0)),
            PING if flags == 1 && payload == b"are you?" && !answered => {
                answered = true;
                // The outcome may arrive after this answer. A second PING is answered after the
                // outcome.
                let again = frame(PING, 0, 0, b"and now?");
                let _closed = soon(write.write_all(&again)).await;
            }
            PING if flags == 1 && payload == b"and now?" => {
                return reset.map_or(GoesOn, Resets);
            }
            _ => {}
        }
    }
    gone.map_or(Closes, Ends)
}

/// Goal: a broken rule of HTTP/2 ends its stream or its connection, with a code, and nothing else;
/// other clients are served as before.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_rules_of_http2_end_their_stream_or_their_connection() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    assert_eq!(post(address, EVENTS, "x").await.status, StatusCode::CREATED);
    let before = Open::now(&process).await;
    let (bystander, chance) = (Bystander::start(address).await, Chance::new());
    let all = || async {
        let beginning = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let cases = frames(address).into_iter().chain(heads(address));
        for (name, expected, frames) in chance.shuffled(cases) {
            let found =
                outcome(address, &[&beginning, &frames.concat()[..]].concat(), &chance).await;
            let is_general = matches!((found, expected), (Ends(PROTOCOL_ERROR), Ends(_)));
            assert!(found == expected || is_general, "{name}: {found:?}, not {expected:?}");
        }
        let wrong = outcome(address, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &chance).await;
        assert_eq!(wrong, Closes, "3.4: a preface that is none");
    };
    bystander.assert_unhurt(all).await;
    let too_many: Vec<u8> = (0..2_000)
        .flat_map(|n| frame(HEADERS, 5, 2 * n + 1, &head(address, 2, WAIT, &[])))
        .collect();
    let flood = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &too_many].concat();
    let found = outcome(address, &flood, &chance).await;
    assert_eq!(found, Resets(REFUSED_STREAM), "5.1.2: more streams than the limit");
    drop(bystander);
    before.assert_restored(&process).await;
}

/// Sends `more` again and again, and reads nothing, until the broker closes or all is sent.
async fn flood(address: SocketAddr, beginning: Vec<u8>, mut more: impl FnMut(u32) -> Vec<u8>) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let beginning = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &beginning].concat();
    socket.write_all(&beginning).await.unwrap();
    let sent = async {
        for number in 0..2_000 {
            socket.write_all(&more(number)).await?;
        }
        std::io::Result::Ok(())
    };
    // A sender that the broker no longer reads from gives up after this time.
    let _ended_or_sent = tokio::time::timeout(Duration::from_secs(2), sent).await;
}

/// Goal: floods that are cheap for their sender are cheap for the broker, and do not affect others.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_hold_nobody_up_and_take_little_memory() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    assert_eq!(post(address, EVENTS, "x").await.status, StatusCode::CREATED);
    let (before, memory) = (Open::now(&process).await, peak_mib(process.id()));
    let bystander = Bystander::start(address).await;
    let reset = |n: u32| {
        let stream = 2 * n + 1;
        let request = frame(HEADERS, 5, stream, &head(address, 2, WAIT, &[]));
        [request, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    // A header of 4,000 bytes enters the table once, and each byte after it repeats the header.
    let large = [&[0x40, 1, b'a', 127, 0xa1, 30][..], &[b'x'; 4_000], &[0xbe; 12_000]].concat();
    let bomb = |n: u32| {
        let block = head(address, 2, WAIT, std::slice::from_ref(&large));
        frame(HEADERS, 5, 2 * n + 1, &block[..block.len().min(16_384)])
    };
    let begun = frame(HEADERS, END_STREAM, 1, &head(address, 2, WAIT, &[]));
    let uploads = frame(HEADERS, END_HEADERS, 1, &head(address, 3, EVENTS, &[]));
    let all = || async {
        let rapid_reset = flood(address, vec![], reset);
        let hpack = flood(address, vec![], bomb);
        let endless = flood(address, begun.clone(), |_| frame(CONTINUATION, 0, 1, &[0; 16_384]));
        let empty = flood(address, begun.clone(), |_| frame(CONTINUATION, 0, 1, &[]).repeat(100));
        let settings = flood(address, vec![], |_| setting(4, 65_535).repeat(100));
        let pings = flood(address, vec![], |_| frame(PING, 0, 0, b"12345678").repeat(100));
        let nothing = flood(address, uploads.clone(), |_| frame(DATA, 0, 1, &[]).repeat(100));
        tokio::join!(rapid_reset, hpack, endless, empty, settings, pings, nothing);
    };
    bystander.assert_unhurt(all).await;
    let peak = peak_mib(process.id());
    assert!(peak < memory + 64, "from {memory} to {peak} MiB");
    drop(bystander);
    before.assert_restored(&process).await;
    assert_eq!(get(address, EVENTS).await.status, StatusCode::OK);
}
