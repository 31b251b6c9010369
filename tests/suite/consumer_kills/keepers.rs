//! The load: publishers, and the clients of consumers, which set checkpoints and marks over each
//! transport until the broker is gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leftoff::edge::proto::checkpoint_stream_request::Request as Asked;
use leftoff::edge::proto::checkpoint_stream_response::Outcome;
use leftoff::edge::proto::{
    CheckpointStreamRequest, ConsumerRef, EventRef, MarkEventsRequest, SetCheckpointRequest,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::asking::{Asker, is_storage, now_ms, number_of};
use super::kept::{Kept, Marking, Moving, Picked};
use crate::common::{Grpc, soon};
use crate::websocket::Client;

/// A consumer that several clients and the check share.
pub(super) type Shared = Arc<Mutex<Kept>>;

/// The sequence and the position of each acknowledged event, by topic.
pub(super) type Published = Arc<Mutex<BTreeMap<&'static str, Vec<(u64, u64)>>>>;

/// The most requests that a client sends before it reads their answers.
const MAX_AHEAD: usize = 12;

/// Publishes to a topic until the broker is gone.
pub(super) async fn publish(at: SocketAddr, topic: &'static str, all: Published, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let asker = Asker::new(at);
    loop {
        let kind = if random.random_bool(0.5) { "even" } else { "odd" };
        let mut path = format!("/v1/topics/{topic}/events?type={kind}");
        if random.random_bool(0.5) {
            path += &format!("&key=k{}", random.random_range(0..5));
        }
        let Some((status, receipt)) = asker.ask("POST", &path, &json!(seed)).await else { return };
        assert_eq!(status, 201, "{receipt}");
        let place = ["sequence", "position"].map(|name| receipt[name].as_u64().unwrap());
        all.lock().unwrap().entry(topic).or_default().push((place[0], place[1]));
        tokio::time::sleep(Duration::from_millis(random.random_range(1..5))).await;
    }
}

/// Returns an acknowledged event of a consumer: topic, sequence and position.
fn any_event(
    kept: &Kept,
    all: &Published,
    random: &mut StdRng,
) -> Option<(&'static str, u64, u64)> {
    let all = all.lock().unwrap();
    let mine: Vec<_> = all.iter().filter(|(topic, _)| kept.reads(topic)).collect();
    let (topic, places) = mine.get(random.random_range(0..mine.len().max(1)))?;
    // Mostly a recent one, so that some of its neighbours are already marked.
    let reach = if random.random_bool(0.7) { 60 } else { places.len() };
    let back = random.random_range(0..reach);
    let (sequence, position) = places[places.len() - 1 - back % places.len()];
    Some((**topic, sequence, position))
}

/// Returns a random request for a checkpoint; `None` while there is no event.
fn some_moving(kept: &Kept, all: &Published, random: &mut StdRng) -> Option<Moving> {
    let (_, sequence, position) = any_event(kept, all, random)?;
    let expected = match random.random_range(0..10) {
        0 | 1 => Some(kept.checkpoint),
        2 => Some(random.random_range(0..5)),
        _ => None,
    };
    let to = if kept.has_positions() { position } else { sequence };
    Some(Moving { to, is_forced: random.random_bool(0.3), expected })
}

/// The requests for marks of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// Any.
    Any,
    /// Those that name events.
    Named,
    /// Those that name events, and snoozes that end soon.
    ShortSnoozes,
}

/// Returns a random request for marks; `None` while there is no event.
fn some_marking(
    kept: &Kept,
    all: &Published,
    random: &mut StdRng,
    habit: Habit,
) -> Option<Marking> {
    let mut mark = ["seen", "read", "archived", "snoozed"][random.random_range(0..4)];
    let mut is_taken_away = random.random_bool(0.3);
    let events = if habit == Habit::Any && random.random_bool(0.2) {
        mark = ["seen", "read", "archived"][random.random_range(0..3)];
        let (_, sequence, position) = any_event(kept, all, random)?;
        let number = if kept.has_positions() { position } else { sequence };
        let (only_even, only_unread) = (random.random_bool(0.3), random.random_bool(0.3));
        Picked::UpTo { number, only_even, only_unread }
    } else {
        let count = random.random_range(1..6);
        let places = (0..count).map(|_| any_event(kept, all, random));
        let places = places.collect::<Option<Vec<_>>>()?.into_iter();
        is_taken_away |= mark == "snoozed" && random.random_bool(0.3);
        Picked::Named(places.map(|(topic, sequence, _)| (topic.to_owned(), sequence)).collect())
    };
    let until_ms = match (mark, is_taken_away, habit) {
        ("snoozed", false, Habit::ShortSnoozes) => now_ms() + random.random_range(60..600),
        ("snoozed", false, _) => now_ms() + 3_600_000,
        _ => 0,
    };
    Some(Marking { mark, is_taken_away, until_ms, events, sent_ms: now_ms() })
}

/// Sets checkpoints over HTTP, one after another. Each answer is what it must be.
pub(super) async fn checkpoints(at: SocketAddr, kept: Shared, all: Published, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let asker = Asker::new(at);
    let path = kept.lock().unwrap().path("/checkpoint");
    loop {
        let asked = {
            let mut kept = kept.lock().unwrap();
            let moving = some_moving(&kept, &all, &mut random);
            kept.moving.extend(moving.clone());
            moving.map(|moving| (moving.json(kept.has_positions()), moving))
        };
        let Some((body, moving)) = asked else {
            tokio::time::sleep(Duration::from_millis(2)).await; // There is no event yet.
            continue;
        };
        let Some((status, told)) = asker.ask("POST", &path, &body).await else { return };
        let mut kept = kept.lock().unwrap();
        kept.moving.clear();
        match moving.applied(kept.checkpoint) {
            None => assert_eq!(status, 409, "{path}: {body}: {told}"),
            Some((next, moved)) => {
                assert_eq!(status, 200, "{path}: {body}: {told}");
                let answer = (number_of(&told["checkpoint"]), told["moved"].as_bool().unwrap());
                assert_eq!(answer, (next, moved), "{path}: {body}: {told}");
                kept.checkpoint = next;
                kept.told(number_of(&told["revision"]), moved);
            }
        }
    }
}

/// Sets marks over HTTP, one after another.
pub(super) async fn marks(at: SocketAddr, kept: Shared, all: Published, seed: u64, habit: Habit) {
    let mut random = StdRng::seed_from_u64(seed);
    let asker = Asker::new(at);
    let path = kept.lock().unwrap().path("/marks");
    loop {
        let asked = {
            let mut kept = kept.lock().unwrap();
            let marking = some_marking(&kept, &all, &mut random, habit);
            kept.marking.extend(marking.clone());
            marking.map(|marking| marking.json(kept.has_positions()))
        };
        let Some(body) = asked else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        let Some((status, told)) = asker.ask("POST", &path, &body).await else { return };
        let mut kept = kept.lock().unwrap();
        let done = std::mem::take(&mut kept.marking);
        if status == 400 && habit == Habit::ShortSnoozes {
            let problem = told["detail"].as_str().unwrap();
            assert!(problem.starts_with("snooze_until: "), "{path}: {body}: {told}");
            continue; // It came too late.
        }
        assert_eq!(status, 200, "{path}: {body}: {told}");
        kept.marked.extend(done);
        kept.told(number_of(&told["revision"]), told["changed"] == true);
    }
}

/// Some requests of one client, which go out before their answers come back.
fn some_ahead(kept: &Shared, all: &Published, random: &mut StdRng) -> Vec<Ahead> {
    let mut kept = kept.lock().unwrap();
    let mut ahead = Vec::new();
    for _ in 0..random.random_range(1..=MAX_AHEAD) {
        if random.random_bool(0.5) {
            // Conditions would rest on answers that have not come.
            let Some(moving) = some_moving(&kept, all, random) else { continue };
            let moving = Moving { expected: None, ..moving };
            kept.moving.push(moving.clone());
            ahead.push(Ahead::Moving(moving));
        } else {
            let Some(marking) = some_marking(&kept, all, random, Habit::Named) else { continue };
            kept.marking.push(marking.clone());
            ahead.push(Ahead::Marking(marking));
        }
    }
    ahead
}

enum Ahead {
    Moving(Moving),
    Marking(Marking),
}

/// Notes that the first unanswered request of a kind was answered.
fn is_answered(kept: &Shared, is_mark: bool, revision: u64, is_changed: bool) {
    let mut kept = kept.lock().unwrap();
    if is_mark {
        let done = kept.marking.remove(0);
        kept.marked.push(done);
    } else {
        let done = kept.moving.remove(0);
        let (next, moved) = done.applied(kept.checkpoint).unwrap();
        assert_eq!(is_changed, moved, "{}: {done:?} from {}", kept.name, kept.checkpoint);
        kept.checkpoint = next;
    }
    kept.told(revision, is_changed);
}

/// Sets checkpoints and marks on a WebSocket, many ahead of their answers.
pub(super) async fn on_web_socket(at: SocketAddr, kept: Shared, all: Published, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let Some(mut client) = Client::connect_if_up(at).await else { return };
    let (name, selection, has_positions) = {
        let kept = kept.lock().unwrap();
        (kept.name, kept.selection, kept.has_positions())
    };
    loop {
        let ahead = some_ahead(&kept, &all, &mut random);
        for (number, one) in ahead.iter().enumerate() {
            let (kind, mut message) = match one {
                Ahead::Moving(moving) => ("checkpoint", moving.json(has_positions)),
                Ahead::Marking(marking) => ("mark", marking.json(has_positions)),
            };
            message["type"] = json!(kind);
            message["ref"] = json!(number);
            (message["topic"], message["consumer"]) = (json!(selection), json!(name));
            if !client.try_say(message).await {
                return;
            }
        }
        // Requests are decided in their order, and answers may overtake each other: an answer is
        // noted after those before it.
        let mut answers = BTreeMap::new();
        for next in 0..ahead.len() as u64 {
            while !answers.contains_key(&next) {
                let Some(told) = client.try_hear().await else { return };
                if told["type"] == "error" && is_storage(&told["error"]) {
                    return;
                }
                answers.insert(told["ref"].as_u64().unwrap(), told);
            }
            let told = &answers[&next];
            let is_mark = told["type"] == "ack";
            assert!(is_mark || told["type"] == "checkpointed", "{told}");
            let is_changed = told[if is_mark { "changed" } else { "moved" }] == true;
            is_answered(&kept, is_mark, number_of(&told["revision"]), is_changed);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Sets checkpoints and marks on a stream of gRPC, many ahead of their answers.
pub(super) async fn over_grpc(at: SocketAddr, kept: Shared, all: Published, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let Ok(mut client) = Grpc::connect(format!("http://{at}")).await else { return };
    let consumer = {
        let kept = kept.lock().unwrap();
        let (topic, consumer) = (kept.selection.to_owned(), kept.name.to_owned());
        Some(ConsumerRef { topic, consumer, ..ConsumerRef::default() })
    };
    let (sender, requests) = tokio::sync::mpsc::channel(MAX_AHEAD);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let Ok(answers) = client.checkpoint_stream(requests).await else { return };
    let mut answers = answers.into_inner();
    loop {
        let ahead = some_ahead(&kept, &all, &mut random);
        for one in &ahead {
            let asked = match one {
                Ahead::Moving(moving) => Asked::Checkpoint(SetCheckpointRequest {
                    consumer: consumer.clone(),
                    cursor: moving.to.to_string(),
                    force: moving.is_forced,
                    expected: None,
                }),
                Ahead::Marking(marking) => Asked::Mark(marking_of(marking, consumer.clone())),
            };
            if sender.send(CheckpointStreamRequest { request: Some(asked) }).await.is_err() {
                return;
            }
        }
        for _ in &ahead {
            let Ok(Some(told)) = soon(answers.message()).await else { return };
            match told.outcome {
                Some(Outcome::Checkpoint(ack)) => {
                    is_answered(&kept, false, number_of(&json!(ack.revision)), ack.moved);
                }
                Some(Outcome::Mark(ack)) => {
                    is_answered(&kept, true, number_of(&json!(ack.revision)), ack.changed);
                }
                Some(Outcome::Error(error)) if error.message.starts_with("storage failed") => {
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Returns a request of gRPC for the marks of named events.
fn marking_of(marking: &Marking, consumer: Option<ConsumerRef>) -> MarkEventsRequest {
    let Picked::Named(names) = &marking.events else { panic!("{marking:?}") };
    let event = |(topic, sequence): &(String, u64)| EventRef {
        topic: topic.clone(),
        sequence: *sequence,
        ..EventRef::default()
    };
    let marks = vec![marking.mark.to_owned()];
    let (mark, unmark) = match marking.is_taken_away {
        true => (Vec::new(), marks),
        false => (marks, Vec::new()),
    };
    let events = names.iter().map(event).collect();
    let snooze_until_ms = (marking.until_ms > 0).then_some(marking.until_ms);
    MarkEventsRequest { consumer, mark, unmark, snooze_until_ms, events, ..Default::default() }
}
