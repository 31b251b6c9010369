//! Promises of checkpoints.

use super::*;
use crate::broker::Fault;

fn text(cursor: Option<Cursor>) -> String {
    cursor.map_or_else(|| "none".to_owned(), |it| Cursor { epoch: None, ..it }.to_string())
}

fn typed(text: &str) -> Cursor {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_checkpoint_moves_forward_and_back_only_by_force() {
    let mut world = World::new().await;
    world.publish("a", &["1", "2", "3", "4"]).await;
    let set = async |world: &World, to: Checkpoint| {
        let ack = world.consumers.checkpoint(&id("a"), to).await.unwrap();
        (text(ack.checkpoint), ack.moved)
    };
    let at = |text: &str| Checkpoint::at(typed(text));
    assert_eq!(set(&world, at("0")).await, ("none".to_owned(), false));
    assert_eq!(world.records(), 0, "a checkpoint that moves nothing creates nothing");
    assert_eq!(set(&world, at("3")).await, ("3".to_owned(), true));
    assert_eq!(set(&world, at("3")).await, ("3".to_owned(), false));
    assert_eq!(set(&world, at("2")).await, ("3".to_owned(), false));
    assert_eq!(world.records(), 1, "what moves nothing writes nothing");
    assert_eq!(set(&world, at("2").forced()).await, ("2".to_owned(), true));
    assert_eq!(set(&world, at("4~7")).await, ("4~7".to_owned(), true));
    world.restart().await;
    assert_eq!(text(world.consumers.get(&id("a")).unwrap().checkpoint), "4~7");
    assert_eq!(set(&world, at("0").forced()).await, ("none".to_owned(), true));
    world.broker.close().await;
}

#[tokio::test]
async fn a_conditional_checkpoint_is_set_only_after_the_expected_one() {
    let world = World::new().await;
    let epoch = world.broker.epoch();
    world.publish("a", &["1", "2", "3"]).await;
    let set = |to: &str, expected: Option<&str>| {
        let to = Checkpoint::at(typed(to)).expecting(expected.map(typed));
        let consumers = world.consumers.clone();
        async move { consumers.checkpoint(&id("a"), to).await.map(|ack| ack.moved) }
    };
    assert!(set("1", None).await.unwrap());
    let error = set("2", None).await.unwrap_err();
    let Error::UnexpectedCheckpoint { expected: None, actual, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(actual.as_deref(), Some(&*format!("1-{epoch}")));
    let told =
        format!("the checkpoint of consumer \"inbox\" of \"a\" is 1-{epoch}, not the expected 2");
    assert_eq!(set("3", Some("2")).await.unwrap_err().to_string(), told);
    let other = Epoch::new(epoch.get() ^ 1);
    for (expected, told) in [
        ("@1".to_owned(), "expected: @1 is a position; a consumer of the topic \"a\"".to_owned()),
        (format!("1-{other}"), format!("expected: 1-{other} is of the epoch {other}")),
    ] {
        let error = set("3", Some(&expected)).await.unwrap_err().to_string();
        assert!(error.starts_with(&told), "the number alone is the same: {error}");
    }
    assert!(set("3", Some(&format!("1-{epoch}"))).await.unwrap());
    world.broker.close().await;
}

#[tokio::test]
async fn a_place_that_is_none_of_the_consumer_is_refused() {
    let world = World::new().await;
    let (epoch, other) = (world.broker.epoch(), Epoch::new(world.broker.epoch().get() ^ 1));
    world.publish("a", &["1", "2"]).await;
    let refusals = [
        ("a", "3".to_owned(), "cursor: 3 is ahead of the last event, 2".to_owned()),
        (
            "a",
            "@1".to_owned(),
            "cursor: @1 is a position; a consumer of the topic \"a\"".to_owned(),
        ),
        ("*", "1".to_owned(), "cursor: 1 is a sequence; a consumer of the pattern".to_owned()),
        ("*", "@3".to_owned(), "cursor: @3 is ahead of the last event, 2".to_owned()),
        (
            "a",
            format!("1-{other}"),
            format!("cursor: 1-{other} is of the epoch {other}; the log's is {epoch}"),
        ),
        ("b", "1".to_owned(), "there is no topic \"b\"".to_owned()),
    ];
    for (selection, cursor, told) in refusals {
        let to = Checkpoint::at(typed(&cursor)).forced();
        let error = world.consumers.checkpoint(&id(selection), to).await.unwrap_err().to_string();
        assert!(error.starts_with(&told), "{cursor}: {error}");
    }
    assert_eq!(world.records(), 0);
    world.broker.close().await;
}

/// Goal: `from` says where a new consumer begins, in all its forms.
#[tokio::test]
async fn a_new_consumer_begins_where_it_is_told_to() {
    let world = World::new().await;
    world.publish("a", &["1", "2"]).await;
    world.clock.advance(Duration::from_secs(10));
    world.publish("b", &["1"]).await;
    world.publish("a", &["3"]).await;
    let later = START.plus_ms(10_000);
    let starts = [
        ("a", StartPoint::Earliest, "none"),
        ("a", StartPoint::Latest, "3"),
        ("a", StartPoint::Last(1), "2"),
        ("a", StartPoint::Time(later), "2"),
        ("a", StartPoint::After(typed("1")), "1"),
        ("*", StartPoint::Earliest, "none"),
        ("*", StartPoint::Latest, "@latest"),
        ("*", StartPoint::Time(later), "@2"),
        ("*", StartPoint::After(typed("@3")), "@3"),
        ("c", StartPoint::Latest, "none"),
    ];
    for (selection, start, expected) in starts {
        let latest = format!("@{}", world.broker.last_position());
        let expected = if expected == "@latest" { &latest } else { expected };
        let settings = ConsumerSettings::default();
        let info = world.consumers.put(id(selection), settings, Some(start)).await.unwrap();
        assert_eq!(text(info.checkpoint), expected, "{selection} {start}");
        world.consumers.delete(&id(selection)).await.unwrap();
    }
    let ahead = world.consumers.put(id("a"), Default::default(), Some(typed("9").into())).await;
    assert!(ahead.unwrap_err().to_string().contains("is ahead"));
    world.broker.close().await;
}

/// Goal: the checkpoint of a pattern has the sequence of each of its topics, if they are few.
#[tokio::test]
async fn a_checkpoint_of_a_pattern_knows_where_its_topics_were() {
    let mut world = World::new().await;
    let reach = |world: &World| {
        let reach = world.consumers.state(&id("u.*")).reach?;
        let end = |end: &Option<Sequence>| end.map_or("?".to_owned(), |end| end.to_string());
        let text = reach.iter().map(|(topic, it)| format!("{topic}:{}", end(it)));
        Some(text.collect::<Vec<_>>().join(" "))
    };
    let set = async |world: &World, position: u64| {
        let to = Checkpoint::at(world.at(position)).forced();
        world.consumers.checkpoint(&id("u.*"), to).await.unwrap();
        reach(world)
    };
    world.publish("x", &["1"]).await;
    let settings = ConsumerSettings::default();
    world.consumers.put(id("u.*"), settings, Some(StartPoint::Latest)).await.unwrap();
    assert_eq!(reach(&world).as_deref(), Some(""), "there was no topic");
    world.restart().await;
    assert_eq!(reach(&world).as_deref(), Some(""), "that is known after a restart, too");
    let first = world.broker.last_position().get() + 1;
    world.publish("u.a", &["1", "2"]).await;
    world.publish("u.b", &["1"]).await;
    world.publish("x", &["2"]).await;
    world.publish("u.a", &["3"]).await;
    for (after, expected) in
        [(0, "u.a:1 u.b:0"), (1, "u.a:2 u.b:0"), (3, "u.a:2 u.b:1"), (4, "u.a:3 u.b:1")]
    {
        assert_eq!(set(&world, first + after).await.as_deref(), Some(expected));
    }
    world.broker.purge(&name("u.a"), Sequence::new(3)).await.unwrap();
    assert_eq!(set(&world, first).await.as_deref(), Some("u.a:? u.b:0"), "the second one is gone");
    world.restart().await;
    assert_eq!(reach(&world).as_deref(), Some("u.a:? u.b:0"));
    for number in 0..31 {
        world.publish(&format!("u.{number}"), &["1"]).await;
    }
    let last = world.broker.last_position().get();
    assert_eq!(set(&world, last).await, None, "33 topics are not few");
    world.broker.close().await;
}

/// Goal: a pattern's number of lost events is exact for each topic whose sequence at the checkpoint
/// is known, also for those that came later, and a lower bound for the others.
#[tokio::test]
async fn lost_events_of_a_pattern_are_counted_topic_by_topic() {
    let world = World::new().await;
    world.publish("x", &["1"]).await;
    let lost = async || {
        let counts = world.consumers.counts(&id("u.*"), &[]).await.unwrap().counts[0];
        (counts.lost, counts.lost_more_than)
    };
    let purge = async |topic: &str, below: u64| {
        world.broker.purge(&name(topic), Sequence::new(below)).await.unwrap();
    };
    let settings = ConsumerSettings::default();
    world.consumers.put(id("u.*"), settings, Some(StartPoint::Latest)).await.unwrap();
    let first = world.broker.last_position().get() + 1;
    for topic in ["u.a", "u.b"] {
        world.publish(topic, &["1", "2", "3", "4", "5"]).await;
    }
    purge("u.a", 4).await;
    assert_eq!(lost().await, (3, false), "all topics came after the checkpoint");
    let to = Checkpoint::at(world.at(first));
    world.consumers.checkpoint(&id("u.*"), to).await.unwrap();
    assert_eq!(lost().await, (1, true), "two are gone, but their number is not known any more");
    purge("u.b", 4).await;
    assert_eq!(lost().await, (4, true), "three of the other topic");
    let to = Checkpoint::at(world.at(first + 1));
    world.consumers.checkpoint(&id("u.*"), to).await.unwrap();
    assert_eq!(lost().await, (2, true), "one of the first topic, some of the other one");
    let to = Checkpoint::at(world.at(first + 6));
    world.consumers.checkpoint(&id("u.*"), to).await.unwrap();
    assert_eq!(lost().await, (1, false), "no more than one is between the places");
    world.broker.close().await;
}

/// Goal: many callers at once lose nothing: the checkpoint is the furthest one, and each answer has
/// one that is there or further.
#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_move_one_checkpoint() {
    let world = World::new().await;
    let ids: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    world.publish("a", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let callers: Vec<_> = (1..=500_u64)
        .map(|number| {
            let (consumers, to) = (world.consumers.clone(), number * 7 % 500 + 1);
            let cursor = Cursor::after(Sequence::new(to), world.broker.epoch());
            tokio::spawn(async move {
                let ack = consumers.checkpoint(&id("a"), Checkpoint::at(cursor)).await.unwrap();
                (to, ack)
            })
        })
        .collect();
    for caller in callers {
        let (to, ack) = caller.await.unwrap();
        assert!(ack.checkpoint.unwrap().after.number() >= to);
    }
    assert_eq!(text(world.consumers.get(&id("a")).unwrap().checkpoint), "500");
    assert!(world.records() <= 500);
    world.broker.close().await;
}

/// Goal: what a commit refused is not there, and all that waited for it is told so; what comes
/// after it is stored.
#[tokio::test]
async fn a_refused_commit_changes_nothing_and_answers_all_that_rests_on_it() {
    let mut world = World::new().await;
    world.publish("a", &["1", "2", "3"]).await;
    let set =
        async |to: &str| world.consumers.checkpoint(&id("a"), Checkpoint::at(typed(to))).await;
    set("1").await.unwrap();
    world.log.fail(world.log.appends() + 1, Fault::NotWritten);
    // All three are decided in one batch. The second rests on the first, and moves nothing.
    let (first, second, other) = tokio::join!(
        set("3"),
        set("2"),
        world.consumers.put(id("b"), ConsumerSettings::default(), None)
    );
    for error in [first.map(drop), second.map(drop), other.map(drop)] {
        assert!(matches!(error, Err(Error::NotWritten(_))), "{error:?}");
    }
    assert_eq!(text(world.consumers.get(&id("a")).unwrap().checkpoint), "1");
    assert!(!world.consumers.exists(&id("b")));
    assert!(set("2").await.unwrap().moved);
    world.log.fail(world.log.appends() + 1, Fault::SyncFails);
    assert!(set("3").await.unwrap_err().outcome_unknown());
    assert_eq!(text(world.consumers.get(&id("a")).unwrap().checkpoint), "2", "nobody was told 3");
    world.log.repair();
    world.restart().await;
    assert_eq!(text(world.consumers.get(&id("a")).unwrap().checkpoint), "3", "it was written");
    world.broker.close().await;
}
