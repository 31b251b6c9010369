//! Promises of those who follow the state of a consumer.

use super::*;
use crate::consumers::changes::MAX_CHANGE_BYTES;
use crate::consumers::following::StateFollowers;

/// Returns what a follower is told, as a text: each change with its caller, or `whole`.
fn told(changes: StateChanges) -> Vec<String> {
    let StateChanges::These(changes) = changes else { return vec!["whole".to_owned()] };
    let text = |change: &Arc<StateChange>| match &change.what {
        Changed::Checkpoint(to) => format!("checkpoint {}", to.unwrap().after),
        Changed::Settings => "settings".to_owned(),
        Changed::Deleted => "deleted".to_owned(),
        Changed::Marks(MarksChange { mark, unmark, events, .. }) => {
            let words = |marks: &std::collections::BTreeSet<Mark>| {
                marks.iter().map(|mark| mark.as_str()).collect::<Vec<_>>().join("+")
            };
            let events = match events {
                ChangedEvents::Named(named) => format!("{named:?}"),
                ChangedEvents::UpTo(cursor) => format!("up to {}", cursor.after),
                ChangedEvents::Whole => "many".to_owned(),
            };
            format!("{}: {} not {} of {events}", change.by, words(mark), words(unmark))
        }
    };
    changes.iter().map(text).collect()
}

#[tokio::test]
async fn a_follower_is_told_the_whole_state_and_then_each_change_by_whom() {
    let world = World::new().await;
    let cursor = world.publish("a", &["1", "2", "3"]).await;
    let (consumers, id) = (&world.consumers, id("a"));
    let mut follower = consumers.follow(&id);
    follower.changed().await.unwrap();
    assert_eq!(told(consumers.changes(&id, &mut follower)), ["whole"], "nothing is known yet");
    assert!(told(consumers.changes(&id, &mut follower)).is_empty());

    consumers.mark(&id, named(&[1, 2]).mark(Mark::Read), "phone").await.unwrap();
    follower.changed().await.unwrap();
    consumers.mark(&id, named(&[2]).unmark(Mark::Read), "tab").await.unwrap();
    let all = MarkRequest::of(MarkedEvents::up_to(cursor)).mark(Mark::Seen);
    consumers.mark(&id, all.clone(), "tab").await.unwrap();
    consumers.mark(&id, all, "tab").await.unwrap();
    consumers.checkpoint(&id, Checkpoint::at(cursor)).await.unwrap();
    follower.changed().await.unwrap();
    let expected = [
        "phone: read not  of {\"a\": \"1-2\"}",
        "tab:  not read of {\"a\": \"2\"}",
        "tab: seen not  of up to 3",
        "checkpoint 3",
    ];
    assert_eq!(told(consumers.changes(&id, &mut follower)), expected, "a repeat is no change");
    consumers.delete(&id).await.unwrap();
    follower.changed().await.unwrap();
    assert_eq!(told(consumers.changes(&id, &mut follower)), ["deleted"]);
    consumers.put(id.clone(), ConsumerSettings::default(), None).await.unwrap();
    follower.changed().await.unwrap();
    assert_eq!(told(consumers.changes(&id, &mut follower)), ["settings"]);
    world.broker.close().await;
}

/// Goal: changes that are stored together have one revision. So a follower is told of their marks
/// as one: a client that was told one of two, and comes back, could not be told the other one.
#[tokio::test]
async fn marks_that_are_stored_together_are_told_as_one_change() {
    let world = World::new().await;
    let cursor = world.publish("a", &["1", "2", "3"]).await;
    let (consumers, id) = (&world.consumers, id("a"));
    let mut follower = consumers.follow(&id);
    assert_eq!(told(consumers.changes(&id, &mut follower)), ["whole"]);
    let mark = |sequence, by| consumers.mark(&id, named(&[sequence]).mark(Mark::Seen), by);
    let checkpoint = consumers.checkpoint(&id, Checkpoint::at(cursor));
    let (one, moved, two) = tokio::join!(mark(1, "tab"), checkpoint, mark(2, "tab"));
    let revision = two.unwrap().revision;
    assert_eq!((one.unwrap().revision, moved.unwrap().revision), (revision, revision));
    let all = told(consumers.changes(&id, &mut follower));
    assert_eq!(all, ["checkpoint 3", "tab:  not  of many"]);
    let (one, two) =
        tokio::join!(mark(3, "tab"), consumers.mark(&id, named(&[1]).mark(Mark::Read), "phone"));
    assert_eq!(one.unwrap().revision, two.unwrap().revision);
    let all = told(consumers.changes(&id, &mut follower));
    assert_eq!(all, [":  not  of many"], "two callers did it");
    world.broker.close().await;
}

#[tokio::test]
async fn who_is_told_the_whole_state_is_told_no_change_that_is_in_it() {
    let world = World::new().await;
    world.publish("a", &["1", "2"]).await;
    let (consumers, id) = (&world.consumers, id("a"));
    let mut follower = consumers.follow(&id);
    assert_eq!(told(consumers.changes(&id, &mut follower)), ["whole"]);
    consumers.mark(&id, named(&[1]).mark(Mark::Seen), "tab").await.unwrap();
    let state = consumers.whole(&id, &mut follower);
    assert!(state.marks.line(Mark::Seen).is_some_and(|line| !line.marked.is_empty()));
    assert!(told(consumers.changes(&id, &mut follower)).is_empty());
    consumers.mark(&id, named(&[2]).mark(Mark::Seen), "tab").await.unwrap();
    assert_eq!(told(consumers.changes(&id, &mut follower)).len(), 1);
    world.broker.close().await;
}

/// Goal: whoever comes back with the revision that it knows gets what it missed, once.
#[tokio::test]
async fn who_comes_back_is_told_what_it_missed_or_the_whole() {
    let config = ConsumersConfig { max_kept_changes: 2, ..ConsumersConfig::default() };
    let mut world = World::with(config).await;
    world.publish("a", &["1", "2", "3", "4", "5"]).await;
    let id = id("a");
    let mark = async |world: &World, sequence: u64| {
        let request = named(&[sequence]).mark(Mark::Seen);
        world.consumers.mark(&id, request, "tab").await.unwrap().revision
    };
    let back = |world: &World, revision: Position| {
        let mut follower = world.consumers.follow(&id);
        follower.knows(revision);
        told(world.consumers.changes(&id, &mut follower))
    };
    let one = mark(&world, 1).await;
    assert!(back(&world, one).is_empty(), "nothing is missing, though nothing is kept");
    let keeper = world.consumers.follow(&id); // Somebody else follows it all the time.
    let two = mark(&world, 2).await;
    assert_eq!(back(&world, one), ["tab: seen not  of {\"a\": \"2\"}"]);
    assert!(back(&world, two).is_empty());
    mark(&world, 3).await;
    assert_eq!(back(&world, one).len(), 2);
    let four = mark(&world, 4).await;
    assert_eq!(back(&world, one), ["whole"], "two changes are kept");
    assert_eq!(back(&world, two).len(), 2);
    assert_eq!(back(&world, four.next()), ["whole"], "a revision that is not there yet");
    drop(keeper);
    mark(&world, 5).await;
    assert_eq!(back(&world, four), ["whole"], "nobody followed it, and nothing was kept");
    world.restart().await;
    let present = world.consumers.state(&id).info.revision;
    assert!(back(&world, present).is_empty(), "a revision outlives a restart");
    assert_eq!(back(&world, four), ["whole"]);
    world.broker.close().await;
}

#[tokio::test]
async fn a_large_change_is_told_as_the_whole() {
    let world = World::new().await;
    let ids: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    world.publish("a", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut follower = world.consumers.follow(&id("a"));
    follower.changed().await.unwrap();
    world.consumers.changes(&id("a"), &mut follower);
    let odd: Vec<u64> = (0..1_000).map(|number| 1 + 2 * number).collect();
    let even: Vec<u64> = (1..800).map(|number| 2 * number).collect();
    world.consumers.mark(&id("a"), named(&odd).mark(Mark::Seen), "tab").await.unwrap();
    assert_eq!(told(world.consumers.changes(&id("a"), &mut follower)), ["tab: seen not  of many"]);
    world.consumers.mark(&id("a"), named(&even).mark(Mark::Seen), "tab").await.unwrap();
    let [one] = &told(world.consumers.changes(&id("a"), &mut follower))[..] else { panic!() };
    assert!(one.len() < MAX_CHANGE_BYTES + 100 && one.contains("2,4,6"), "{one}");
    world.broker.close().await;
}

#[tokio::test]
async fn nothing_is_kept_of_what_nobody_follows() {
    let world = World::new().await;
    world.publish("a", &["1"]).await;
    let followers: Arc<StateFollowers> = world.consumers.0.followers.clone();
    let (one, two) = (world.consumers.follow(&id("a")), world.consumers.follow(&id("a")));
    let other = world.consumers.follow(&id("b"));
    assert_eq!(followers.len(), 2);
    drop(one);
    assert_eq!(followers.len(), 2);
    drop((two, other));
    assert_eq!(followers.len(), 0);
    world.broker.close().await;
}

/// Goal: whoever begins to follow while changes are made misses none.
#[tokio::test(flavor = "multi_thread")]
async fn who_begins_in_the_middle_misses_nothing() {
    let world = World::new().await;
    let ids: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    world.publish("a", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let consumers = world.consumers.clone();
    let marker = tokio::spawn(async move {
        for sequence in 1..=300 {
            let request = named(&[sequence]).mark(Mark::Seen);
            consumers.mark(&id("a"), request, "tab").await.unwrap();
        }
    });
    let follow = |consumers: Consumers| async move {
        let (id, topic) = (id("a"), name("a"));
        let (mut follower, mut seen) = (consumers.follow(&id), roaring::RoaringTreemap::new());
        while seen.len() < 300 {
            follower.changed().await.unwrap();
            match consumers.changes(&id, &mut follower) {
                StateChanges::Whole(state) => {
                    let ranges = state.marks.line(Mark::Seen).unwrap().marked_ranges();
                    let text = ranges.get(&topic).cloned().unwrap_or_default();
                    seen = crate::consumers::ranges::set_of(&text).unwrap();
                }
                StateChanges::These(changes) => {
                    for change in changes {
                        let Changed::Marks(MarksChange { events, .. }) = &change.what else {
                            panic!("{change:?}")
                        };
                        let ChangedEvents::Named(named) = events else { panic!("{events:?}") };
                        let set = crate::consumers::ranges::set_of(&named[&topic]).unwrap();
                        assert!(set.is_disjoint(&seen), "{change:?} is told twice");
                        seen |= set;
                    }
                }
            }
        }
    };
    let mut followers = Vec::new();
    for _ in 0..20 {
        followers.push(tokio::spawn(follow(world.consumers.clone())));
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    marker.await.unwrap();
    for follower in followers {
        follower.await.unwrap();
    }
    world.broker.close().await;
}
