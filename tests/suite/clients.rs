//! The connected clients: limits with clear refusals, and a list of what each client follows, and
//! how far behind it is.

use leftoff::config::Config;
use serde_json::json;

use crate::common::{Server, Sse, get, post, soon, to};

#[tokio::test]
async fn a_connection_over_a_limit_is_told_why_and_when_to_come_back() {
    for (in_all, status, words) in [(true, 503, "2 connections already"), (false, 429, "address")] {
        let mut config = Config::default();
        match in_all {
            true => config.server.max_connections = 2,
            false => config.server.max_connections_per_address = 2,
        }
        let server = Server::with(config).await;
        let mut first = Sse::follow(server.address, "a", "").await;
        soon(first.next()).await.unwrap();
        let mut second = Sse::follow(server.address, "a", "").await;
        soon(second.next()).await.unwrap();
        let refused = get(server.address, "/healthz").await;
        assert_eq!(refused.status.as_u16(), status);
        let seconds: u64 = refused.header("retry-after").parse().unwrap();
        assert!((5..=10).contains(&seconds), "{seconds}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(words), "{refused:?}");
        // A browser's `EventSource` would give up for good at a status other than 200.
        let mut refused = Sse::follow(server.address, "a", "").await;
        assert_eq!(refused.status, 200);
        let seconds: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
        let frames = soon(refused.rest()).await;
        let [told] = &frames[..] else { panic!("{frames:?}") };
        assert!(told.is_control("leftoff.error"), "{told:?}");
        let retry_ms = told.retry.unwrap();
        assert!((seconds * 1_000..=seconds * 1_500).contains(&retry_ms), "{seconds} {retry_ms}");
        assert_eq!(told.json()["status"], status);
        assert!(told.json()["detail"].as_str().unwrap().contains(words), "{told:?}");
        drop(second);
        let again = async {
            while get(server.address, "/healthz").await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        soon(again).await;
    }
}

/// Goal: clients whose streams end because the broker stops do not reconnect all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_streams_one_after_the_other_and_tells_each_another_time_to_come_back() {
    const CLIENTS: usize = 300;
    let server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = Sse::follow(server.address, "a", "").await;
        soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
        streams.push(stream);
    }
    let started = std::time::Instant::now();
    let stopping = tokio::spawn(server.stop());
    let ends = streams.into_iter().map(|mut stream| {
        tokio::spawn(async move {
            let frames = soon(stream.rest()).await;
            (started.elapsed(), frames.last().and_then(|frame| frame.retry).unwrap())
        })
    });
    let ends = futures_util::future::join_all(ends).await;
    let ends: Vec<_> = ends.into_iter().map(|end| end.unwrap()).collect();
    soon(stopping).await.unwrap();
    let first = ends.iter().map(|(at, _)| *at).min().unwrap();
    let last = ends.iter().map(|(at, _)| *at).max().unwrap();
    // The 300 ends are spread at random over 300 ms: all of them within 100 ms is as good as
    // impossible.
    assert!(last - first > std::time::Duration::from_millis(100), "{first:?} to {last:?}");
    let retries: std::collections::BTreeSet<u64> = ends.iter().map(|(_, retry)| *retry).collect();
    assert!(retries.len() > CLIENTS / 2, "{} different times", retries.len());
}

#[tokio::test]
async fn connections_are_listed_with_what_they_follow_and_how_far_behind_they_are() {
    let server = Server::start().await;
    let refused = get(server.address, "/v1/connections").await;
    assert_eq!(refused.status, 403, "the list is off by default");
    let mut config = Config::default();
    config.follow.list_connections = true;
    let server = Server::with(config).await;
    for data in ["1", "2"] {
        assert_eq!(post(server.address, "/v1/topics/a/events", data).await.status, 201);
    }
    let mut one = Sse::follow(server.address, "a", "?from=earliest").await;
    soon(one.events(2)).await;
    let path = "/v1/events?topic=a&topic=b.*&from=@1";
    let mut many = Sse::open(to(server.address, "GET", path)).await.unwrap();
    soon(many.events_of_many(1)).await;
    let listed = get(server.address, "/v1/connections").await.json();
    let connections = listed["connections"].as_array().unwrap();
    let streams: Vec<_> = connections
        .iter()
        .filter(|connection| connection["streams"] != json!([]))
        .map(|connection| {
            assert!(connection["address"].as_str().unwrap().starts_with("127.0.0.1:"));
            assert!(connection["sent_bytes"].as_u64().unwrap() > 100, "{connection}");
            connection["streams"][0].clone()
        })
        .collect();
    let epoch = server.broker.epoch();
    let (one_place, many_place) = (format!("2-{epoch}"), format!("@2-{epoch}"));
    let expected = [
        json!({"protocol": "sse", "topics": "a", "cursor": one_place, "lag": 0}),
        json!({"protocol": "sse", "topics": "a b.*", "cursor": many_place, "lag": 0}),
    ];
    assert_eq!(streams, expected);
    drop((one, many));
    let gone = async {
        loop {
            let listed = get(server.address, "/v1/connections").await.json();
            let connections = listed["connections"].as_array().unwrap();
            if connections.iter().all(|connection| connection["streams"] == json!([])) {
                return;
            }
        }
    };
    soon(gone).await;
}
