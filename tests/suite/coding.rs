//! Compressed bodies: an upload is stored decompressed, within the limits, and pages are compressed
//! for clients that accept it.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::common::{Answer, Server, get, read_all, send, to};

const EVENTS: &str = "/v1/topics/a/events";

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Encodes `body` with the zlib header of the standard, and without it.
fn deflate(body: &[u8]) -> [Vec<u8>; 2] {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(body).unwrap();
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
    raw.write_all(body).unwrap();
    [zlib.finish().unwrap(), raw.finish().unwrap()]
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::encode_all(body, 3).unwrap()
}

async fn post_coded(server: &Server, path: &str, fields: [&str; 2], body: Vec<u8>) -> Answer {
    let [media, coding] = fields;
    let request = to(server.address, "POST", path).header("content-type", media);
    send(request.header("content-encoding", coding), body).await
}

/// Goal: an upload is stored decompressed, so that no reader gets compressed bytes as JSON.
#[tokio::test]
async fn an_upload_that_is_compressed_is_stored_as_what_it_is() {
    let server = Server::start().await;
    let hello = vec![0x0b, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03];
    let [zlib, raw] = deflate(b"hello");
    let uploads = [
        ("gzip", gzip(b"hello")),
        ("x-gzip", gzip(b"hello")),
        ("GZIP", [gzip(b"hel"), gzip(b"lo")].concat()),
        ("deflate", zlib),
        ("deflate", raw),
        ("br", hello),
        ("zstd", zstd(b"hello")),
        ("identity", b"hello".to_vec()),
    ];
    let count = uploads.len() as u64;
    for (coding, body) in uploads {
        let answer = post_coded(&server, EVENTS, ["text/plain", coding], body).await;
        assert_eq!(answer.status, 201, "{coding}: {}", answer.json());
    }
    let expected: Vec<(u64, String)> = (1..=count).map(|n| (n, "hello".to_owned())).collect();
    assert_eq!(read_all(server.address, "a").await, expected);
    // Every kind of request body may be compressed.
    let lines = gzip(b"{\"data\":1}\n{\"data\":2}\n");
    let fields = ["application/x-ndjson", "gzip"];
    for query in ["", "?atomic=true"] {
        let answer = post_coded(&server, &format!("{EVENTS}{query}"), fields, lines.clone()).await;
        assert_eq!(answer.json()["count"], 2);
    }
    let settings = to(server.address, "PUT", "/v1/topics/b").header("content-encoding", "gzip");
    assert_eq!(send(settings, gzip(b"{\"max_events\":5}")).await.json()["config"]["max_events"], 5);
    let cloudevent = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
    let fields = ["application/cloudevents+json", "zstd"];
    assert_eq!(post_coded(&server, EVENTS, fields, zstd(cloudevent)).await.status, 201);
    let asked = to(server.address, "POST", "/v1/events").header("content-encoding", "gzip");
    let page = send(asked, gzip(b"{\"topics\":[\"a\"],\"from\":\"earliest\"}")).await.json();
    assert_eq!(page["events"].as_array().unwrap().len() as u64, count + 5);
    server.stop().await;
}

/// Goal: a body that cannot be decoded, or is too large decompressed, stores nothing, and the
/// refusal says why.
#[tokio::test]
async fn an_upload_that_cannot_be_decoded_is_refused_and_a_bomb_is_cut_off() {
    let server = Server::start().await;
    for coding in ["compress", "gzip, gzip", "snappy"] {
        let refused = post_coded(&server, EVENTS, ["text/plain", coding], gzip(b"x")).await;
        assert_eq!(refused.status, 415, "{coding}");
        assert_eq!(refused.header("accept-encoding"), "gzip, deflate, br, zstd");
        assert!(refused.json()["detail"].as_str().unwrap().contains("write one of gzip"));
    }
    // Empty list elements, and `identity`, do not count as a second coding.
    let listed = ["GZIP", ", gzip,", "identity, gzip"];
    for (coding, sequence) in listed.into_iter().zip(1..) {
        let path = "/v1/topics/listed/events";
        let stored = post_coded(&server, path, ["text/plain", coding], gzip(b"x")).await;
        assert_eq!((stored.status.as_u16(), &stored.json()["sequence"]), (201, &sequence.into()));
        let page = get(server.address, &format!("{path}?limit=1&after={}", sequence - 1)).await;
        assert_eq!(page.json()["events"][0]["data"], "x", "{coding}");
    }
    let cut = gzip(&[7; 1_000]);
    let broken = [
        ("gzip", cut[..cut.len() - 4].to_vec()),
        ("gzip", b"{}".to_vec()),
        ("zstd", b"{}".to_vec()),
        ("br", vec![0xff; 20]),
        ("deflate", vec![0xff; 20]),
    ];
    for (coding, body) in broken {
        let refused = post_coded(&server, EVENTS, ["text/plain", coding], body).await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{coding}: {detail}");
        assert!(detail.starts_with(&format!("body: is not valid {coding}")), "{detail}");
    }
    let large = vec![b'x'; (1 << 20) + 1];
    let bomb = vec![0; 256 << 20];
    for body in [gzip(&large), zstd(&large), gzip(&bomb), zstd(&bomb)] {
        let coding = if body.starts_with(&[0x1f]) { "gzip" } else { "zstd" };
        assert!(body.len() < 1 << 20);
        let refused = post_coded(&server, EVENTS, ["text/plain", coding], body).await;
        assert_eq!(refused.status, 413, "{}", refused.json());
        assert!(refused.json()["value"].as_u64() < Some(64 << 20), "{}", refused.json());
    }
    // A window of 128 MiB, which no client needs.
    let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(b"x").unwrap();
    wide.flush().unwrap();
    let wide = wide.finish().unwrap();
    assert_eq!(post_coded(&server, EVENTS, ["text/plain", "zstd"], wide).await.status, 400);
    assert_eq!(get(server.address, EVENTS).await.status, 404, "nothing was stored");
    server.stop().await;
}

/// Goal: an empty body is refused if it is declared compressed, and so is a body with bytes after
/// its compressed end: no part of a request is dropped in silence.
#[tokio::test]
async fn an_empty_body_is_no_stream_of_a_coding_and_nothing_may_follow_the_end_of_one() {
    let server = Server::start().await;
    for coding in ["gzip", "x-gzip", "deflate", "br", "zstd"] {
        let refused = post_coded(&server, &format!("{EVENTS}?key=k"), ["", coding], vec![]).await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{coding}: {detail}");
        assert_eq!(detail, format!("body: is not valid {coding}: the body is empty"));
    }
    let unknown = post_coded(&server, EVENTS, ["text/plain", "foo"], vec![]).await;
    assert_eq!(unknown.status, 415);
    let hello = vec![0x0b, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03];
    let [zlib, raw] = deflate(b"hello");
    let streams = [
        ("gzip", gzip(b"hello")),
        ("zstd", zstd(b"hello")),
        ("br", hello),
        ("deflate", zlib),
        ("deflate", raw),
    ];
    for (coding, body) in streams {
        let more = [&body[..], b"more"].concat();
        let cut = body[..body.len() - 1].to_vec();
        for (what, body) in [("more", more), ("cut", cut)] {
            let refused = post_coded(&server, EVENTS, ["text/plain", coding], body).await;
            assert_eq!(refused.status, 400, "{coding}, {what}: {}", refused.json());
        }
    }
    assert_eq!(get(server.address, EVENTS).await.status, 404, "nothing was stored");
    // A GET request has no body to decode, so its `Content-Encoding` is ignored.
    let asked = to(server.address, "GET", "/v1/topics").header("content-encoding", "gzip");
    assert_eq!(send(asked, "").await.status, 200);
    server.stop().await;
}

async fn get_coded(server: &Server, path: &str, accept: &str, tag: &str) -> Answer {
    let request = to(server.address, "GET", path).header("accept-encoding", accept);
    send(request.header("if-none-match", tag), "").await
}

fn decoded(answer: &Answer) -> Value {
    let body = match answer.header("content-encoding") {
        "gzip" => {
            let mut body = Vec::new();
            GzDecoder::new(&answer.body[..]).read_to_end(&mut body).unwrap();
            body
        }
        "zstd" => zstd::decode_all(&answer.body[..]).unwrap(),
        _ => answer.body.to_vec(),
    };
    serde_json::from_slice(&body).unwrap()
}

/// Goal: a compressed page takes less than a tenth of the bytes, has the same content, and has an
/// entity tag of its own.
#[tokio::test]
async fn pages_are_compressed_for_whoever_wants_that_and_tags_and_vary_agree() {
    let server = Server::start().await;
    let payload = "{\"magnitude\":5.3,\"place\":\"somewhere\"}".repeat(20);
    for _ in 0..400 {
        server.publish("a", payload.clone()).await;
    }
    for limit in [20, 400] {
        let path = format!("{EVENTS}?limit={limit}");
        let plain = get(server.address, &path).await;
        let expected = plain.json();
        assert_eq!(plain.header("content-encoding"), "");
        let mut tags = vec![plain.header("etag").to_owned()];
        for (accept, coding) in [("gzip, deflate, br", "gzip"), ("gzip, deflate, br, zstd", "zstd")]
        {
            let answer = get_coded(&server, &path, accept, "\"none\"").await;
            assert_eq!((answer.status.as_u16(), answer.header("content-encoding")), (200, coding));
            assert_eq!(answer.header("vary"), "accept, accept-encoding, last-event-id");
            assert!(answer.body.len() < plain.body.len() / 10, "{}", answer.body.len());
            assert_eq!(decoded(&answer), expected, "{coding} {limit}");
            let tag = answer.header("etag").to_owned();
            if limit == 20 {
                let known = get_coded(&server, &path, accept, &tag).await;
                assert_eq!((known.status.as_u16(), known.header("etag")), (304, &*tag));
                for other in &tags {
                    assert_ne!(*other, tag, "each coding has a tag of its own");
                    assert_eq!(get_coded(&server, &path, accept, other).await.status, 200);
                }
            }
            tags.push(tag);
        }
        for accept in ["identity", "br", "gzip;q=0"] {
            let answer = get_coded(&server, &path, accept, "\"none\"").await;
            assert_eq!((answer.header("content-encoding"), answer.json()), ("", expected.clone()));
        }
    }
    let short = get_coded(&server, &format!("{EVENTS}?from=latest"), "gzip", "\"none\"").await;
    assert_eq!((short.header("content-encoding"), &short.json()["events"]), ("", &json!([])));
    let state = get_coded(&server, "/v1/topics/a/state", "gzip", "\"none\"").await;
    assert_eq!(decoded(&state)["events"].as_array().map(Vec::len), Some(0));
    server.stop().await;
}

/// Goal: an event stream is never compressed, so no event waits in an encoder.
#[tokio::test]
async fn a_stream_is_never_compressed() {
    let server = Server::start().await;
    server.publish("a", "x".repeat(5_000)).await;
    let (head, mut socket) = {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let asked = format!(
            "GET {EVENTS}?from=earliest HTTP/1.1\r\nHost: localhost\r\n\
             Accept: text/event-stream\r\nAccept-Encoding: gzip, zstd\r\n\r\n"
        );
        socket.write_all(asked.as_bytes()).await.unwrap();
        let mut head = vec![0; 1_000];
        crate::common::soon(socket.read_exact(&mut head)).await.unwrap();
        (crate::common::text(&head), socket)
    };
    assert!(head.contains("text/event-stream"), "{head}");
    assert!(!head.contains("content-encoding"), "{head}");
    tokio::io::AsyncWriteExt::shutdown(&mut socket).await.unwrap();
    drop(socket);
    server.stop().await;
}
