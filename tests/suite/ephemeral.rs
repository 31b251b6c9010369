//! Ephemeral events and presence: for connected subscribers, over every protocol, and never stored.

use futures_util::{SinkExt, StreamExt};
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{
    ListMembersRequest, Member, NewEvent, PublishRequest, SubscribeRequest,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::common::{Frame as SseFrame, Server, Sse, get, post, send, soon, text, to};
use crate::websocket::Client;

async fn whisper(server: &Server, topic: &str, payload: &str) -> u64 {
    let path = format!("/v1/topics/{topic}/events?ephemeral=true&type=typing&key=k");
    let answer = post(server.address, &path, payload.to_owned()).await;
    assert_eq!(answer.status, 202);
    answer.json()["receivers"].as_u64().unwrap()
}

async fn follow(server: &Server, query: &str) -> Sse {
    let mut stream = Sse::open(to(server.address, "GET", query)).await.unwrap();
    soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    stream
}

#[tokio::test]
async fn an_ephemeral_event_reaches_who_is_there_and_moves_no_cursor_and_is_not_stored() {
    let server = Server::start().await;
    assert_eq!(whisper(&server, "room", "nobody is there").await, 0);
    post(server.address, "/v1/topics/room/events", "1").await;
    let mut one = follow(&server, "/v1/topics/room/events").await;
    let mut many = follow(&server, "/v1/events?topic=*&topic=other").await;
    let mut filtered = follow(&server, "/v1/topics/room/events?type=other").await;
    let mut client = server.grpc().await;
    let subscribe = SubscribeRequest { topic: "room".into(), ..SubscribeRequest::default() };
    let mut responses = client.subscribe(subscribe).await.unwrap().into_inner();
    let mut next = async || soon(responses.message()).await.unwrap().unwrap().message.unwrap();
    while !matches!(next().await, Message::CaughtUp(_)) {}
    assert_eq!(whisper(&server, "room", "hi").await, 4);
    let before = one.last_id.clone();
    let frame = soon(one.next()).await.unwrap();
    let shown = (frame.id, frame.event.as_deref(), frame.data.as_deref());
    assert_eq!(shown, (None, Some("typing"), Some("hi")));
    assert_eq!(one.last_id, before);
    let frame = soon(many.find(SseFrame::is_event)).await;
    assert_eq!(frame.id, None);
    let event = frame.json();
    let shown = ["topic", "ephemeral", "type", "key", "data"].map(|name| &event[name]);
    assert_eq!(json!(shown), json!(["room", true, "typing", "k", "hi"]), "{event}");
    assert_eq!((&event["sequence"], &event["position"]), (&Value::Null, &Value::Null));
    let Message::Ephemeral(heard) = next().await else { panic!() };
    assert_eq!((heard.topic.as_str(), &*heard.event.unwrap().payload), ("room", &b"hi"[..]));
    // Stored events continue with the next sequence, and the filtered stream gets those of its
    // type.
    post(server.address, "/v1/topics/room/events?type=other", "2").await;
    for stream in [&mut one, &mut filtered] {
        let frame = soon(stream.next()).await.unwrap();
        assert_eq!((frame.sequence(), frame.data.as_deref()), (2, Some("2")));
    }
    let page = get(server.address, "/v1/topics/room/events").await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 2);
    let event = NewEvent { payload: "grpc".into(), ..NewEvent::default() };
    let publish = PublishRequest {
        topic: "room".into(),
        events: vec![event],
        ephemeral: true,
        expected_sequence: None,
        topics: Vec::new(),
    };
    let answer = client.publish(publish).await.unwrap().into_inner();
    assert_eq!((answer.receivers, answer.ack), (4, None));
    assert_eq!(soon(one.next()).await.unwrap().data.as_deref(), Some("grpc"));
}

async fn members(server: &Server) -> Vec<(String, u64)> {
    let answer = get(server.address, "/v1/topics/room/presence").await.json();
    let member = |member: &Value| {
        (member["id"].as_str().unwrap().to_owned(), member["subscriptions"].as_u64().unwrap())
    };
    answer["members"].as_array().unwrap().iter().map(member).collect()
}

#[tokio::test]
async fn members_join_once_and_leave_with_the_last_of_their_subscriptions() {
    let server = Server::start().await;
    let mut watcher = follow(&server, "/v1/topics/room/events").await;
    let mut told = async |kind: &str| {
        let frame = soon(watcher.next()).await.unwrap();
        assert_eq!((frame.event.as_deref(), &frame.id), (Some(kind), &None));
        frame.json()
    };
    let info = "%7B%22name%22%3A%22Ann%22%7D";
    let path = format!("/v1/topics/room/events?member=ann&member_info={info}");
    let tab = follow(&server, &path).await;
    assert_eq!(told("leftoff.joined").await, json!({"id": "ann", "info": {"name": "Ann"}}));
    let other_tab = follow(&server, &path).await;
    let member = Some(Member { id: "bob".into(), ..Member::default() });
    let topics = vec!["room".to_owned(), "other.*".to_owned()];
    let subscribe = SubscribeRequest { topics, member, ..SubscribeRequest::default() };
    let mut client = server.grpc().await;
    let bob = client.subscribe(subscribe).await.unwrap().into_inner();
    assert_eq!(told("leftoff.joined").await["id"], "bob");
    assert_eq!(members(&server).await, [("ann".to_owned(), 2), ("bob".to_owned(), 1)]);
    drop(tab);
    drop(bob);
    assert_eq!(told("leftoff.left").await, json!({"id": "bob", "info": {}}));
    drop(other_tab);
    assert_eq!(told("leftoff.left").await["id"], "ann");
    assert_eq!(members(&server).await, []);
    // A page ends at once, so it cannot have a member.
    for query in ["member_info=%7B%7D", "member=ann"] {
        let refused = get(server.address, &format!("/v1/topics/room/events?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
        assert!(text(&refused.body).contains("member"), "{}", text(&refused.body));
    }
}

/// Goal: a member's info is any JSON object, and other subscribers receive it unchanged.
#[tokio::test]
async fn what_is_known_of_a_member_is_any_json() {
    let server = Server::start().await;
    let mut watcher = follow(&server, "/v1/topics/room/events").await;
    let info = json!({
        "name": "Ann", "age": 42, "admin": true, "team": null, "tags": ["a", "b"],
        "at": {"x": 1.5, "text": "\u{e9}\n\""}, "digits": "42",
    });
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let query = encoded(&info.to_string());
    let path = format!("/v1/topics/room/events?member=ann&member_info={query}");
    let _ann = follow(&server, &path).await;
    let joined = soon(watcher.next()).await.unwrap();
    assert_eq!(joined.event.as_deref(), Some("leftoff.joined"));
    assert_eq!(joined.json(), json!({"id": "ann", "info": info}));
    let mut client = Client::connect(server.address).await;
    let member = json!({"id": "bob", "info": info});
    client
        .say(json!({"type": "subscribe", "subscription": "s", "topic": "room", "member": member}))
        .await;
    client.find("subscribed").await;
    let list = get(server.address, "/v1/topics/room/presence").await.json();
    for present in list["members"].as_array().unwrap() {
        assert_eq!(present["info"], info, "{list}");
    }
    assert_eq!(list["members"].as_array().unwrap().len(), 2);
    // Where a value can only be text, as over gRPC, any other value is sent as its JSON.
    let request = ListMembersRequest { topic: "room".into(), ..Default::default() };
    let answer = server.grpc().await.list_members(request).await.unwrap().into_inner();
    let bob = &answer.members[1].member.as_ref().unwrap().info;
    let told = ["name", "age", "tags", "digits"].map(|name| bob[name].as_str());
    assert_eq!(told, ["Ann", "42", r#"["a","b"]"#, "42"]);
    for wrong in ["[1]", "{\"a\":", "1"] {
        let path = format!("/v1/topics/room/events?member=x&member_info={}", encoded(wrong));
        let request = to(server.address, "GET", &path).header("accept", "text/event-stream");
        let refused = send(request, "").await;
        assert_eq!(refused.status, 400, "{wrong}");
        let problem = refused.json();
        assert!(problem["detail"].as_str().unwrap().starts_with("member_info: "), "{problem}");
    }
}

#[tokio::test]
async fn a_websocket_whispers_and_is_present_for_as_long_as_it_is_subscribed() {
    let server = Server::start().await;
    let url = format!("ws://{}/v1/ws", server.address);
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let mut watcher = follow(&server, "/v1/topics/room/events").await;
    let say = |message: Value| Frame::text(message.to_string());
    let subscribe = json!({
        "type": "subscribe", "subscription": "s", "topic": "room", "member": {"id": "ann"},
    });
    socket.send(say(subscribe)).await.unwrap();
    let joined = soon(watcher.next()).await.unwrap();
    assert_eq!(joined.event.as_deref(), Some("leftoff.joined"));
    let mut hear = async |kind: &str| loop {
        let Frame::Text(text) = soon(socket.next()).await.unwrap().unwrap() else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["type"] == kind {
            return message;
        }
    };
    hear("caught_up").await;
    whisper(&server, "room", "hi").await;
    let heard = hear("ephemeral").await;
    assert_eq!((&heard["subscription"], &heard["event"]["type"]), (&json!("s"), &json!("typing")));
    let whispered = json!({
        "type": "publish", "ephemeral": true, "ref": "r", "topic": "room",
        "event": {"type": "typing", "data": {"on": true}},
    });
    socket.send(say(whispered)).await.unwrap();
    let mut hear = async |kind: &str| loop {
        let Frame::Text(text) = soon(socket.next()).await.unwrap().unwrap() else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["type"] == kind {
            return message;
        }
    };
    let ack = hear("ack").await;
    assert_eq!((&ack["ref"], &ack["receivers"]), (&json!("r"), &json!(2)));
    assert_eq!(hear("ephemeral").await["event"]["data"], json!({"on": true}));
    let unsubscribe = json!({"type": "unsubscribe", "subscription": "s"});
    socket.send(say(unsubscribe)).await.unwrap();
    let left = soon(watcher.find(|f| f.event.as_deref() == Some("leftoff.left"))).await;
    assert_eq!(left.json()["id"], "ann");
}
