//! Promises of marks.

use super::*;
use crate::broker::Filter;

#[tokio::test]
async fn each_mark_means_what_users_expect() {
    let world = World::new().await;
    world.publish("a", &["1"]).await;
    let until = START.plus_ms(60_000);
    // The marks before, the request, and the marks after it.
    let cases: [(MarkRequest, &str); 12] = [
        (named(&[1]).mark(Mark::Read), "sr"),
        (named(&[1]).unmark(Mark::Read), "s"),
        (named(&[1]).mark(Mark::Read), "sr"),
        (named(&[1]).unmark(Mark::Seen), ""),
        (named(&[1]).mark(Mark::Archived).mark(Mark::Seen), "sa"),
        (named(&[1]).unmark(Mark::Archived), "s"),
        (named(&[1]).mark(Mark::Archived).mark(Mark::Read), "sra"),
        (named(&[1]).snooze_until(until), "z"),
        (named(&[1]).mark(Mark::Read), "srz"),
        (named(&[1]).mark(Mark::Archived), "sra"),
        (named(&[1]).snooze_until(until), "z"),
        (named(&[1]).unmark(Mark::Snoozed), ""),
    ];
    for (step, (request, after)) in cases.into_iter().enumerate() {
        let ack = world.consumers.mark(&id("a"), request.clone(), "me").await.unwrap();
        assert!(ack.changed, "{step}");
        assert_eq!(world.marks(&id("a"), "a", 1), after, "{step}");
        let again = world.consumers.mark(&id("a"), request, "me").await.unwrap();
        assert_eq!((again.changed, again.revision), (false, ack.revision), "{step}");
    }
    assert_eq!(world.records(), 1 + 12, "a repeat writes nothing");
    world.broker.close().await;
}

/// Goal: a snoozed event comes back as unseen at its time, without a timer, also after a restart.
#[tokio::test]
async fn a_snoozed_event_returns_at_its_time() {
    let mut world = World::new().await;
    let cursor = world.publish("a", &["1", "2"]).await;
    let until = START.plus_ms(60_000);
    world.consumers.mark(&id("a"), named(&[1]).mark(Mark::Read), "me").await.unwrap();
    world.consumers.mark(&id("a"), named(&[1]).snooze_until(until), "me").await.unwrap();
    let all = MarkRequest::of(MarkedEvents::up_to(cursor)).mark(Mark::Read);
    world.consumers.mark(&id("a"), all, "me").await.unwrap();
    let marks = world.consumers.state(&id("a")).marks;
    assert_eq!(marks.next_return(START), Some(until));
    assert_eq!(
        (world.marks(&id("a"), "a", 1), world.marks(&id("a"), "a", 2)),
        ("z".into(), "sr".into())
    );
    world.clock.advance(Duration::from_millis(59_999));
    world.restart().await;
    assert_eq!(world.marks(&id("a"), "a", 1), "z");
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.marks(&id("a"), "a", 1), "", "it is back, and nobody saw it");
    world.restart().await;
    assert_eq!(world.marks(&id("a"), "a", 1), "");
    world.broker.close().await;
}

/// Goal: "all" is what was shown: nothing that came since, and nothing that is snoozed.
#[tokio::test]
async fn all_up_to_a_cursor_swallows_nothing_that_was_not_shown() {
    let world = World::new().await;
    let shown = world.publish("a", &["1", "2", "3"]).await;
    world.publish("a", &["4"]).await;
    let all = |cursor| MarkRequest::of(MarkedEvents::up_to(cursor));
    let mark = async |request: MarkRequest| world.consumers.mark(&id("a"), request, "me").await;
    mark(named(&[2]).unmark(Mark::Read)).await.unwrap();
    mark(all(shown).mark(Mark::Read)).await.unwrap();
    let now = || (1..=4).map(|n| world.marks(&id("a"), "a", n)).collect::<Vec<_>>();
    assert_eq!(now(), ["sr", "sr", "sr", ""]);
    mark(named(&[2]).unmark(Mark::Read)).await.unwrap();
    assert_eq!(now(), ["sr", "s", "sr", ""], "the others stay read");
    let lower = Cursor::after(Sequence::new(1), world.broker.epoch());
    assert!(!mark(all(lower).mark(Mark::Read)).await.unwrap().changed, "the watermark only rises");
    assert_eq!(now(), ["sr", "s", "sr", ""]);
    mark(all(shown).mark(Mark::Read)).await.unwrap();
    assert_eq!(now(), ["sr", "sr", "sr", ""], "what was unread is read again");
    mark(all(shown).unmark(Mark::Seen)).await.unwrap();
    assert_eq!(now(), ["", "", "", ""]);
    let watermark = world.consumers.state(&id("a")).marks.watermark(Mark::Read);
    assert_eq!(watermark, Some(Place::Sequence(Sequence::new(3))));
    world.broker.close().await;
}

/// Goal: with filters, exactly the events that the list showed are marked.
#[tokio::test]
async fn all_of_a_list_is_what_its_filters_pick() {
    let world = World::new().await;
    let types = ["mention", "like", "mention", "like", "mention"];
    let events = types.map(|event_type| NewEvent::new("x").with_type(event_type)).to_vec();
    world.broker.publish(Publish::new(name("a"), events)).await.unwrap();
    let cursor = Cursor::after(Sequence::new(4), world.broker.epoch());
    let listed = |marks: MarkFilter| {
        let filter = Filter::default().of_type("mention");
        MarkRequest::of(MarkedEvents::UpTo { cursor, filter, marks })
    };
    let mark = async |request: MarkRequest| world.consumers.mark(&id("a"), request, "me").await;
    let now = || (1..=5).map(|n| world.marks(&id("a"), "a", n)).collect::<Vec<_>>();
    mark(named(&[1]).mark(Mark::Archived)).await.unwrap();
    mark(listed(MarkFilter::INBOX).mark(Mark::Read)).await.unwrap();
    assert_eq!(now(), ["a", "", "sr", "", ""]);
    let read = MarkFilter { read: Some(true), ..MarkFilter::default() };
    mark(listed(read).mark(Mark::Archived)).await.unwrap();
    assert_eq!(now(), ["a", "", "sra", "", ""]);
    let until = START.plus_ms(1_000);
    mark(named(&[3]).snooze_until(until)).await.unwrap();
    mark(listed(MarkFilter::default()).mark(Mark::Seen)).await.unwrap();
    assert_eq!(now(), ["sa", "", "z", "", ""], "what is snoozed is in no list");
    let snoozed = MarkFilter { snoozed: Some(true), ..MarkFilter::default() };
    mark(listed(snoozed).unmark(Mark::Snoozed)).await.unwrap();
    assert_eq!(now(), ["sa", "", "", "", ""]);
    let granted = MarkRequest::of(MarkedEvents::up_to(cursor)).mark(Mark::Read);
    mark(granted.permitted(Filter::default().of_type("like"))).await.unwrap();
    assert_eq!(now(), ["sa", "sr", "", "sr", ""], "only what the caller may read");
    world.broker.close().await;
}

#[tokio::test]
async fn events_of_a_pattern_are_named_by_topic_and_sequence() {
    let world = World::new().await;
    world.publish("u.a", &["1", "2"]).await;
    world.publish("u.b", &["1"]).await;
    world.publish("u.a", &["3"]).await;
    let id = id("u.*");
    let of = |topic: &str, sequence| {
        let (topic, sequence) = (name(topic), Sequence::new(sequence));
        MarkRequest::of(MarkedEvents::Named(vec![EventName::OfTopic { topic, sequence }]))
    };
    let now = |positions: &[(&str, u64, u64)]| {
        let marks = world.consumers.state(&id).marks;
        let letter = |&(topic, sequence, position): &(&str, u64, u64)| {
            let (topic, sequence) = (&name(topic), Sequence::new(sequence));
            let position = Position::new(position);
            if marks.of(&Marked { topic, sequence, position }, START).read { "r" } else { "-" }
        };
        positions.iter().map(letter).collect::<String>()
    };
    let all = [("u.a", 1, 1), ("u.a", 2, 2), ("u.b", 1, 3), ("u.a", 3, 4)];
    let mark = |request: MarkRequest| world.consumers.mark(&id, request, "me");
    mark(of("u.a", 3).mark(Mark::Read)).await.unwrap();
    assert_eq!(now(&all), "---r");
    let up_to = |position| MarkRequest::of(MarkedEvents::up_to(world.at(position)));
    mark(up_to(3).mark(Mark::Read)).await.unwrap();
    assert_eq!(now(&all), "rrrr");
    mark(of("u.a", 2).unmark(Mark::Read)).await.unwrap();
    mark(of("u.b", 1).unmark(Mark::Read)).await.unwrap();
    assert_eq!(now(&all), "r--r");
    mark(up_to(2).mark(Mark::Read)).await.unwrap();
    assert_eq!(now(&all), "rr-r", "what is after the cursor stays");
    mark(up_to(4).mark(Mark::Read)).await.unwrap();
    assert_eq!(now(&all), "rrrr");
    let marks = world.consumers.state(&id).marks;
    assert!(marks.read.marked.is_empty() && marks.read.unmarked.is_empty(), "{marks:?}");
    world.broker.close().await;
}

/// Goal: an event that was read while it was snoozed stays read, however often "all" is said.
#[tokio::test]
async fn a_snoozed_event_keeps_what_it_was_marked_with_since() {
    let world = World::new().await;
    world.publish("u.a", &["1", "2", "3"]).await;
    for selection in ["u.a", "u.*"] {
        let id = id(selection);
        let event = |sequence| {
            let name = EventName::OfTopic { topic: name("u.a"), sequence: Sequence::new(sequence) };
            MarkRequest::of(MarkedEvents::Named(vec![name]))
        };
        let up_to = |number| {
            let cursor = if id.has_positions() { world.at(number) } else { sequence_at(number) };
            MarkRequest::of(MarkedEvents::up_to(cursor)).mark(Mark::Read)
        };
        let mark = async |request| world.consumers.mark(&id, request, "me").await.unwrap();
        mark(event(1).snooze_until(START.plus_ms(1_000))).await;
        mark(event(2).snooze_until(START.plus_ms(1_000))).await;
        mark(event(1).mark(Mark::Read)).await;
        for number in [2, 1, 3] {
            mark(up_to(number)).await;
            let now: Vec<_> = (1..=2).map(|n| world.marks(&id, "u.a", n)).collect();
            assert_eq!(now, ["srz", "z"], "{selection} {number}");
        }
    }
    world.broker.close().await;
}

fn sequence_at(number: u64) -> Cursor {
    Cursor { after: Place::Sequence(Sequence::new(number)), since: None, epoch: None }
}

#[tokio::test]
async fn an_event_is_found_by_the_id_of_its_publisher() {
    let world = World::new().await;
    world.publish("a", &["x", "y", "z"]).await;
    let of = |ids: &[&str]| {
        let names = ids.iter().map(|id| EventName::Id { id: (*id).to_owned() });
        MarkRequest::of(MarkedEvents::Named(names.collect())).mark(Mark::Seen)
    };
    world.consumers.mark(&id("a"), of(&["x", "z", "x"]), "me").await.unwrap();
    let now: Vec<_> = (1..=3).map(|n| world.marks(&id("a"), "a", n)).collect();
    assert_eq!(now, ["s", "", "s"]);
    let error = world.consumers.mark(&id("a"), of(&["y", "none"]), "me").await.unwrap_err();
    assert_eq!(error.to_string(), "events: \"none\" is the id of no event that is kept");
    assert_eq!(world.marks(&id("a"), "a", 2), "", "all or nothing");
    world.broker.close().await;
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_by_name() {
    let world = World::new().await;
    let cursor = world.publish("a", &["1"]).await;
    world.publish("b", &["1"]).await;
    let of_topic = |topic: &str| {
        let name = EventName::OfTopic { topic: name(topic), sequence: Sequence::FIRST };
        MarkRequest::of(MarkedEvents::Named(vec![name])).mark(Mark::Seen)
    };
    let until = |until| named(&[1]).snooze_until(until);
    let no_time = named(&[1]).mark(Mark::Snoozed);
    let ahead = Cursor { after: cursor.after.next(), ..cursor };
    let refusals = [
        ("a", named(&[1]), "mark: is empty"),
        ("a", named(&[1]).mark(Mark::Seen).unmark(Mark::Seen), "unmark: \"seen\" is in mark, too"),
        ("a", named(&[1]).mark(Mark::Read).unmark(Mark::Seen), "unmark: a read event is seen"),
        ("a", no_time, "snooze_until: is missing"),
        ("a", until(START), "snooze_until: 2026-01-01T00:00:00.000Z is not after now"),
        ("a", until(Timestamp::MAX.plus_ms(1)), "snooze_until: is after the year 9999"),
        ("a", until(START.plus_ms(1)).mark(Mark::Read), "mark: snoozed clears the other marks"),
        ("a", named(&[2]).mark(Mark::Seen), "events: \"a\" has no event 2; its last one is 1"),
        ("a", named(&[0]).mark(Mark::Seen), "events: \"a\" has no event 0"),
        ("a", of_topic("b"), "events: \"b\" is none of \"a\""),
        ("c", named(&[1]).mark(Mark::Seen), "there is no topic \"c\""),
        ("*", named(&[1]).mark(Mark::Seen), "events: 1 needs its topic"),
        (
            "a",
            MarkRequest::of(MarkedEvents::up_to(ahead)).mark(Mark::Seen),
            &format!("up_to: {ahead} is ahead of the last event, 1"),
        ),
    ];
    for (selection, request, told) in refusals {
        let error = world.consumers.mark(&id(selection), request, "me").await.unwrap_err();
        assert!(error.to_string().starts_with(told), "{told}: {error}");
    }
    assert_eq!(world.records(), 0);
    world.broker.close().await;
}

/// Goal: the marks of events that are gone take no room, and a topic that is made anew has none of
/// the marks of the one before.
#[tokio::test]
async fn marks_go_with_the_events_that_they_concern() {
    let world = World::new().await;
    world.publish("a", &["1", "2", "3", "4"]).await;
    let mark = async |request: MarkRequest| world.consumers.mark(&id("a"), request, "me").await;
    mark(named(&[1, 2, 4]).mark(Mark::Read)).await.unwrap();
    mark(named(&[1, 3]).snooze_until(START.plus_ms(1_000))).await.unwrap();
    world.broker.purge(&name("a"), Sequence::new(3)).await.unwrap();
    assert_eq!(mark(named(&[1]).mark(Mark::Read)).await.unwrap().gone, 1);
    mark(named(&[4]).mark(Mark::Archived)).await.unwrap();
    let marks = world.consumers.state(&id("a")).marks;
    assert_eq!(marks.read.marked_ranges()[&name("a")], "4");
    assert_eq!(marks.snoozed().map(|(_, sequence, _)| sequence.get()).collect::<Vec<_>>(), [3]);
    world.broker.delete_topic(&name("a")).await.unwrap();
    world.publish("a", &["5", "6"]).await;
    assert_eq!(world.marks(&id("a"), "a", 5), "");
    mark(named(&[5]).mark(Mark::Seen)).await.unwrap();
    let marks = world.consumers.state(&id("a")).marks;
    assert!(marks.read.marked.is_empty() && marks.snoozed.is_empty(), "{marks:?}");
    assert_eq!(
        (world.marks(&id("a"), "a", 5), world.marks(&id("a"), "a", 6)),
        ("s".into(), "".into())
    );
    world.broker.close().await;
}
