//! The gRPC services: which call belongs to which service, one meaning for each name, and the same
//! pages as over HTTP.

use leftoff::config::Config;
use leftoff::cursor::Sequence;
use leftoff::edge::grpc::DESCRIPTORS;
use leftoff::edge::proto::{
    Event, ListMembersRequest, ListTopicsRequest, NewEvent, PublishRequest, ReadRequest,
    ReadStateRequest,
};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::common::{Server, Sse, get, name, send_h2c, to};
use crate::grpc_client::{Grpc, SERVICES, path_of};

fn messages() -> Vec<DescriptorProto> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let files = set.file.into_iter().filter(|file| file.package() == "leftoff.v1");
    files.flat_map(|file| file.message_type).collect()
}

/// Returns a client with the default limit for the size of a message.
async fn plain_client(server: &Server) -> Grpc {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc_address)).unwrap();
    Grpc::new(endpoint.connect().await.unwrap())
}

/// Goal: a proxy can allow a client to publish but not to read, or to read but not to change, by
/// the request path alone.
#[tokio::test]
async fn each_call_belongs_to_one_service_and_no_other_serves_it() {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| {
        file.service.iter().map(|service| {
            let calls = service.method.iter().map(|method| method.name().to_owned());
            (format!("{}.{}", file.package(), service.name()), calls.collect::<Vec<_>>())
        })
    });
    let expected = SERVICES.map(|(name, calls)| {
        (name.to_owned(), calls.iter().map(|call| (*call).to_owned()).collect::<Vec<_>>())
    });
    assert_eq!(services.collect::<Vec<_>>(), expected);
    let server = Server::start().await;
    let status = async |path: &str| {
        let request = to(server.grpc_address, "POST", path);
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let answer = send_h2c(request, &[0; 5][..]).await;
        let status = answer.trailers.get("grpc-status").or(answer.headers.get("grpc-status"));
        status.map_or(String::new(), |status| status.to_str().unwrap().to_owned())
    };
    let unimplemented = (Code::Unimplemented as i32).to_string();
    for (_, calls) in SERVICES {
        for call in calls {
            let own = path_of(call);
            assert_ne!(status(&own).await, unimplemented, "{own}");
            for (other, _) in SERVICES.iter().filter(|(_, calls)| !calls.contains(call)) {
                let path = format!("/{other}/{call}");
                assert_eq!(status(&path).await, unimplemented, "{path}");
            }
        }
    }
}

/// Goal: a field of two messages means the same in both, and the size of a page has one name.
#[test]
fn one_word_means_one_thing_in_the_proto() {
    let messages = messages();
    let fields = |name: &str| {
        let message = messages.iter().find(|message| message.name() == name).unwrap();
        let field = |field: &prost_types::FieldDescriptorProto| {
            (field.name().to_owned(), field.r#type(), field.proto3_optional())
        };
        message.field.iter().map(field).collect::<Vec<_>>()
    };
    let (handed_in, stored) = (fields("NewEvent"), fields("Event"));
    let map_of = |name: &str| name == "headers"; // A map has its own entry type.
    for field in handed_in.iter().filter(|(name, ..)| !map_of(name)) {
        assert!(stored.contains(field), "{field:?} is not the same in a stored event");
    }
    assert!(handed_in.iter().all(|(name, ..)| name != "time_ms"), "`time_ms` is the broker's time");
    for message in &messages {
        let has = |name: &str| message.field.iter().any(|field| field.name() == name);
        assert!(!has("limit"), "{} has a limit beside page_size", message.name());
        let is_paged = ["Read", "List"].iter().any(|verb| message.name().starts_with(verb))
            && message.name().ends_with("Request");
        assert_eq!(has("page_size"), is_paged, "{}", message.name());
    }
}

fn place(event: &Event) -> (String, u64, u64) {
    (event.topic.clone(), event.sequence, event.position)
}

fn places(page: &Value) -> Vec<(String, u64, u64)> {
    let number = |event: &Value, name: &str| event[name].as_u64().unwrap();
    let place = |event: &Value| {
        let topic = event["topic"].as_str().unwrap().to_owned();
        (topic, number(event, "sequence"), number(event, "position"))
    };
    page["events"].as_array().unwrap().iter().map(place).collect()
}

/// Goal: pages of many topics are the same over both protocols: events, gaps, cursors and the end.
#[tokio::test]
async fn a_page_of_many_topics_is_the_same_over_grpc_and_http() {
    let server = Server::start().await;
    for number in 0..9 {
        for topic in ["a.x", "a.y", "b"] {
            server.publish(topic, number.to_string()).await;
        }
    }
    for (topic, below) in [("a.x", 3), ("a.y", 5)] {
        server.broker.purge(&name(topic), Sequence::new(below)).await.unwrap();
    }
    let mut client = plain_client(&server).await;
    let topics: Vec<String> = vec!["a.*".into(), "b".into()];
    let (mut from, mut count, mut gaps) = ("@0".to_owned(), 0, 0);
    loop {
        let path = format!("/v1/events?topic=a.*&topic=b&from={from}&limit=5");
        let expected = get(server.address, &path).await.json();
        let request = ReadRequest {
            topics: topics.clone(),
            from: from.clone(),
            page_size: 5,
            ..ReadRequest::default()
        };
        let page = client.read(request).await.unwrap().into_inner();
        assert_eq!(page.events.iter().map(place).collect::<Vec<_>>(), places(&expected));
        let told: Vec<_> = page.gaps.iter().map(|gap| json!(gap.topic)).collect();
        let wanted = expected["gaps"].as_array().cloned().unwrap_or_default();
        assert_eq!(told, wanted.iter().map(|gap| gap["topic"].clone()).collect::<Vec<_>>());
        assert_eq!(json!(page.cursor), expected["cursor"]);
        assert_eq!(
            json!([page.earliest, page.tail]),
            json!([expected["earliest"], expected["tail"]])
        );
        assert_eq!(json!(page.caught_up), expected["caught_up"]);
        (count, gaps) = (count + page.events.len(), gaps + page.gaps.len());
        from = page.cursor;
        if page.caught_up {
            break;
        }
    }
    assert_eq!((count, gaps), (7 + 5 + 9, 2));
    let of_one = ReadRequest { topic: "b".into(), ..ReadRequest::default() };
    let page = client.read(of_one.clone()).await.unwrap().into_inner();
    assert!(page.events.iter().all(|event| event.topic.is_empty()), "a name is repeated");
    let many = |topics: &[String]| ReadRequest { topics: topics.into(), ..ReadRequest::default() };
    for (request, field) in [
        (ReadRequest { topics: topics.clone(), ..of_one }, "topic:"),
        (ReadRequest { before: Some(3), ..many(&topics) }, "before:"),
        (ReadRequest { from: "last:3".into(), ..many(&topics) }, "from:"),
        (many(&["a.>.b".into()]), "topic"),
        (many(&vec!["a".into(); 1_025]), "topics: 1025"),
    ] {
        let refused = client.read(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
}

/// Goal: members are listed over gRPC as over HTTP, page by page.
#[tokio::test]
async fn members_are_the_same_over_grpc_and_http() {
    let server = Server::start().await;
    let mut present = Vec::new();
    for id in ["ann", "bob", "ann", "cid"] {
        let path =
            format!("/v1/topics/room/events?member={id}&member_info=%7B%22n%22%3A%22{id}%22%7D");
        let mut stream = Sse::open(to(server.address, "GET", &path)).await.unwrap();
        stream.next().await.unwrap();
        present.push(stream);
    }
    let expected = get(server.address, "/v1/topics/room/presence").await.json();
    let mut client = plain_client(&server).await;
    let request = |page_token: &str, page_size| ListMembersRequest {
        topic: "room".into(),
        page_size,
        page_token: page_token.into(),
    };
    let (mut token, mut listed, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page = client.list_members(request(&token, 2)).await.unwrap().into_inner();
        listed.extend(page.members.into_iter().map(|present| {
            let member = present.member.unwrap();
            let (id, info) = (member.id, member.info);
            let (since_ms, subscriptions) = (present.since_ms, present.subscriptions);
            json!({"id": id, "info": info, "since_ms": since_ms, "subscriptions": subscriptions})
        }));
        (token, pages) = (page.next_page_token, pages + 1);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((json!(listed), pages), (expected["members"].clone(), 2));
    assert_eq!(listed.len(), 3);
    let nobody = ListMembersRequest { topic: "empty".into(), ..Default::default() };
    assert_eq!(client.list_members(nobody).await.unwrap().into_inner().members, []);
    let refused = client.list_members(request("", 10_001)).await.unwrap_err();
    assert_eq!(refused.message(), "page_size: 10001 is over the limit of 10000");
    let refused = client.list_members(ListMembersRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "no topic: {refused:?}");
}

/// Returns events that take much more in a message than in the log: a hundred headers each, nearly
/// empty.
fn with_headers(events: usize) -> Vec<NewEvent> {
    let headers = (0..100).map(|number| (format!("{number}"), String::new())).collect();
    let event = NewEvent { headers, payload: "x".into(), ..NewEvent::default() };
    let event = |number: usize| NewEvent { key: number.to_string(), ..event.clone() };
    (0..events).map(event).collect()
}

/// Goal: every page fits into the 4 MiB that a client accepts by default.
#[tokio::test]
async fn pages_of_events_fit_into_the_message_that_clients_take_by_default() {
    const EVENTS: usize = 7_000;
    let server = Server::start().await;
    let mut client = plain_client(&server).await;
    for events in with_headers(EVENTS).chunks(500) {
        let publish = PublishRequest {
            topic: "a".into(),
            events: events.to_vec(),
            ..PublishRequest::default()
        };
        client.publish(publish).await.unwrap();
    }
    for topics in [vec![], vec!["*".to_owned()]] {
        let topic = if topics.is_empty() { "a".to_owned() } else { String::new() };
        let mut request = ReadRequest { topic, topics, page_size: 10_000, ..Default::default() };
        let mut sequences = Vec::new();
        loop {
            let page = client.read(request.clone()).await.unwrap().into_inner();
            sequences.extend(page.events.iter().map(|event| event.sequence));
            request.from = page.cursor;
            if page.caught_up {
                break;
            }
        }
        assert!(sequences.into_iter().eq(1..=EVENTS as u64), "missing or repeated");
    }
    let (mut keys, mut page_token) = (0, String::new());
    loop {
        let request =
            ReadStateRequest { topic: "a".into(), page_size: 10_000, page_token, ..<_>::default() };
        let page = client.read_state(request).await.unwrap().into_inner();
        keys += page.events.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(keys, EVENTS);
}

/// Goal: an event that is larger than a page is a page of its own, for a client that accepts its
/// size.
#[tokio::test]
async fn an_event_that_is_larger_than_a_page_is_one_by_itself() {
    let mut config = Config::default();
    config.limits.max_payload_bytes = 5 << 20;
    config.limits.max_batch_bytes = 6 << 20;
    let server = Server::with(config).await;
    server.publish("a", "before").await;
    server.publish("a", vec![b'x'; 5 << 20]).await;
    server.publish("a", "after").await;
    let read =
        |from: &str| ReadRequest { topic: "a".into(), from: from.into(), ..ReadRequest::default() };
    let (mut plain, mut large) = (plain_client(&server).await, server.grpc().await);
    let page = plain.read(read("earliest")).await.unwrap().into_inner();
    assert_eq!(page.events.len(), 1);
    plain.read(read(&page.cursor)).await.unwrap_err();
    let page = large.read(read(&page.cursor)).await.unwrap().into_inner();
    assert_eq!((page.events.len(), page.events[0].payload.len()), (1, 5 << 20));
    let page = plain.read(read(&page.cursor)).await.unwrap().into_inner();
    assert_eq!((page.events.len(), page.caught_up), (1, true));
}

/// Goal: the pages of lists are bounded in bytes, too, and have each entry once.
#[tokio::test]
async fn pages_of_lists_end_before_they_are_too_many_bytes() {
    const MAX_PAGE_BYTES: usize = 4 << 10;
    let mut config = Config::default();
    config.broker.max_page_bytes = MAX_PAGE_BYTES as u64;
    let server = Server::with(config).await;
    let mut client = plain_client(&server).await;
    let topic = |number: usize| format!("{number:02}{}", "x".repeat(248));
    let mut members = Vec::new();
    for number in 0..40 {
        server.publish(&topic(number), "x").await;
        let info = json!({"text": "x".repeat(1_000)}).to_string();
        let info = percent_encoding::utf8_percent_encode(&info, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/v1/topics/room/events?member={number:02}&member_info={info}");
        let mut stream = Sse::open(to(server.address, "GET", &path)).await.unwrap();
        stream.next().await.unwrap();
        members.push(stream);
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTopicsRequest { page_size: 10_000, page_token };
        let page = client.list_topics(request).await.unwrap().into_inner();
        assert!(page.encoded_len() <= MAX_PAGE_BYTES + page.next_page_token.len() + 3);
        listed.extend(page.topics.into_iter().map(|topic| topic.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, (0..40).map(topic).collect::<Vec<_>>());
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListMembersRequest { topic: "room".into(), page_size: 10_000, page_token };
        let page = client.list_members(request).await.unwrap().into_inner();
        assert!(page.encoded_len() <= MAX_PAGE_BYTES + page.next_page_token.len() + 3);
        listed.extend(page.members.into_iter().map(|present| present.member.unwrap().id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(listed.into_iter().eq((0..40).map(|number| format!("{number:02}"))));
}
