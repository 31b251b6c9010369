//! Readers of patterns: what they get is cut down to what their callers may read, for topics that
//! are created later, too.

use leftoff::edge::hooks::Grant;
use leftoff::edge::proto;
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{Event, SubscribeRequest};
use leftoff::permission::{Action, Permission, Permitted};
use serde_json::{Value, json};

use super::{CANARY, Host, Way, by, call, everything, filter_of, keyed, to_be_asked};
use crate::common::{Frame, Sse, grpc, send, soon};
use crate::websocket::Client;

/// The last event of a test, which every reader may read.
const LAST: &str = "the last one";

/// Returns whatever an event stream brings, up to the last event.
async fn heard_over_sse(mut stream: Sse) -> String {
    let mut heard = format!("{:?}", stream.headers);
    while !heard.contains(LAST) {
        let frame = soon(stream.next()).await.expect("the stream goes on");
        heard.push_str(&format!("{frame:?}"));
    }
    heard
}

async fn heard_over_websocket(mut client: Client) -> String {
    let mut heard = String::new();
    while !heard.contains(LAST) {
        heard.push_str(&client.hear_text().await);
    }
    heard
}

async fn heard_over_grpc(mut responses: tonic::Streaming<proto::SubscribeResponse>) -> String {
    let mut heard = String::new();
    let is_last = |event: &Event| event.payload == LAST;
    loop {
        let response = soon(responses.message()).await.unwrap().unwrap().message.unwrap();
        heard.push_str(&format!("{response:?}"));
        if let Message::Events(batch) = &response {
            for event in &batch.events {
                heard.push_str(&String::from_utf8_lossy(&event.payload));
            }
            if batch.events.iter().any(is_last) {
                return heard;
            }
        }
        if let Message::Ephemeral(ephemeral) = &response {
            let payload = &ephemeral.event.as_ref().unwrap().payload;
            heard.push_str(&String::from_utf8_lossy(payload));
        }
    }
}

/// Goal: a reader of everything gets what its caller may read, and nothing else: not from before,
/// not of topics that are created while it reads, not ephemeral, not who is present, on all
/// protocols. The caller is told what it reads.
#[tokio::test]
async fn a_reader_of_everything_gets_only_what_its_caller_may_read() {
    let host = Host::start().await;
    host.publish("secret.before", CANARY).await;
    host.publish("other.before", "public").await;
    host.decisions.grant(Grant::new("stranger", everything("other.>")));
    // For this caller the hook is asked for each topic, and allows those below `other.`.
    host.decisions.grant(Grant::new("asked", to_be_asked()));
    for caller in ["stranger", "asked"] {
        let request = by(caller, &host, "GET", "/v1/events?topic=%3E&from=earliest");
        let sse = Sse::open(request).await.unwrap();
        assert_eq!(sse.status, 200);
        if caller == "stranger" {
            assert_eq!(sse.headers["leftoff-topics"], "\"other.>\"");
        }
        let mut socket = Client::connect_as(host.address, caller).await;
        let subscribe = json!({"type": "subscribe", "subscription": "s", "topics": [">"],
            "from": "earliest"});
        socket.say(subscribe).await;
        let subscribed = socket.find("subscribed").await;
        let told = if caller == "stranger" { json!(["other.>"]) } else { Value::Null };
        assert_eq!(subscribed["topics"], told);
        let request = SubscribeRequest {
            topics: vec![">".to_owned()],
            from: "earliest".to_owned(),
            ..SubscribeRequest::default()
        };
        let mut client = grpc(host.address).await;
        let responses = client.subscribe(call(caller, request)).await.unwrap();
        if caller == "stranger" {
            assert_eq!(responses.metadata().get("leftoff-topics").unwrap(), "\"other.>\"");
        }
        let readers = tokio::spawn(async move {
            let grpc = heard_over_grpc(responses.into_inner());
            tokio::join!(heard_over_sse(sse), heard_over_websocket(socket), grpc)
        });
        let later = format!("secret.later-of-{caller}");
        host.publish(&later, CANARY).await;
        for topic in ["secret.before", &later] {
            let topic = topic.parse().unwrap();
            host.broker.publish_ephemeral(&topic, vec![keyed(CANARY)]).unwrap();
            let member = leftoff::broker::Member::new(CANARY);
            drop(host.broker.join(&[topic], member).await.unwrap());
        }
        host.publish(&format!("other.later-of-{caller}"), LAST).await;
        let (sse, socket, grpc) = soon(readers).await.unwrap();
        for heard in [sse, socket, grpc] {
            assert!(heard.contains("public"), "{heard}");
            assert!(!heard.contains(CANARY), "{caller}: {heard}");
        }
        let request = by(caller, &host, "GET", "/v1/events?topic=%3E&from=earliest");
        let page = send(request.header("accept", "application/json"), "").await;
        let text = String::from_utf8_lossy(&page.body);
        assert!(text.contains(LAST) && !text.contains(CANARY), "{text}");
        let list = send(by(caller, &host, "GET", "/v1/topics?limit=1"), "").await.json();
        assert_eq!(list["topics"][0]["name"], "other.before", "{list}");
        let after = "/v1/topics?limit=1&after=other.before";
        let list = send(by(caller, &host, "GET", after), "").await.json();
        assert_eq!(list["topics"][0]["name"], format!("other.later-of-{caller}"), "{list}");
    }
    host.stop().await;
}

/// Returns what a reader over a WebSocket is told first, up to the message of this type.
async fn told_first(host: &Host, subscribe: Value, last: &str) -> Vec<Value> {
    let mut socket = Client::connect_as(host.address, "stranger").await;
    socket.say(subscribe).await;
    let mut told = vec![socket.hear().await];
    while told.last().unwrap()["type"] != last {
        told.push(socket.hear().await);
    }
    told
}

/// Goal: a named topic that its caller may not read is left out of a list of many, and told by its
/// name on every protocol, whether it exists or not. The others are read. A pattern that is cut
/// down is told as a pattern.
#[tokio::test]
async fn a_named_topic_that_is_left_out_is_told_on_every_protocol() {
    let host = Host::start().await;
    host.grant_one("stranger", Action::Subscribe, "other.*");
    host.publish("other.one", LAST).await;
    host.publish("secret.one", CANARY).await;
    let denied = json!(["secret.one", "secret.unknown"]);
    let path = "/v1/events?topic=other.*&topic=secret.one&topic=secret.unknown&from=earliest";
    let page = by("stranger", &host, "GET", path).header("accept", "application/json");
    let page = send(page, "").await;
    assert_eq!((page.status.as_u16(), page.header("leftoff-topics")), (200, "\"other.*\""));
    assert_eq!(page.json()["denied"], denied);
    let told = host.decisions.told();
    for topic in ["secret.one", "secret.unknown"] {
        let refused =
            format!("refused Some(\"stranger\"): stranger may not subscribe to {topic:?}");
        assert_eq!(told.iter().filter(|line| **line == refused).count(), 1, "{told:?}");
    }
    let wait = format!("{path}&from=latest&wait=400ms").replace("&from=earliest", "");
    let waited = by("stranger", &host, "GET", &wait).header("accept", "application/json");
    assert_eq!(send(waited, "").await.json()["denied"], denied);

    let mut sse = Sse::open(by("stranger", &host, "GET", path)).await.unwrap();
    assert_eq!(sse.headers["leftoff-topics"], "\"other.*\"");
    assert!(!sse.headers.contains_key("leftoff-ignored"), "{:?}", sse.headers);
    let first = sse.next().await.unwrap();
    assert!(first.is_control("leftoff.denied") && first.retry.is_some(), "{first:?}");
    let told = first.json();
    assert_eq!((&told["topics"], &told["status"]), (&denied, &json!(403)), "{told}");
    assert_eq!(told["type"], "urn:leftoff:problem:denied");
    assert!(first.id.unwrap().starts_with("@0"), "a client that is cut off here misses nothing");
    assert!(heard_over_sse(sse).await.contains("other.one"));
    let both = "/v1/events?topic=*.%3E&topic=secret.one";
    let mut sse = Sse::open(by("stranger", &host, "GET", both)).await.unwrap();
    let (warning, told) = (sse.next().await.unwrap(), sse.next().await.unwrap());
    assert_eq!(warning.json()["ignored"], json!(["topic=*.>"]), "{warning:?}");
    assert_eq!(told.json()["topics"], json!(["secret.one"]), "{told:?}");

    let topics: Vec<String> = ["other.*", "secret.one", "secret.unknown"].map(Into::into).into();
    let mut client = grpc(host.address).await;
    let request = proto::ReadRequest { topics: topics.clone(), ..Default::default() };
    let answer = client.read(call("stranger", request)).await.unwrap();
    assert_eq!(answer.metadata().get("leftoff-topics").unwrap(), "\"other.*\"");
    assert_eq!(json!(answer.get_ref().denied), denied);
    let request = SubscribeRequest { topics: topics.clone(), ..Default::default() };
    let answer = client.subscribe(call("stranger", request)).await.unwrap();
    assert_eq!(answer.metadata().get("leftoff-topics").unwrap(), "\"other.*\"");
    let mut answer = answer.into_inner();
    let mut told = async || soon(answer.message()).await.unwrap().unwrap().message.unwrap();
    assert!(matches!(told().await, Message::Started(_)));
    let Message::Denied(message) = told().await else { panic!("not told") };
    assert_eq!(json!(message.topics), denied);

    let subscribe = json!({"type": "subscribe", "subscription": "s", "topics": topics});
    let told = told_first(&host, subscribe, "caught_up").await;
    assert_eq!(told[0]["topics"], json!(["other.*"]), "{told:?}");
    assert_eq!((&told[1]["type"], &told[1]["topics"]), (&json!("denied"), &denied), "{told:?}");
    assert_eq!((&told[1]["subscription"], &told[1]["error"]["status"]), (&json!("s"), &json!(403)));
    host.stop().await;
}

/// Goal: a strict reader of topics that its caller may not all read is refused on every protocol,
/// and one that may is not.
#[tokio::test]
async fn a_strict_reader_gets_all_of_its_topics_or_nothing() {
    let host = Host::start().await;
    host.grant_one("stranger", Action::Subscribe, "other.*");
    let mut client = grpc(host.address).await;
    for (topics, is_permitted) in [
        (["other.*", "secret.one"], false),
        (["other.one", "*.>"], false),
        (["other.*", "other.one"], true),
    ] {
        let status = if is_permitted { 200 } else { 403 };
        let query = format!("topic={}&topic={}", topics[0], topics[1]).replace('>', "%3E");
        for accept in ["application/json", "text/event-stream"] {
            let path = format!("/v1/events?{query}&strict=true");
            let request = by("stranger", &host, "GET", &path).header("accept", accept);
            assert_eq!(Sse::open(request).await.unwrap().status, status, "{topics:?} {accept}");
            let request = by("stranger", &host, "POST", "/v1/events").header("accept", accept);
            let body = json!({"topics": topics, "strict": true}).to_string();
            let posted = Sse::open_with(request, body).await.unwrap();
            assert_eq!(posted.status, status, "{topics:?} {accept}");
        }
        let topics: Vec<String> = topics.map(Into::into).into();
        let request =
            proto::ReadRequest { topics: topics.clone(), strict: true, ..Default::default() };
        let read = client.read(call("stranger", request)).await;
        let request =
            SubscribeRequest { topics: topics.clone(), strict: true, ..Default::default() };
        let followed = client.subscribe(call("stranger", request)).await;
        let code = (!is_permitted).then_some(tonic::Code::PermissionDenied);
        assert_eq!(read.err().map(|it| it.code()), code, "{topics:?}");
        assert_eq!(followed.err().map(|it| it.code()), code, "{topics:?}");
        let subscribe =
            json!({"type": "subscribe", "subscription": "s", "topics": topics, "strict": true});
        let last = if is_permitted { "subscribed" } else { "ended" };
        let told = told_first(&host, subscribe, last).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(is_permitted || told[0]["error"]["status"] == 403, "{told:?}");
    }
    for (query, status) in [("strict=no", 400), ("strict=false", 200), ("strict", 403)] {
        let path = format!("/v1/events?topic=other.*&topic=secret.one&{query}");
        let stream = Sse::open(by("stranger", &host, "GET", &path)).await.unwrap();
        assert_eq!(stream.status, status, "{query}");
    }
    host.stop().await;
}

/// Goal: nothing is left of patterns that have nothing in common with the permission, refusals do
/// not end a WebSocket, and a gap of another topic is not told.
#[tokio::test]
async fn what_cannot_be_read_is_refused_and_not_left_out() {
    let host = Host::start().await;
    host.grant_one("stranger", Action::Subscribe, "other.*");
    host.decisions.grant(Grant::new("asked", to_be_asked()));
    for (caller, query, status) in [
        ("stranger", "topic=secret.*", 403),
        ("stranger", "topic=secret.one&topic=secret.two", 403),
        ("stranger", "topic=other.one&topic=*.%3E", 200),
        ("asked", "topic=secret.one", 403),
        // The hook allows patterns like this one, but not the topic.
        ("asked", "topic=news.one", 403),
        ("asked", "topic=*.one&on_gap=fail", 400),
    ] {
        let path = format!("/v1/events?{query}&from=earliest");
        let request = by(caller, &host, "GET", &path).header("accept", "application/json");
        let answer = send(request, "").await;
        assert_eq!(answer.status, status, "{caller} {query}: {answer:?}");
    }
    let mut socket = Client::connect_as(host.address, "stranger").await;
    for number in 0..40 {
        let publish = json!({"type": "publish", "ref": number, "topic": "secret.one", "event": {}});
        socket.say(publish).await;
        let refused = socket.find("error").await;
        assert_eq!((&refused["ref"], &refused["error"]["status"]), (&json!(number), &json!(403)));
        let name = format!("s{number}");
        socket.say(json!({"type": "subscribe", "subscription": name, "topic": "secret.x"})).await;
        assert_eq!(socket.find("ended").await["error"]["status"], 403);
    }
    socket.say(json!({"type": "subscribe", "subscription": "s", "topic": "other.one"})).await;
    socket.find("caught_up").await;
    let unknown = "secret.one".parse().unwrap();
    assert!(host.broker.topic(&unknown).is_err(), "nothing was published");
    host.stop().await;
}

/// Goal: a gap of a topic that the caller may not read is told nowhere, not even in the head.
#[tokio::test]
async fn a_gap_of_anothers_topic_is_told_nowhere() {
    let host = Host::start().await;
    host.decisions.grant(Grant::new("all", everything(">")));
    host.decisions.grant(Grant::new("asked", to_be_asked()));
    for topic in ["secret.one", "secret.one", "secret.one", "other.one"] {
        host.publish(topic, LAST).await;
    }
    let path = "/v1/events?topic=%3E&from=earliest";
    let mut stream = Sse::open(by("all", &host, "GET", path)).await.unwrap();
    let first = stream.find(|frame| frame.is_event()).await.id.unwrap();
    let purged = by("all", &host, "DELETE", "/v1/topics/secret.one/events?before=3");
    assert_eq!(send(purged, "").await.status, 200);
    let path = format!("/v1/events?topic=%3E&from={first}");
    for (caller, is_told) in [("all", true), ("asked", false)] {
        let mut stream = Sse::open(by(caller, &host, "GET", &path)).await.unwrap();
        let mut heard = format!("{:?}", stream.headers);
        while !heard.contains("leftoff.caught-up") {
            heard.push_str(&format!("{:?}", soon(stream.next()).await.unwrap()));
        }
        assert!(heard.contains("other.one"), "{caller}: {heard}");
        assert_eq!(heard.contains("leftoff.gap"), is_told, "{caller}: {heard}");
        assert_eq!(heard.contains("secret"), is_told, "{caller}: {heard}");
        let page = by(caller, &host, "GET", &path).header("accept", "application/json");
        let page = send(page, "").await;
        let text = format!("{:?}{}", page.headers, String::from_utf8_lossy(&page.body));
        assert_eq!(text.contains("secret"), is_told, "{caller}: {text}");
        assert!(text.contains("other.one"), "{caller}: {text}");
    }
    host.stop().await;
}

/// Goal: pages lead past any number of large events of others to the caller's own, and no page is
/// refused for want of room: what is passed over is not held.
#[tokio::test]
async fn pages_lead_past_large_events_of_others_to_the_callers_own() {
    let host = Host::by(Way::Served).await;
    host.decisions.grant(Grant::new("asked", to_be_asked()));
    let large = "x".repeat(1 << 20);
    for _ in 0..20 {
        host.publish("secret.one", &large).await;
    }
    host.publish("other.one", LAST).await;
    let mut after = String::from("earliest");
    let mut pages = Vec::new();
    while !pages.iter().any(|page: &String| page.contains(LAST)) {
        let path = format!("/v1/events?topic=%3E&limit=1000&from={after}");
        let page = by("asked", &host, "GET", &path).header("accept", "application/json");
        let page = send(page, "").await;
        assert_eq!(page.status, 200, "{page:?}");
        after = page.json()["cursor"].as_str().unwrap().to_owned();
        pages.push(String::from_utf8(page.body.to_vec()).unwrap());
        assert!(pages.len() < 22, "{pages:?}");
    }
    assert!(pages.iter().all(|page| !page.contains("secret")), "{pages:?}");
    host.stop().await;
}

/// Goal: the grant's filter holds for streams, pages and states, besides that of the reader.
#[tokio::test]
async fn a_grants_filter_holds_for_everything_that_its_caller_reads() {
    let host = Host::start().await;
    let keyed_as =
        |key: &str, payload: &str| leftoff::NewEvent { key: key.to_owned(), ..keyed(payload) };
    crate::common::publish(&host.broker, "a", keyed_as("mine", "one")).await;
    crate::common::publish(&host.broker, "a", keyed_as("theirs", CANARY)).await;
    let subscribe = Permission::default().permitting(Action::Subscribe, Permitted::All);
    host.decisions.grant(Grant::new("reader", subscribe).filter(filter_of("mine")));
    let pages = ["/v1/topics/a/events", "/v1/events?topic=a", "/v1/topics/a/state"];
    for path in pages {
        let request = by("reader", &host, "GET", path).header("accept", "application/json");
        let page = send(request, "").await.json();
        let events = page["events"].as_array().unwrap();
        assert_eq!((events.len(), &events[0]["key"]), (1, &json!("mine")), "{path}: {page}");
    }
    let request = by("reader", &host, "GET", "/v1/topics/a/events?from=earliest");
    let stream = Sse::open(request).await.unwrap();
    let topic = "a".parse().unwrap();
    host.broker.publish_ephemeral(&topic, vec![keyed_as("theirs", CANARY)]).unwrap();
    crate::common::publish(&host.broker, "a", keyed_as("mine", LAST)).await;
    let heard = soon(heard_over_sse(stream)).await;
    assert!(heard.contains("one") && !heard.contains(CANARY), "{heard}");
    let request = by("reader", &host, "GET", "/v1/topics/a/events?key=theirs");
    let page = send(request.header("accept", "application/json"), "").await.json();
    assert_eq!((&page["events"], &page["caught_up"]), (&json!([]), &json!(true)), "{page}");
    host.stop().await;
}

/// Goal: a caller is present only as the member that it is, where it may be, and only callers with
/// the permission see members.
#[tokio::test]
async fn a_caller_is_no_other_member_than_its_own() {
    let host = Host::start().await;
    let member = Grant::new("ann", everything("room.>")).member("ann");
    host.decisions.grant(member);
    host.grant_one("silent", Action::Subscribe, "room.>");
    let open = async |caller: &str, query: &str| {
        let path = format!("/v1/topics/room.one/events?{query}");
        Sse::open(by(caller, &host, "GET", &path)).await.unwrap()
    };
    for (caller, query) in [("ann", "member=bob"), ("silent", "member=silent")] {
        assert_eq!(open(caller, query).await.status, 403, "{caller} as {query}");
    }
    host.decisions.grant(Grant::new("any", everything("room.>")));
    assert_eq!(open("any", "member=").await.status, 400, "nobody has an id for it");
    let mut silent = open("silent", "").await;
    silent.find(|frame| frame.is_control("leftoff.caught-up")).await;
    let mut stream = open("ann", "member=ann").await;
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    // The id of the grant need not be named, on any protocol.
    let _unnamed = [open("ann", "member=").await, open("ann", "member_info=%7B%7D").await];
    let mut socket = Client::connect_as(host.address, "ann").await;
    let subscribe = json!({"type": "subscribe", "subscription": "s", "topic": "room.one",
        "member": {"info": {"n": 1}}});
    socket.say(subscribe).await;
    socket.find("subscribed").await;
    let (topic, member) = ("room.one".to_owned(), Some(proto::Member::default()));
    let request = SubscribeRequest { topic, member, ..Default::default() };
    let mut client = grpc(host.address).await;
    let _followed = client.subscribe(call("ann", request)).await.unwrap();
    let list = by("ann", &host, "GET", "/v1/topics/room.one/presence");
    let members = send(list, "").await.json();
    assert_eq!(members["members"][0]["id"], "ann", "{members}");
    assert_eq!(members["members"][0]["subscriptions"], 5, "{members}");
    assert_eq!(members["members"].as_array().unwrap().len(), 1);
    host.publish("room.one", LAST).await;
    let mut frames: Vec<Frame> = Vec::new();
    while frames.iter().all(|frame| frame.data.as_deref() != Some(LAST)) {
        frames.push(soon(silent.next()).await.unwrap());
    }
    assert!(frames.iter().all(|frame| !frame.is_control("leftoff.joined")), "{frames:?}");
    let joined = stream.find(|frame| frame.data.as_deref() == Some(LAST)).await;
    assert!(joined.is_event());
    host.stop().await;
}

/// Goal: hooks are told what they are for: deliveries, and refusals with the caller.
#[tokio::test]
async fn hooks_are_told_of_deliveries_and_refusals() {
    let host = Host::start().await;
    host.publish("other.one", "1").await;
    host.publish("other.one", "2").await;
    host.decisions.grant(Grant::new("stranger", everything("other.>")));
    let page = by("stranger", &host, "GET", "/v1/topics/other.one/events");
    send(page.header("accept", "application/json"), "").await;
    let refused = by("stranger", &host, "GET", "/v1/topics/secret.one/events");
    send(refused.header("accept", "application/json"), "").await;
    send(by("nobody", &host, "GET", "/v1/topics"), "").await;
    let told = host.decisions.told();
    let delivered: Vec<_> = told.iter().filter(|line| line.starts_with("delivered")).collect();
    assert!(
        !delivered.is_empty() && delivered.iter().all(|it| it.contains("other.one")),
        "{told:?}"
    );
    let refusal = "refused Some(\"stranger\"): stranger may not subscribe to \"secret.one\"";
    assert!(told.contains(&refusal.to_owned()), "{told:?}");
    assert!(told.contains(&"refused None: nobody knows you".to_owned()), "{told:?}");
    host.stop().await;
}
