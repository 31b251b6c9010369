//! Publishes of one publisher, in order: a failure fails only the later ones, over each protocol.

use leftoff::broker::InOrder;
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{NewEvent as WireEvent, PublishStreamRequest};
use leftoff::{Broker, Error, NewEvent, OpenConfig, Publish};
use tonic::Code;

use crate::common::{Server, name, read_all, soon};

/// The number of publishes before the failing one, and after it.
const BEFORE: usize = 20;
const AFTER: usize = 5;

fn event(topic: &str, payload: impl ToString, expected_sequence: Option<u64>) -> Publish {
    let publish = Publish::one(name(topic), NewEvent::new(payload.to_string()));
    match expected_sequence {
        Some(sequence) => publish.expecting(sequence),
        None => publish,
    }
}

fn numbers(count: usize) -> Vec<(u64, String)> {
    (1..=count as u64).map(|number| (number, number.to_string())).collect()
}

/// Goal: a publish that is refused before it is queued fails none that is still queued.
/// Method: send all at once, over two topics. The failing one is too large, cannot be read by the
/// edge, or expects another sequence.
#[tokio::test]
async fn what_was_handed_in_before_a_failure_is_stored() {
    for round in 0..50 {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let order = InOrder::default();
        let mut pending = Vec::new();
        for number in 1..=BEFORE {
            let topic = if number % 2 == 0 { "even" } else { "odd" };
            let publish = event(topic, number, None);
            pending.push(broker.submit_patiently(publish, &order).await.unwrap());
        }
        match round % 3 {
            0 => {
                let large = event("odd", "x".repeat(2 << 20), None);
                let error = broker.submit_in_order(large, &order).await.unwrap_err();
                assert!(matches!(error, Error::OverLimit { .. }), "{error}");
            }
            1 => {
                order.refuse(Error::invalid("topic", "the edge cannot read it"));
            }
            _ => {
                let late = broker.submit_in_order(event("odd", "late", Some(0)), &order).await;
                let error = late.unwrap().ack().await.unwrap_err();
                assert!(matches!(error, Error::UnexpectedSequence { .. }), "{error}");
            }
        }
        for number in 1..=AFTER {
            let after = broker.submit_in_order(event("odd", number, None), &order).await;
            let Err(error) = after else { panic!("handed in after a failure") };
            assert!(matches!(error, Error::AfterFailure), "{error}");
        }
        for (index, pending) in pending.into_iter().enumerate() {
            let ack = soon(pending.ack()).await;
            assert!(ack.is_ok(), "round {round}, publish {index}: {ack:?}");
        }
        let stored = ["even", "odd"].map(|topic| broker.topic(&name(topic)).unwrap());
        assert_eq!(stored.map(|topic| topic.extent.tail.get()), [11, 11]);
        broker.close().await;
    }
}

/// Goal: the same holds over gRPC, with all requests in flight before the first answer is read.
#[tokio::test]
async fn a_stream_answers_those_before_the_refused_one_with_what_they_were_given() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    for round in 0..20 {
        let topic = format!("t{round}");
        let request = |topic: &str, payload: String| PublishStreamRequest {
            topic: topic.to_owned(),
            events: vec![WireEvent { payload: payload.into(), ..WireEvent::default() }],
            expected_sequence: None,
            in_order: true,
            topics: Vec::new(),
        };
        let before = (1..=BEFORE).map(|number| request(&topic, number.to_string()));
        let refused = [request("not a topic", "refused".to_owned())];
        let after = (0..AFTER).map(|_| request(&topic, "after".to_owned()));
        let requests: Vec<_> = before.chain(refused).chain(after).collect();
        let responses = client.publish_stream(tokio_stream::iter(requests)).await.unwrap();
        let mut responses = responses.into_inner();
        let mut codes = Vec::new();
        while let Some(response) = soon(responses.message()).await.unwrap() {
            codes.push(match response.outcome.unwrap() {
                Outcome::Ack(_) | Outcome::Acks(_) => Code::Ok,
                Outcome::Error(error) => Code::from(error.code),
            });
        }
        let mut expected = vec![Code::Ok; BEFORE];
        expected.push(Code::InvalidArgument);
        expected.extend([Code::Aborted; AFTER]);
        assert_eq!(codes, expected, "round {round}");
        assert_eq!(read_all(server.address, &topic).await, numbers(BEFORE));
    }
}

/// Goal: the command line names the refused line and the reason. The command stores the lines
/// before it and none after it, although they are for several topics and share requests.
#[tokio::test]
async fn the_command_line_names_the_line_that_was_refused_and_why() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    let good = |line: usize| {
        let topic = if line <= 100 { ["a", "b", "c"][line % 3] } else { "a" };
        format!("{{\"topic\":\"{topic}\",\"data\":{line}}}\n")
    };
    // The refused line begins a request, is in the middle of a long one, or begins the file.
    let mut stored_so_far = 0;
    for (bad, before) in [(51, 50), (201, 200), (1, 0)] {
        let lines = (1..bad).map(good).collect::<String>();
        let refused = "{\"topic\":\"a\",\"type\":\"leftoff.mine\",\"data\":0}\n";
        let more: String = (bad + 1..=400).map(good).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{lines}{refused}{more}")).unwrap();
        let path = file.path().to_str().unwrap();
        let output = soon(crate::common::run(&["publish", "-f", path, "--server", &url])).await;
        let told = crate::common::text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{told}");
        let named = format!("line {bad}: type: ");
        assert!(told.contains(&named) && told.contains("reserved"), "{told}");
        let known = before.min(stored_so_far); // These lines are known by their ids.
        let counted = format!("{} events stored, {known} were stored before", before - known);
        assert!(told.contains(&counted), "{told}");
        stored_so_far = before.max(stored_so_far);
        let topics = server.broker.topics(None, 10);
        let stored: u64 = topics.iter().map(|topic| topic.extent.events()).sum();
        assert_eq!(stored, stored_so_far as u64, "something after line {bad}");
    }
}
