//! Streams for browsers, polyfills, proxies and moved pages: nothing that they send with a request
//! ends a stream for good. An `EventSource` gives up for good at any status other than 200.

use leftoff::cursor::Sequence;
use serde_json::{Value, json};

use crate::common::{Frame, Server, Sse, get, name, soon, to};

/// Returns a broker whose topic `a` still has events 3 to 5, and whose topic `b` has one event.
async fn broker() -> Server {
    let server = Server::start().await;
    for number in 1..=5 {
        server.publish("a", format!("event {number}")).await;
    }
    server.publish("b", "event 1").await;
    server.broker.purge(&name("a"), Sequence::new(3)).await.unwrap();
    server
}

/// The beginning of a stream, up to `leftoff.caught-up`.
struct Begun {
    headers: http::HeaderMap,
    frames: Vec<Frame>,
}

impl Begun {
    async fn of(server: &Server, query: &str, ids: &[&str]) -> Self {
        Self::at(server, &format!("/v1/topics/a/events{query}"), ids).await
    }

    async fn at(server: &Server, path: &str, ids: &[&str]) -> Self {
        let mut request = to(server.address, "GET", path);
        for id in ids {
            request = request.header("last-event-id", *id);
        }
        let mut stream = Sse::open(request).await.unwrap();
        assert_eq!(stream.status, 200, "{path} {ids:?}");
        let mut frames = Vec::new();
        loop {
            let frame = soon(stream.next()).await.expect("the stream goes on");
            if frame.is_control("leftoff.caught-up") {
                return Self { headers: stream.headers.clone(), frames };
            }
            frames.push(frame);
        }
    }

    fn data(&self) -> Vec<&str> {
        let events = self.frames.iter().filter(|frame| frame.is_event());
        events.map(|frame| frame.data.as_deref().unwrap()).collect()
    }

    fn control(&self, kind: &str) -> Option<Value> {
        self.frames.iter().find(|frame| frame.is_control(kind)).map(Frame::json)
    }
}

/// Goal: an id that is no cursor of the topic is reported as a gap, and the stream goes on as
/// `on_gap` says.
#[tokio::test]
async fn what_is_no_cursor_is_told_as_a_gap_and_the_stream_goes_on() {
    let server = broker().await;
    let all = ["event 3", "event 4", "event 5"];
    let strange = ["null", "undefined", "1-2", "urn:uuid:5e94c686", "größe", "[object Object]"];
    for (on_gap, resume, follows) in
        [("resume", 3, &all[..]), ("earliest", 3, &all[..]), ("latest", 6, &[][..])]
    {
        for id in strange {
            let begun = Begun::of(&server, &format!("?on_gap={on_gap}&from=latest"), &[id]).await;
            let gap = json!({
                "topic": "a", "requested": 0, "earliest": 3, "tail": 6, "lost": null,
                "reason": "unknown", "resume": resume,
            });
            assert_eq!(begun.control("leftoff.gap"), Some(gap), "{id}");
            let header = begun.headers["leftoff-gap"].to_str().unwrap();
            let expected =
                format!("reason=unknown, requested=0, earliest=3, tail=6, resume={resume}");
            assert_eq!(header, expected, "{id}");
            assert_eq!(begun.data(), follows, "{id} {on_gap}");
            // The cursor after the gap is a known one again.
            let gap = begun.frames.iter().find(|frame| frame.is_control("leftoff.gap")).unwrap();
            assert_eq!(gap.sequence() + 1, resume, "{gap:?}");
        }
    }
    let refused = to(server.address, "GET", "/v1/topics/a/events?on_gap=fail&after=null");
    let refused = Sse::open(refused).await.unwrap();
    assert_eq!(refused.status, 410, "a gap is refused if asked for");
    // An id of one topic is no cursor of many topics, and the other way round.
    let many = Begun::at(&server, "/v1/events?topic=*", &["2"]).await;
    let gap = many.control("leftoff.gap").unwrap();
    assert_eq!(
        (&gap["topic"], &gap["reason"], &gap["requested"]),
        (&Value::Null, &json!("unknown"), &json!(0))
    );
    assert_eq!(many.data().len(), 4);
    let page = get(server.address, "/v1/topics/a/events?after=null").await;
    assert_eq!(page.status, 400, "a page is refused");
}

#[tokio::test]
async fn of_several_ids_the_last_counts_and_words_mean_what_they_say() {
    let server = broker().await;
    let epoch = server.broker.epoch();
    let last = format!("4-{epoch}");
    let cases: [(String, Vec<String>); 9] = [
        (format!("?lastEventId=9&lastEventId={last}"), vec![]),
        (format!("?after=2&lastEventId={last}"), vec![]),
        (format!("?last_event_id=9&since={last}&lastEventId="), vec![]),
        (String::new(), vec![format!("3-{epoch}, {last}")]),
        (String::new(), vec![format!("3-{epoch}"), last.clone()]),
        (String::new(), vec![format!("\"{last}\"")]),
        (format!("?lastEventId=%22{last}%22"), vec![]),
        (format!("?lastEventId={last}"), vec!["null".to_owned()]),
        ("?from=latest&from=last:1&on_gap=fail&on_gap=resume".to_owned(), vec![String::new()]),
    ];
    for (query, ids) in cases {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let begun = Begun::of(&server, &query, &ids).await;
        assert_eq!(begun.data(), ["event 5"], "{query} {ids:?}");
        assert_eq!(begun.frames.len(), 1, "no gap: {query} {ids:?}: {:?}", begun.frames);
    }
    let whole = Begun::of(&server, "?from=latest", &["earliest"]).await;
    assert_eq!((whole.data().len(), whole.frames.len()), (3, 3), "{:?}", whole.frames);
    let nothing = Begun::of(&server, "?lastEventId=latest&from=earliest", &[]).await;
    assert_eq!(nothing.frames, []);
}

/// Goal: a misspelled name is reported where its author looks, and names that libraries add are
/// not.
#[tokio::test]
async fn a_name_that_means_nothing_to_a_stream_is_told_in_it_and_in_a_header() {
    let server = broker().await;
    let begun = Begun::of(&server, "?form=earliest&limit=5&form=x", &[]).await;
    assert_eq!(begun.headers["leftoff-ignored"], r#""form", "limit""#);
    let first = &begun.frames[0];
    assert!(first.is_control("leftoff.warning") && first.retry.is_some(), "{first:?}");
    let epoch = server.broker.epoch();
    assert_eq!(first.id, Some(format!("5-{epoch}")), "the first frame has the first id");
    let told = first.json();
    assert_eq!((&told["ignored"], &told["more"]), (&json!(["form", "limit"]), &json!(0)));
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.starts_with("\"form\" means nothing to a stream; known are"), "{detail}");
    assert_eq!(begun.frames.len(), 1);
    // A warning before a gap has no id, so a reader that is cut between them is told of the gap
    // again.
    let begun = Begun::of(&server, "?form=earliest", &["null"]).await;
    let kinds: Vec<_> = begun.frames.iter().take(2).map(|frame| frame.event.as_deref()).collect();
    assert_eq!(kinds, [Some("leftoff.warning"), Some("leftoff.gap")]);
    assert_eq!(begun.frames[0].id, None);
    let odd = "?_=17&r=0.1&padding=x&evs_preamble=1&lastEventId=4&&=x&from=earliest";
    let begun = Begun::of(&server, odd, &[]).await;
    assert_eq!(begun.headers.get("leftoff-ignored"), None);
    assert_eq!((begun.data(), begun.frames.len()), (vec!["event 5"], 1));
    // A stream of one topic takes no further topic.
    let begun = Begun::of(&server, "?topic=b&from=last:1", &[]).await;
    assert_eq!(begun.headers["leftoff-ignored"], r#""topic""#);
    assert_eq!(begun.data(), ["event 5"]);
    let many: String = (0..200).map(|number| format!("n{number}=%ff&")).collect();
    let begun = Begun::of(&server, &format!("?{many}from=earliest"), &[]).await;
    // At most 64 names are noted, and eight of them are listed.
    assert_eq!(begun.frames[0].json()["more"], 64 - 8);
    assert_eq!(begun.data().len(), 3, "a known name after many others has no effect");
}

/// Goal: a value that a script made out of nothing, or that is misspelled, is ignored and reported.
/// A wrong value of a parameter that selects events, or names the member, is refused, because other
/// events would be sent.
#[tokio::test]
async fn a_value_that_means_nothing_to_a_stream_is_told_and_only_what_picks_events_is_refused() {
    let server = broker().await;
    for query in ["?from=&format=&on_gap=", "?from=latest&format=data&on_gap=resume"] {
        let begun = Begun::of(&server, query, &["4"]).await;
        assert_eq!(begun.headers.get("leftoff-ignored"), None, "{query}");
        assert_eq!(begun.data(), ["event 5"], "{query}");
    }
    for value in ["null", "undefined", "NaN", "json", "%ff"] {
        let query = format!("?format={value}&on_gap={value}");
        let begun = Begun::of(&server, &query, &["4"]).await;
        let warning = begun.control("leftoff.warning").expect("a warning");
        let shown = value.replace("%ff", "%EF%BF%BD");
        let on_gap = format!("on_gap={shown}");
        assert_eq!(warning["ignored"], json!([on_gap, format!("format={shown}")]), "{value}");
        let detail = warning["detail"].as_str().unwrap();
        assert!(detail.starts_with("on_gap: ") && detail.contains("as if it was not"), "{detail}");
        assert_eq!(begun.data(), ["event 5"], "{value}");
        // A value that is no start point is reported as an unknown id is.
        let begun = Begun::of(&server, &format!("?from={value}"), &[]).await;
        let gap = begun.control("leftoff.gap").expect("a gap");
        assert_eq!((&gap["reason"], &gap["resume"]), (&json!("unknown"), &json!(3)), "{value}");
        assert_eq!(begun.data().len(), 3);
    }
    for query in ["header=x", "member=m&member_info=1", "member_info={}", "type=%ff"] {
        let path = format!("/v1/topics/a/events?{query}");
        let refused = Sse::open(to(server.address, "GET", &path)).await.unwrap();
        assert_eq!(refused.status, 400, "{query}");
    }
}
