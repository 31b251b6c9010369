//! Comparing consumers with what is known of them, through the routes that clients use.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::asking::{Asker, ms_of, now_ms, number_of};
use super::keepers::Shared;
use super::kept::{Kept, Listed, State};

/// The most events of a page.
const PAGE: usize = 1_000;

/// The events that are kept of some topics, and the first and the next sequence of each.
pub(super) struct Log {
    pub(super) events: Vec<Listed>,
    extents: BTreeMap<String, (u64, u64)>,
}

/// Reads all events of some topics.
pub(super) async fn read(asker: &Asker, topics: &[&str]) -> Log {
    let mut log = Log { events: Vec::new(), extents: BTreeMap::new() };
    for topic in topics {
        log.extents.insert((*topic).to_owned(), extent(asker, topic).await);
        for event in raw_events(asker, topic).await {
            log.events.push(Listed {
                topic: (*topic).to_owned(),
                sequence: event["sequence"].as_u64().unwrap(),
                position: event["position"].as_u64().unwrap(),
                is_even: event["type"] == "even",
            });
        }
    }
    log.events.sort_by_key(|event| event.position);
    log
}

async fn extent(asker: &Asker, topic: &str) -> (u64, u64) {
    let told = asker.done("GET", &format!("/v1/topics/{topic}"), &Value::Null).await;
    (told["earliest"].as_u64().unwrap(), told["tail"].as_u64().unwrap())
}

/// Returns all events of a topic, as JSON; none if there is no such topic.
pub(super) async fn raw_events(asker: &Asker, topic: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let query = format!("after={cursor}&limit={PAGE}&on_gap=earliest");
        let path = format!("/v1/topics/{topic}/events?{query}");
        let (status, page) = asker.ask("GET", &path, &Value::Null).await.unwrap();
        if status == 404 {
            return events;
        }
        events.extend(page["events"].as_array().unwrap().iter().cloned());
        cursor = page["cursor"].as_str().unwrap().to_owned();
        if page["caught_up"] == true {
            return events;
        }
    }
}

/// Waits until no short snooze is about to end.
pub(super) async fn until_snoozes_are_over(consumers: &[Shared]) {
    let end = {
        let ends = consumers.iter().flat_map(|shared| {
            let kept = shared.lock().unwrap();
            let requests: Vec<_> = kept.marked.iter().chain(&kept.marking).cloned().collect();
            requests.into_iter().map(|it| it.until_ms)
        });
        ends.filter(|until| *until < now_ms() + 60_000).max().unwrap_or(0)
    };
    let left_ms = (end + 5).saturating_sub(now_ms());
    tokio::time::sleep(Duration::from_millis(left_ms)).await;
}

/// Compares a consumer with what is known of it, and takes what is there as known.
pub(super) async fn check(asker: &Asker, shared: &Shared, log: &Log) {
    let mut kept = {
        let mut kept = shared.lock().unwrap();
        let empty = Kept::new(kept.name, kept.selection, kept.is_of_even);
        std::mem::replace(&mut *kept, empty)
    };
    let about = format!("{} of {}", kept.name, kept.selection);
    let is_mine = |event: &&Listed| kept.reads(&event.topic) && (event.is_even || !kept.is_of_even);
    let events: Vec<Listed> = log.events.iter().filter(is_mine).cloned().collect();

    let told = asker.done("GET", &kept.path(""), &Value::Null).await;
    let checkpoint = number_of(&told["checkpoint"]);
    let possible = kept.possible_checkpoints();
    assert!(possible.contains(&checkpoint), "{about}: {checkpoint} is none of {possible:?}");
    let revision = number_of(&told["revision"]);
    let is_known = kept.moving.is_empty() && kept.marking.is_empty();
    let is_right = revision == kept.revision || revision > kept.revision && !is_known;
    assert!(is_right, "{about}: the revision is {revision}, and {} was told", kept.revision);

    let whole = asker.done("GET", &kept.path("/marks"), &Value::Null).await;
    let marks = of_whole(&whole["marks"], &events, kept.has_positions());
    let now = now_ms();
    let possible = kept.possible_marks(&events);
    let is_it = |states: &&Vec<State>| states.iter().map(|it| it.at(now)).eq(marks.iter().copied());
    let Some(states) = possible.iter().find(is_it) else {
        let first = &possible[0];
        let mut different =
            events.iter().zip(first).zip(&marks).filter(|((_, a), b)| a.at(now) != **b);
        let one = different.next().map(|((event, _), told)| (told, event, kept.history(event)));
        let more = different.count();
        panic!("{about}: {one:#?}, and {more} more; unanswered: {:?}", kept.marking)
    };
    check_lists(asker, &kept, &events, states).await;
    check_counts(asker, &kept, (&events, states), checkpoint, log).await;
    let states = states.clone();
    kept.is_now(checkpoint, &events, states);
    kept.revision = revision;
    *shared.lock().unwrap() = kept;
}

/// Returns the marks of events, as the whole state of a consumer says them.
fn of_whole(marks: &Value, events: &[Listed], has_positions: bool) -> Vec<State> {
    let line = |name: &str| {
        let sets = |list: &str| {
            let sets = marks[name][list].as_object().unwrap().iter();
            sets.map(|(topic, text)| (topic.clone(), ranges(text))).collect::<BTreeMap<_, _>>()
        };
        (marks[name]["up_to"].as_u64().unwrap(), sets("marked"), sets("unmarked"))
    };
    let lines = ["seen", "read", "archived"].map(line);
    let now_ms = now_ms();
    let of = |event: &Listed| {
        let holds =
            |(up_to, marked, unmarked): &(u64, BTreeMap<String, _>, BTreeMap<String, _>)| {
                let is_in = |sets: &BTreeMap<String, Vec<(u64, u64)>>| {
                    let set = sets.get(&event.topic).into_iter().flatten();
                    set.into_iter().any(|(first, last)| (*first..=*last).contains(&event.sequence))
                };
                let place = if has_positions { event.position } else { event.sequence };
                is_in(marked) || place <= *up_to && !is_in(unmarked)
            };
        let [seen, read, archived] = [0, 1, 2].map(|index| holds(&lines[index]));
        let until = &marks["snoozed"][&event.topic][event.sequence.to_string()];
        let snoozed_until = if until.is_null() { 0 } else { ms_of(until) };
        State { seen, read, archived, snoozed_until }.at(now_ms)
    };
    events.iter().map(of).collect()
}

/// Returns the ranges in a text like `1-5,9`.
fn ranges(text: &Value) -> Vec<(u64, u64)> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        (first.parse().unwrap(), last.parse().unwrap())
    };
    text.as_str().unwrap().split(',').map(range).collect()
}

/// Compares the pages of the inbox, and those of what is archived.
async fn check_lists(asker: &Asker, kept: &Kept, events: &[Listed], states: &[State]) {
    let events_of = match kept.has_positions() {
        true => format!("/v1/events?topic={}", kept.selection.replace('>', "%3E")),
        false => format!("/v1/topics/{}/events?", kept.selection),
    };
    let path = format!("{events_of}&consumer={}&order=newest&limit={PAGE}", kept.name);
    let path = path.replace("?&", "?");
    for (query, is_archived) in [("", false), ("&archived=true", true)] {
        let mut listed = Vec::new();
        let mut before = String::new();
        loop {
            let page = asker.done("GET", &format!("{path}{query}{before}"), &Value::Null).await;
            for event in page["events"].as_array().unwrap() {
                let marks = &event["marks"];
                let is = |name: &str| marks[name].as_bool().unwrap();
                let until = &marks["snoozed_until"];
                let snoozed_until = if until.is_null() { 0 } else { ms_of(until) };
                let (seen, read, archived) = (is("seen"), is("read"), is("archived"));
                let topic = event["topic"].as_str().unwrap().to_owned();
                let sequence = event["sequence"].as_u64().unwrap();
                listed.push((topic, sequence, State { seen, read, archived, snoozed_until }));
            }
            let Some(next) = page["next"].as_str() else { break };
            before = format!("&before={}", next.replace('@', "%40"));
        }
        let now = now_ms();
        let expected = events.iter().zip(states).rev().map(|(event, state)| (event, state.at(now)));
        let expected = expected.filter(|(_, state)| match is_archived {
            true => state.archived && state.snoozed_until == 0,
            false => !state.archived && state.snoozed_until == 0,
        });
        let expected: Vec<_> =
            expected.map(|(it, state)| (it.topic.clone(), it.sequence, state)).collect();
        let first = expected.iter().zip(&listed).find(|(a, b)| a != b);
        assert!(expected == listed, "{path}{query}: {first:?}: {}", listed.len());
    }
}

/// Compares the counts.
async fn check_counts(
    asker: &Asker,
    kept: &Kept,
    (events, states): (&[Listed], &[State]),
    checkpoint: u64,
    log: &Log,
) {
    let counts = asker.done("GET", &kept.path("/counts"), &Value::Null).await;
    let now = now_ms();
    let states: Vec<State> = states.iter().map(|state| state.at(now)).collect();
    let number = |is: &dyn Fn(&State) -> bool| states.iter().filter(|it| is(it)).count() as u64;
    let is_in = |it: &State| !it.archived && it.snoozed_until == 0;
    let place = |it: &&Listed| if kept.has_positions() { it.position } else { it.sequence };
    let unfinished = events.iter().filter(|it| place(it) > checkpoint).count() as u64;
    let lost = match kept.has_positions() {
        true => 0, // It reads no topic that is trimmed.
        false if checkpoint == 0 => 0,
        false => {
            let (earliest, _) = log.extents[kept.selection];
            earliest.saturating_sub(checkpoint + 1)
        }
    };
    let expected = [
        ("total", events.len() as u64),
        ("unfinished", unfinished),
        ("lost", lost),
        ("inbox", number(&is_in)),
        ("unseen", number(&|it| is_in(it) && !it.seen)),
        ("unread", number(&|it| is_in(it) && !it.read)),
        ("archived", number(&|it| it.archived)),
        ("snoozed", number(&|it| it.snoozed_until > 0)),
    ];
    let told = expected.map(|(name, _)| (name, counts[name].as_u64().unwrap()));
    assert_eq!(told, expected, "{} of {}: {counts}", kept.name, kept.selection);
    assert_eq!(counts["more_than"], false, "{counts}");
}

/// Whether no topic was trimmed since the log was read.
pub(super) async fn is_same(asker: &Asker, log: &Log) -> bool {
    for (topic, known) in &log.extents {
        if extent(asker, topic).await != *known {
            return false;
        }
    }
    true
}
