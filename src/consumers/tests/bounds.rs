//! The bounds of consumers.

use super::*;
use crate::broker::Filter;

#[tokio::test]
async fn there_are_so_many_consumers_in_all_and_of_each_owner() {
    let config =
        ConsumersConfig { max_consumers: 5, max_consumers_per_owner: 2, ..Default::default() };
    let mut world = World::with(config).await;
    let put = |world: &World, selection: &str, owner: &str| {
        let id = id(selection).of_owner(owner);
        let consumers = world.consumers.clone();
        async move {
            let put = consumers.put(id, ConsumerSettings::default(), None).await;
            put.map(drop).map_err(|error| error.to_string())
        }
    };
    // Decided in one batch: those that are not stored yet count, too.
    let (one, two, three) =
        tokio::join!(put(&world, "a", "u"), put(&world, "b", "u"), put(&world, "c", "u"));
    let full = "there are 2 consumers of this owner already, and there may be no more";
    assert_eq!((one, two, three), (Ok(()), Ok(()), Err(full.to_owned())));
    put(&world, "a", "u").await.unwrap(); // It is there, so it takes no more room.
    world.restart().await;
    assert_eq!(put(&world, "c", "u").await.unwrap_err(), full);
    for selection in ["a", "b", "c"] {
        put(&world, selection, "").await.unwrap(); // They are nobody's own.
    }
    let full = "there are 5 consumers already, and there may be no more";
    assert_eq!(put(&world, "a", "v").await.unwrap_err(), full);
    world.consumers.delete(&id("a")).await.unwrap();
    put(&world, "a", "v").await.unwrap();
    world.broker.close().await;
}

#[tokio::test]
async fn the_marks_of_a_consumer_take_so_many_bytes() {
    let config = ConsumersConfig { max_marks_bytes: 1_024, ..Default::default() };
    let world = World::with(config).await;
    let ids: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let cursor = world.publish("a", &ids).await;
    let mark = async |request: MarkRequest| world.consumers.mark(&id("a"), request, "me").await;
    let odd: Vec<u64> = (0..100).map(|number| 1_001 + 2 * number).collect();
    mark(named(&odd).mark(Mark::Seen)).await.unwrap();
    let before = world.consumers.state(&id("a"));
    let more: Vec<u64> = (0..400).map(|number| 1 + 2 * number).collect();
    let error = mark(named(&more).mark(Mark::Seen)).await.unwrap_err();
    let Error::OverLimit { name, value, limit: 1_024 } = &error else { panic!("{error}") };
    assert!(name == "bytes of a consumer's marks" && *value > 1_024, "{error}");
    assert_eq!(world.consumers.state(&id("a")), before, "nothing was marked");
    // A range takes the room of its two ends, and a watermark none.
    let neighbours: Vec<u64> = (1..1_000).collect();
    mark(named(&neighbours).mark(Mark::Seen)).await.unwrap();
    mark(MarkRequest::of(MarkedEvents::up_to(cursor)).mark(Mark::Seen)).await.unwrap();
    assert!(world.consumers.state(&id("a")).marks.seen.marked.is_empty());
    world.broker.close().await;
}

/// Goal: the marks of events that compaction dropped give their room to others.
#[tokio::test]
async fn the_marks_of_what_compaction_dropped_take_no_room() {
    let config = ConsumersConfig { max_marks_bytes: 1_024, ..Default::default() };
    let world = World::with(config).await;
    let compact = crate::topic_config::TopicConfig { compact: Some(true), ..Default::default() };
    world.broker.set_topic(&name("a"), compact).await.unwrap();
    let publish = async |prefix: &str| {
        let event = |number| NewEvent::new("x").with_key(format!("{prefix}{number}"));
        let publish = Publish::new(name("a"), (0..300).map(event).collect());
        world.broker.publish(publish).await.unwrap();
    };
    let mark = async |request: MarkRequest| world.consumers.mark(&id("a"), request, "me").await;
    let odd = |from: u64| (0..150).map(|number| from + 2 * number).collect::<Vec<u64>>();
    publish("one").await;
    publish("two").await;
    mark(named(&odd(1)).mark(Mark::Read)).await.unwrap_err(); // It is seen, too: twice the room.
    mark(named(&odd(1)).mark(Mark::Archived)).await.unwrap();
    mark(named(&odd(301)).mark(Mark::Archived)).await.unwrap_err();
    publish("one").await;
    world.broker.maintain(Some(&name("a"))).await.unwrap();
    mark(named(&odd(301)).mark(Mark::Archived)).await.unwrap();
    assert_eq!(world.marks(&id("a"), "a", 303), "a");
    let marks = world.consumers.state(&id("a")).marks;
    assert_eq!(marks.archived.marked[&name("a")].len(), 150);
    world.broker.close().await;
}

/// Goal: a search for groups remembers so many of them, also of those that the page does not have.
#[tokio::test]
async fn a_page_of_groups_remembers_so_many_keys_and_says_that_there_may_be_more() {
    let world = World::new().await;
    world.publish("a", &["1", "2", "3", "4", "5"]).await; // Each without a key: five groups.
    let groups = async |max_keys: usize, read: Option<bool>| {
        let marks = MarkFilter { read, ..MarkFilter::default() };
        let request = GroupRequest::default().marks(marks).max_keys(max_keys);
        let page = world.consumers.groups(&id("a"), request).await.unwrap();
        let latest = page.groups.iter().map(|group| group.latest.event.sequence.get());
        (latest.collect::<Vec<_>>(), page.more_than)
    };
    assert_eq!(groups(5, None).await, (vec![5, 4, 3, 2, 1], false));
    assert_eq!(groups(3, None).await, (vec![5, 4, 3], true));
    assert_eq!(groups(5, Some(true)).await, (vec![], false));
    assert_eq!(groups(3, Some(true)).await, (vec![], true));
    world.broker.close().await;
}

#[tokio::test]
async fn a_request_names_and_looks_at_so_many_events() {
    let config =
        ConsumersConfig { max_marked_events: 3, max_searched_events: 4, ..Default::default() };
    let world = World::with(config).await;
    for number in 1..=6 {
        world.publish("a", &[&number.to_string()]).await; // Each in a block of its own.
    }
    let mark = async |request: MarkRequest| world.consumers.mark(&id("a"), request, "me").await;
    let error = mark(named(&[1, 2, 3, 4]).mark(Mark::Seen)).await.unwrap_err().to_string();
    assert_eq!(error, "marked events: 4 is over the limit of 3");
    let of_id = |id: &str| {
        let name = EventName::Id { id: id.to_owned() };
        MarkRequest::of(MarkedEvents::Named(vec![name])).mark(Mark::Seen)
    };
    mark(of_id("3")).await.unwrap();
    let error = mark(of_id("2")).await.unwrap_err().to_string();
    assert_eq!(error, "events: \"2\" is not the id of any of the newest 4 events");
    let unread = MarkFilter { read: Some(false), archived: Some(false), ..MarkFilter::default() };
    let listed = |sequence| {
        let cursor = Cursor::after(Sequence::new(sequence), world.broker.epoch());
        let (filter, marks) = (Default::default(), unread);
        MarkRequest::of(MarkedEvents::UpTo { cursor, filter, marks }).mark(Mark::Read)
    };
    let error = mark(listed(6)).await.unwrap_err().to_string();
    assert_eq!(error, "events to look at: 5 is over the limit of 4");
    mark(listed(4)).await.unwrap();
    // Those below the watermark of all marks have them already, and are not looked at.
    let cursor = Cursor::after(Sequence::new(2), world.broker.epoch());
    mark(MarkRequest::of(MarkedEvents::up_to(cursor)).mark(Mark::Read)).await.unwrap();
    mark(listed(6)).await.unwrap();
    let now: Vec<_> = (1..=6).map(|n| world.marks(&id("a"), "a", n)).collect();
    assert_eq!(now, ["sr"; 6]);
    world.broker.close().await;
}

/// Goal: a queue that stays full is told after the configured wait, whether it is full by number or
/// by bytes; what has its place is stored.
#[tokio::test]
async fn a_full_queue_refuses_after_a_bounded_wait() {
    for config in [
        ConsumersConfig { max_queue_commands: 1, ..Default::default() },
        ConsumersConfig { max_queue_bytes: 65_536, ..Default::default() },
    ] {
        let config = ConsumersConfig { max_queue_wait_ms: 20, ..config };
        let world = World::with(config).await;
        world.publish("a", &["1"]).await;
        let gate = world.log.hold();
        world.log.fail(world.log.appends() + 1, crate::broker::Fault::Waits);
        let cursor = Cursor::after(Sequence::new(1), world.broker.epoch());
        let callers: Vec<_> = (0..300)
            .map(|number| {
                let consumers = world.consumers.clone();
                let id = id("a").of_owner(format!("owner-{number}"));
                tokio::spawn(async move { consumers.checkpoint(&id, Checkpoint::at(cursor)).await })
            })
            .collect();
        let is_refused = || callers.iter().filter(|caller| caller.is_finished()).count() > 0;
        crate::testing::until("one is refused", is_refused).await;
        drop(gate);
        let (mut stored, mut refused) = (0, 0);
        for caller in callers {
            match caller.await.unwrap() {
                Ok(ack) => stored += u64::from(ack.moved),
                Err(Error::Busy { waited_ms: 20 }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(stored > 0 && refused > 0, "{stored} {refused}");
        assert_eq!(world.consumers.count() as u64, stored);
        world.broker.close().await;
    }
}

/// Goal: however many commands come at once, and however large they are, each is stored and
/// answered.
#[tokio::test]
async fn more_commands_than_a_batch_takes_are_all_stored() {
    let world = World::new().await;
    let large = crate::broker::Filter {
        keys: (0..1_000).map(|n| n.to_string()).collect(),
        ..Default::default()
    };
    for (count, filter) in [(3_000, Default::default()), (400, large)] {
        let callers = (0..count).map(|number| {
            let settings = ConsumerSettings::default().filter(filter.clone());
            world.consumers.put(id("a").of_owner(format!("u{number}")), settings, None)
        });
        let answers = futures_util::future::join_all(callers).await;
        for (number, answer) in answers.into_iter().enumerate() {
            let info = answer.unwrap();
            assert_eq!(
                (info.id.owner, info.settings.filter),
                (format!("u{number}"), filter.clone())
            );
        }
    }
    assert_eq!((world.consumers.count(), world.records()), (3_000, 3_400));
    world.broker.close().await;
}

#[tokio::test]
async fn the_id_of_an_owner_has_a_bound() {
    let world = World::new().await;
    let get = |owner: &str| {
        let got = world.consumers.get(&id("a").of_owner(owner));
        got.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(get(&"x".repeat(MAX_OWNER_BYTES)), Ok(()));
    let told = "owner bytes: 513 is over the limit of 512";
    assert_eq!(get(&"x".repeat(MAX_OWNER_BYTES + 1)).unwrap_err(), told);
    let told = "owner: \"a\\0b\" holds the control character '\\0'";
    assert_eq!(get("a\0b").unwrap_err(), told);
    world.broker.close().await;
}

#[test]
fn a_setting_beyond_its_bounds_is_refused_by_name() {
    ConsumersConfig::default().validate().unwrap();
    let wrong = ConsumersConfig { max_marks_bytes: 1_023, ..Default::default() };
    let told = "consumers.max_marks_bytes: 1023 is not within 1024 and 8388608";
    assert_eq!(wrong.validate().unwrap_err().to_string(), told);
    let wrong = ConsumersConfig { max_kept_changes: 0, ..Default::default() };
    let told = "consumers.max_kept_changes: 0 is not within 1 and 1000000";
    assert_eq!(wrong.validate().unwrap_err().to_string(), told);
}

/// Goal: a list of consumers has at most a thousand of them, and an idle one takes little memory.
#[tokio::test]
async fn lists_are_bounded_and_an_idle_consumer_takes_less_than_256_bytes() {
    let world = World::new().await;
    let mut entries = Vec::new();
    let measured = allocation_counter::measure(|| {
        for number in 0..10_000_u64 {
            let selection = format!("users.{number:06}.notifications").parse().unwrap();
            let name: ConsumerName = "inbox".parse().unwrap();
            let id = ConsumerId::new(selection, name).of_owner(format!("user-{number:06}"));
            let cursor = Cursor::after(Sequence::new(7), Epoch::new(1));
            let cursor = Cursor { epoch: None, ..cursor };
            let entry = ConsumerEntry::new(&id, number + 1).with_checkpoint(Some(cursor), None);
            entries.push(entry.with_times(START, START).with_revision(Position::new(number + 1)));
        }
        let view = View::of(std::mem::take(&mut entries), 10_000);
        *world.consumers.0.view.write().unwrap() = view;
    });
    let bytes = measured.bytes_current as f64 / 10_000.0;
    assert!(bytes < 256.0 - 32.0, "{bytes} bytes, and each allocation takes some more");
    assert_eq!(world.consumers.count(), 10_000);
    let list = ConsumerList { limit: usize::MAX, ..ConsumerList::default() };
    assert_eq!(world.consumers.list(&list).len(), MAX_LIST);
    world.broker.close().await;
}

/// Goal: whoever may not change shared consumers does not change one, also if it begins to share
/// its events between the check and the change.
#[tokio::test]
async fn what_shares_its_events_is_decided_together_with_the_change() {
    let world = World::new().await;
    let cursor = world.publish("a", &["1"]).await;
    let (boss, worker) = (world.consumers.clone(), world.consumers.clone().without_shared());
    let shared = || ConsumerSettings::default().shared(WorkSettings::default());
    let filter = || {
        ConsumerChange::default().filter(Filter { keys: ["k".into()].into(), ..Filter::default() })
    };
    let told = |error: Error| matches!(error, Error::Denied { .. });
    worker.put(id("a"), ConsumerSettings::default(), None).await.unwrap();
    let id = id("a");
    // In one batch: it begins to share its events with the first command.
    let (put, update, checkpoint, delete) = tokio::join!(
        boss.put(id.clone(), shared(), None),
        worker.update(&id, filter()),
        worker.checkpoint(&id, Checkpoint::at(cursor)),
        worker.delete(&id),
    );
    put.unwrap();
    assert!(
        told(update.unwrap_err()) && told(checkpoint.unwrap_err()) && told(delete.unwrap_err())
    );
    assert!(told(worker.put(id.clone(), ConsumerSettings::default(), None).await.unwrap_err()));
    assert!(told(worker.delete(&id).await.unwrap_err()));
    assert_eq!(boss.get(&id).unwrap().settings, shared());
    worker.mark(&id, named(&[1]).mark(Mark::Seen), "me").await.unwrap();
    boss.update(&id, filter()).await.unwrap();
    boss.delete(&id).await.unwrap();
    assert!(told(worker.put(id.clone(), shared(), None).await.unwrap_err()));
    assert!(!boss.exists(&id));
    world.broker.close().await;
}

/// Goal: an id of an owner that none can have, however long it is, is refused by everything that
/// names one.
#[tokio::test]
async fn an_owner_that_none_can_have_is_refused() {
    let world = World::new().await;
    world.publish("a", &["1"]).await;
    for owner in ["x".repeat(MAX_OWNER_BYTES + 1), "x".repeat(1 << 17), "a\0b".to_owned()] {
        let (id, consumers) = (id("a").of_owner(owner), &world.consumers);
        let by_id = MarkedEvents::Named(vec![EventName::Id { id: "1".to_owned() }]);
        let refused = [
            consumers.mark(&id, MarkRequest::of(by_id).mark(Mark::Seen), "me").await.map(drop),
            consumers.counts(&id, &[]).await.map(drop),
            consumers.inbox(&id, InboxRequest::default()).await.map(drop),
            consumers.groups(&id, GroupRequest::default()).await.map(drop),
            consumers.put(id.clone(), ConsumerSettings::default(), None).await.map(drop),
            consumers.get(&id).map(drop),
        ];
        for refused in refused {
            assert!(refused.unwrap_err().to_string().starts_with("owner"));
        }
        let list = ConsumerList { after: Some(id), ..ConsumerList::default() };
        assert!(consumers.list(&list).is_empty());
    }
    world.broker.close().await;
}
