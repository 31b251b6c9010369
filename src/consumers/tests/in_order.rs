//! The order of changes that do not wait for each other's answers.

use std::task::Poll;

use futures_util::{future, poll};

use super::*;
use crate::broker::Fault;

/// Returns a world whose log, and not the memory of the broker, has the events 1 to 3 of the topics
/// `a.one` and `a.two`, with their numbers as ids.
async fn world() -> World {
    let mut world = World::new().await;
    for id in ["1", "2", "3"] {
        world.publish("a.one", &[id]).await;
        world.publish("a.two", &[&format!("two-{id}")]).await;
    }
    world.restart().await;
    world
}

fn by_id(id: &str) -> MarkRequest {
    MarkRequest::of(MarkedEvents::Named(vec![EventName::Id { id: id.to_owned() }]))
}

/// Begins two changes, and waits for them once a change of another consumer is done while the log
/// is held.
async fn both<A, B>(
    world: &World,
    first: impl Future<Output = Result<A>>,
    second: impl Future<Output = Result<B>>,
) -> (A, B) {
    let held = world.log.hold_reads();
    let (mut first, mut second) = (Box::pin(first), Box::pin(second));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    let (other, handle) = (id("a.one").of_owner("other"), world.consumers.in_order());
    for consumers in [&world.consumers, &handle] {
        let mark = consumers.mark(&other, named(&[1]).mark(Mark::Seen), "me");
        let both = future::join(&mut first, &mut second);
        match future::select(std::pin::pin!(mark), both).await {
            future::Either::Left((marked, _both)) => drop(marked.unwrap()),
            future::Either::Right(_) => panic!("one of them did not read the log"),
        }
    }
    drop(held);
    let (first, second) = future::join(first, second).await;
    (first.unwrap(), second.unwrap())
}

/// Goal: a change that reads the log first is decided before one that was begun after it and reads
/// nothing; other consumers do not wait for either.
#[tokio::test]
async fn a_change_is_not_overtaken_while_it_reads_the_log() {
    let world = world().await;
    let ordered = world.consumers.in_order();
    let one = id("a.one");
    let (read, unread) = both(
        &world,
        ordered.mark(&one, by_id("2").mark(Mark::Read), "me"),
        ordered.mark(&one, named(&[2]).unmark(Mark::Read), "me"),
    )
    .await;
    assert!(read.changed && unread.changed && read.revision <= unread.revision);
    assert_eq!(world.marks(&one, "a.one", 2), "s");

    let all = id("a.*");
    let to = |position: u64| Checkpoint::at(world.at(position));
    ordered.checkpoint(&all, to(5)).await.unwrap();
    let (back, forth) = both(
        &world,
        ordered.checkpoint(&all, to(3).forced()),
        ordered.checkpoint(&all, to(6)), // The newest event: nothing has to be read.
    )
    .await;
    assert!(back.moved && forth.moved);
    let present = world.consumers.get(&all).unwrap().checkpoint.unwrap();
    assert_eq!(present, world.at(6));
    assert_eq!(ordered.2.as_ref().unwrap().count(), 0, "no line is left");
    world.broker.close().await;
}

/// Goal: a change that is given up leaves its place to those that come after it.
#[tokio::test]
async fn a_change_that_is_given_up_holds_up_nobody() {
    let world = world().await;
    let (ordered, one) = (world.consumers.in_order(), id("a.one"));
    let held = world.log.hold_reads();
    let mut reads = Box::pin(ordered.mark(&one, by_id("2").mark(Mark::Read), "me"));
    let mut waits = Box::pin(ordered.mark(&one, by_id("1").mark(Mark::Read), "me"));
    let mut last = Box::pin(ordered.mark(&one, named(&[3]).mark(Mark::Seen), "me"));
    assert!(poll!(&mut reads).is_pending() && poll!(&mut waits).is_pending());
    assert!(poll!(&mut last).is_pending());
    drop(waits);
    assert!(poll!(&mut last).is_pending(), "the first one still has its turn");
    drop(reads);
    assert!(last.await.unwrap().changed);
    assert_eq!([1, 2, 3].map(|number| world.marks(&one, "a.one", number)), ["", "", "s"]);
    assert_eq!(ordered.2.as_ref().unwrap().count(), 0, "no line is left");
    drop(held);
    world.broker.close().await;
}

/// Goal: a change that looks at marks or settings has those of the changes before it, although they
/// are not answered yet. Changes that look at nothing are stored together.
#[tokio::test]
async fn a_change_looks_at_what_the_changes_before_it_did() {
    let world = world().await;
    let (ordered, one) = (world.consumers.in_order(), id("a.one"));
    let held = world.log.hold();
    let before = world.log.appends();
    world.log.fail(before + 1, Fault::Waits);
    let (filter, marks) =
        (Default::default(), MarkFilter { read: Some(true), ..MarkFilter::default() });
    let cursor = Cursor::after(Sequence::new(3), world.broker.epoch());
    let read = MarkRequest::of(MarkedEvents::UpTo { cursor, filter, marks });
    let changes = [
        named(&[1]).mark(Mark::Read),
        named(&[2]).mark(Mark::Read),
        named(&[3]).mark(Mark::Seen),
        read.mark(Mark::Archived),
        named(&[3]).mark(Mark::Read),
    ];
    let changes = changes.map(|request| ordered.mark(&one, request, "me"));
    let mut changes = Box::pin(future::join_all(changes));
    let waiting = future::poll_fn(|cx| Poll::Ready(changes.as_mut().poll(cx).is_pending()));
    assert!(waiting.await);
    crate::testing::until("the first one is being stored", || world.log.appends() > before).await;
    drop(held);
    assert!(changes.await.into_iter().all(|ack| ack.unwrap().changed));
    assert_eq!([1, 2, 3].map(|number| world.marks(&one, "a.one", number)), ["sra", "sra", "sr"]);
    assert!(world.log.appends() - before <= 4, "the second and the third share a write");

    let filter = crate::broker::Filter::default().of_type("none");
    let settings = ConsumerSettings::default().filter(filter);
    let put = ordered.put(one.clone(), settings, None);
    let mark = ordered.mark(&one, by_id("2").unmark(Mark::Read), "me");
    let (put, mark) = future::join(put, mark).await;
    put.unwrap();
    let told = "events: \"2\" is the id of no event that is kept";
    assert_eq!(mark.unwrap_err().to_string(), told);
    world.broker.close().await;
}
