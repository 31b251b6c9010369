//! The promises of work sharing, one by one.

use super::*;
use crate::broker::{PageRequest, StateRequest};
use crate::cursor::{Sequence, StartPoint};
use crate::error::Error;
use crate::topic_config::TopicConfig;

#[tokio::test]
async fn each_event_goes_to_one_worker_in_order_and_a_finished_one_never_comes_back() {
    let mut bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &["", "", "", "", ""]).await;
    let first = queue.pull(pull("a", 2)).await.unwrap();
    let second = queue.pull(pull("b", 10)).await.unwrap();
    assert_eq!((sequences(&first), sequences(&second)), (vec![1, 2], vec![3, 4, 5]));
    assert_eq!(first[0].event.content.payload, "0");
    assert_eq!((first[0].tries, first[0].topic.as_str()), (1, "jobs"));
    assert_eq!(first[0].until, bench.clock.now().plus_ms(30_000));
    assert!(queue.pull(pull("c", 10)).await.unwrap().is_empty());
    let settled = queue.settle(Settlement::ack([first[0].lease, second[2].lease])).await.unwrap();
    assert_eq!(settled.ack, [SettleOutcome::Done, SettleOutcome::Done]);
    let status = queue.status().unwrap();
    assert_eq!((status.in_flight, status.totals.finished), (3, 2));
    assert_eq!(status.workers, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let shown = bench.consumers.get(&id("jobs")).unwrap().checkpoint.unwrap();
    assert_eq!(shown.after.number(), 1);

    bench.crash().await;
    let queue = bench.queue("jobs");
    assert_eq!(queue.status().unwrap().in_flight, 3, "told from the records");
    assert!(queue.pull(pull("c", 10)).await.unwrap().is_empty(), "the leases hold");
    let settled = queue.settle(Settlement::ack([first[1].lease, first[0].lease])).await.unwrap();
    assert_eq!(settled.ack, [SettleOutcome::Done, SettleOutcome::Done], "said again, it is done");
    bench.clock.advance(ms(30_000));
    let again = queue.pull(pull("c", 10)).await.unwrap();
    assert_eq!(sequences(&again), [3, 4], "5 is finished although it is above the floor");
    assert_eq!(again[0].tries, 2);
    let late = queue.settle(Settlement::ack([second[0].lease])).await.unwrap();
    assert_eq!(late.ack, [SettleOutcome::Over], "another worker has it");
    let all = again.iter().map(|leased| leased.lease);
    queue.settle(Settlement::ack(all)).await.unwrap();
    let status = queue.status().unwrap();
    assert_eq!((status.in_flight, status.totals.finished, status.totals.lost), (0, 5, 0));
    assert_eq!(status.checkpoint.unwrap().after.number(), 5);
    // Nothing but the floor is left of it.
    let records = bench.broker.state(&name("$consumers"), StateRequest::default()).await.unwrap();
    let keys = records.events.iter().map(|event| event.content.key.clone());
    let keys: Vec<_> = keys.filter(|key| key.starts_with('w')).collect();
    assert_eq!(keys, ["w1.f"]);
    bench.broker.close().await;
}

#[tokio::test]
async fn events_of_one_key_come_one_after_the_other_also_while_the_first_is_delayed() {
    let bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &["k", "k", "l", "", "k"]).await;
    let leased = queue.pull(pull("a", 10)).await.unwrap();
    assert_eq!(sequences(&leased), [1, 3, 4]);
    let nack = Nack::new(leased[0].lease, "not now").delay(ms(5_000));
    let settled = queue.settle(Settlement::default().and_nack(nack.clone())).await.unwrap();
    assert_eq!(settled.nack, [SettleOutcome::Done]);
    assert!(queue.pull(pull("b", 10)).await.unwrap().is_empty(), "2 waits for 1");
    let again = queue.settle(Settlement::default().and_nack(nack)).await.unwrap();
    assert_eq!(again.nack, [SettleOutcome::Done], "said again");
    assert_eq!(queue.status().unwrap().delayed, 1);
    bench.clock.advance(ms(5_000));
    let mut leased = queue.pull(pull("b", 10)).await.unwrap();
    assert_eq!((sequences(&leased), leased[0].tries), (vec![1], 2));
    for next in [2, 5] {
        assert!(queue.pull(pull("b", 10)).await.unwrap().is_empty());
        queue.settle(Settlement::ack([leased[0].lease])).await.unwrap();
        leased = queue.pull(pull("b", 10)).await.unwrap();
        assert_eq!(sequences(&leased), [next]);
    }
    bench.broker.close().await;
}

#[tokio::test]
async fn an_event_that_fails_for_the_last_time_becomes_a_dead_letter_with_the_reason() {
    let bench = Bench::new().await;
    let settings = WorkSettings { max_tries: 2, ..WorkSettings::default() };
    let queue = bench.share("jobs", settings).await;
    let event = NewEvent::new("x").with_id("the-id").with_key("k").with_header("h", "v");
    let event = event.with_type("t").with_ttl(Duration::from_secs(3_600));
    let another = NewEvent::new("y");
    let publish = Publish::new(name("jobs"), vec![event, another]);
    bench.broker.publish(publish).await.unwrap();
    for _ in 0..2 {
        let leased = queue.pull(pull("a", 1)).await.unwrap();
        assert_eq!(sequences(&leased), [1]);
        let nack = Nack::new(leased[0].lease, "no\nink");
        queue.settle(Settlement::default().and_nack(nack)).await.unwrap();
    }
    for _ in 0..2 {
        let leased = queue.pull(pull("b", 1)).await.unwrap();
        assert_eq!(sequences(&leased), [2]);
        bench.clock.advance(ms(30_000));
    }
    assert!(queue.pull(pull("a", 10)).await.unwrap().is_empty());
    crate::testing::until("both are dead", || queue.status().unwrap().totals.dead == 2).await;
    let page = bench.broker.read(&name("jobs.dead"), PageRequest::default()).await.unwrap();
    let dead: Vec<_> = page.runs.iter().flat_map(|run| run.to_events()).collect();
    assert_eq!(dead.len(), 2);
    let letter = &dead[0].content;
    let headers: Vec<(&str, &str)> =
        letter.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("h", "v"),
        ("leftoff-dead-consumer", "work"),
        ("leftoff-dead-id", "the-id"),
        ("leftoff-dead-reason", "no ink"),
        ("leftoff-dead-sequence", "1"),
        ("leftoff-dead-topic", "jobs"),
        ("leftoff-dead-tries", "2"),
    ];
    assert_eq!(headers, expected);
    assert_eq!((&*letter.payload, &*letter.key, &*letter.event_type), (&b"x"[..], "k", "t"));
    assert_eq!((&*letter.id, letter.ttl_ms), ("", None));
    let ran_out = &dead[1].content.headers;
    assert_eq!(ran_out[DEAD_REASON_HEADER], "the lease ran out");
    assert!(!ran_out.contains_key(DEAD_ID_HEADER));
    let status = queue.status().unwrap();
    assert_eq!((status.totals.dead, status.dying, status.in_flight), (2, 0, 0));
    assert_eq!(status.checkpoint.unwrap().after.number(), 2);
    bench.broker.close().await;
}

#[tokio::test]
async fn a_pull_waits_for_an_event_and_one_that_is_given_up_leaves_no_lease() {
    let bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    let given_up = tokio::spawn({
        let queue = queue.clone();
        async move { queue.pull(pull("gone", 1).wait(Duration::from_secs(600))).await }
    });
    let told = || queue.status().unwrap().waiting == 1;
    crate::testing::until("the pull waits", told).await;
    given_up.abort();
    let _aborted = given_up.await;
    let is_told = || queue.status().unwrap().waiting == 0;
    crate::testing::until("the pull that was given up is told no more", is_told).await;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.pull(pull("a", 1).wait(Duration::from_secs(600))).await }
    });
    crate::testing::until("the second pull waits", told).await;
    bench.publish("jobs", &[""]).await;
    assert_eq!(sequences(&waiting.await.unwrap().unwrap()), [1]);
    let status = queue.status().unwrap();
    assert_eq!((status.in_flight, status.waiting), (1, 0));
    let started = std::time::Instant::now();
    let none = queue.pull(pull("a", 1).wait(ms(50))).await.unwrap();
    assert!(none.is_empty() && started.elapsed() >= ms(50));
    bench.broker.close().await;
}

#[tokio::test]
async fn so_many_events_are_in_flight_in_all_and_for_each_worker_and_ahead_of_the_oldest() {
    let bench = Bench::new().await;
    let settings = WorkSettings {
        max_in_flight: 5,
        max_in_flight_per_worker: 3,
        max_ahead: 8,
        ..WorkSettings::default()
    };
    let queue = bench.share("jobs", settings).await;
    bench.publish("jobs", &[""; 20]).await;
    let a = queue.pull(pull("a", 10)).await.unwrap();
    assert_eq!(sequences(&a), [1, 2, 3], "of one worker");
    let b = queue.pull(pull("b", 10)).await.unwrap();
    assert_eq!(sequences(&b), [4, 5], "in all");
    let mut next = b;
    for expected in [vec![6, 7], vec![8]] {
        let acked = next.iter().map(|leased| leased.lease);
        queue.settle(Settlement::ack(acked)).await.unwrap();
        next = queue.pull(pull("b", 10)).await.unwrap();
        assert_eq!(sequences(&next), expected);
    }
    queue.settle(Settlement::ack([next[0].lease])).await.unwrap();
    assert!(queue.pull(pull("b", 10)).await.unwrap().is_empty(), "1 is the oldest unfinished");
    queue.settle(Settlement::ack([a[0].lease])).await.unwrap();
    assert_eq!(sequences(&queue.pull(pull("b", 10)).await.unwrap()), [9]);
    let bytes = PullRequest { max_bytes: 1, ..pull("c", 10) };
    assert_eq!(queue.pull(bytes).await.unwrap().len(), 0, "nothing more is near enough");
    bench.broker.close().await;
}

#[tokio::test]
async fn a_pull_is_bounded_in_bytes_and_gives_one_event_at_the_least() {
    let bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    let events = (0..4).map(|_| NewEvent::new(vec![b'x'; 1_000])).collect();
    bench.broker.publish(Publish::new(name("jobs"), events)).await.unwrap();
    let of = |max_bytes| PullRequest { max_bytes, ..pull("a", 10) };
    assert_eq!(sequences(&queue.pull(of(1)).await.unwrap()), [1]);
    assert_eq!(sequences(&queue.pull(of(2_500)).await.unwrap()), [2, 3]);
    assert_eq!(sequences(&queue.pull(of(2_500)).await.unwrap()), [4]);
    bench.broker.close().await;
}

#[tokio::test]
async fn a_lease_is_extended_and_given_back_and_never_by_a_worker_of_before() {
    let bench = Bench::new().await;
    let settings = WorkSettings { lease_ms: 1_000, max_tries: 2, ..WorkSettings::default() };
    let queue = bench.share("jobs", settings).await;
    bench.publish("jobs", &[""]).await;
    let first = queue.pull(pull("a", 1)).await.unwrap()[0].lease;
    bench.clock.advance(ms(900));
    let extend = |lease| Settlement::default().and_extend(lease, ms(5_000));
    let settled = queue.settle(extend(first)).await.unwrap();
    let until = bench.clock.now().plus_ms(5_000);
    assert_eq!(settled.extend, [SettleOutcome::Extended(until)]);
    bench.clock.advance(ms(4_999));
    assert!(queue.pull(pull("b", 1)).await.unwrap().is_empty());
    bench.clock.advance(ms(1));
    let second = queue.pull(pull("b", 1)).await.unwrap()[0].lease;
    assert_eq!(second.tries(), 2);
    let settled = extend(first).and_release([first]).and_nack(Nack::new(first, ""));
    let settled = queue.settle(settled).await.unwrap();
    let over = [SettleOutcome::Over];
    assert_eq!((&settled.extend[..], &settled.nack[..]), (&over[..], &over[..]));
    assert_eq!(settled.release, over);
    // Given back, an event does not die, although it was the last try.
    let settled = queue.settle(Settlement::default().and_release([second])).await.unwrap();
    assert_eq!(settled.release, [SettleOutcome::Done]);
    let third = queue.pull(pull("c", 1)).await.unwrap()[0].lease;
    assert_eq!(third.tries(), 3);
    // A lease that ran out can be ended, as long as nobody else had the event.
    bench.clock.advance(ms(1_000));
    assert_eq!(queue.settle(extend(third)).await.unwrap().extend, over);
    bench.broker.close().await;
}

#[tokio::test]
async fn the_ack_of_a_lease_that_ran_out_counts_as_long_as_nobody_else_had_the_event() {
    let bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &[""]).await;
    let lease = queue.pull(pull("a", 1)).await.unwrap()[0].lease;
    bench.clock.advance(ms(30_001));
    assert_eq!(queue.settle(Settlement::ack([lease])).await.unwrap().ack, [SettleOutcome::Done]);
    assert!(queue.pull(pull("b", 1)).await.unwrap().is_empty());
    bench.broker.close().await;
}

#[tokio::test]
async fn events_that_are_gone_are_lost_and_their_leases_can_still_be_ended() {
    let mut bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &[""; 6]).await;
    let leased = queue.pull(pull("a", 2)).await.unwrap();
    bench.broker.purge(&name("jobs"), Sequence::new(5)).await.unwrap();
    let next = queue.pull(pull("b", 10)).await.unwrap();
    assert_eq!(sequences(&next), [5, 6]);
    assert_eq!(queue.status().unwrap().totals.lost, 2);
    let settled = queue.settle(Settlement::ack([leased[0].lease])).await.unwrap();
    assert_eq!(settled.ack, [SettleOutcome::Done]);
    bench.crash().await;
    let queue = bench.queue("jobs");
    let settled = queue.settle(Settlement::ack([leased[1].lease])).await.unwrap();
    assert_eq!(settled.ack, [SettleOutcome::Done], "also after a restart");
    queue.settle(Settlement::ack(next.iter().map(|it| it.lease))).await.unwrap();
    let status = queue.status().unwrap();
    assert_eq!((status.totals.finished, status.totals.lost), (4, 2));
    assert_eq!(status.checkpoint.unwrap().after.number(), 6);
    bench.broker.close().await;
}

/// Goal: a lease holds back later events of its key, also when its event was compacted away, and
/// the broker began anew since.
#[tokio::test]
async fn a_lease_of_a_compacted_event_holds_back_later_events_of_its_key_after_a_restart() {
    let mut bench = Bench::new().await;
    let config = TopicConfig { compact: Some(true), ..TopicConfig::default() };
    bench.broker.create_topic(&name("jobs"), config).await.unwrap();
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &["k"]).await;
    let lease = queue.pull(pull("a", 1)).await.unwrap()[0].lease;
    bench.publish("jobs", &["k", "l"]).await;
    bench.broker.maintain(Some(&name("jobs"))).await.unwrap();
    bench.crash().await;
    let queue = bench.queue("jobs");
    let leased = queue.pull(pull("b", 10)).await.unwrap();
    assert_eq!(sequences(&leased), [3], "2 waits for 1, which is gone");
    queue.settle(Settlement::ack([lease])).await.unwrap();
    assert_eq!(sequences(&queue.pull(pull("b", 10)).await.unwrap()), [2]);
    bench.broker.close().await;
}

#[tokio::test]
async fn one_consumer_of_many_topics_has_one_order_and_a_topic_may_go() {
    let bench = Bench::new().await;
    let settings = WorkSettings { dead_letter: Some(name("graves")), ..WorkSettings::default() };
    let queue = bench.share("jobs.>", settings).await;
    for topic in ["jobs.a", "jobs.b", "jobs.a", "other"] {
        bench.publish(topic, &["k"]).await;
    }
    let leased = queue.pull(pull("a", 10)).await.unwrap();
    let places: Vec<_> =
        leased.iter().map(|it| (it.topic.as_str(), it.event.sequence.get())).collect();
    assert_eq!(places, [("jobs.a", 1), ("jobs.b", 1)], "a key is one of its topic");
    bench.broker.delete_topic(&name("jobs.a")).await.unwrap();
    queue.settle(Settlement::ack(leased.iter().map(|it| it.lease))).await.unwrap();
    assert!(queue.pull(pull("a", 10)).await.unwrap().is_empty());
    let status = queue.status().unwrap();
    assert_eq!((status.totals.finished, status.totals.lost), (2, 1));
    bench.publish("jobs.a", &["k"]).await;
    let leased = queue.pull(pull("a", 10)).await.unwrap();
    assert_eq!(sequences(&leased), [3], "sequences go on in a topic that is there again");
    bench.broker.close().await;
}

#[tokio::test]
async fn a_topic_that_is_deleted_and_made_anew_goes_on_with_its_new_events() {
    let bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &["", "", ""]).await;
    let leased = queue.pull(pull("a", 1)).await.unwrap();
    bench.broker.delete_topic(&name("jobs")).await.unwrap();
    assert!(queue.pull(pull("a", 1)).await.unwrap().is_empty());
    bench.publish("jobs", &[""]).await;
    let next = queue.pull(pull("a", 1)).await.unwrap();
    assert_eq!(sequences(&next), [4]);
    let acked = [leased[0].lease, next[0].lease];
    assert_eq!(queue.settle(Settlement::ack(acked)).await.unwrap().ack, [SettleOutcome::Done; 2]);
    let status = queue.status().unwrap();
    assert_eq!((status.totals.finished, status.totals.lost), (2, 2));
    bench.broker.close().await;
}

/// Goal: what was lost is known also of events that were never read.
#[tokio::test]
async fn events_of_a_deleted_topic_that_were_not_read_yet_are_lost_too() {
    for is_leased in [true, false] {
        let bench = Bench::new().await;
        let settings = WorkSettings { max_tries: 1, max_in_flight: 1, ..WorkSettings::default() };
        let queue = bench.share("jobs", settings).await;
        assert!(queue.pull(pull("z", 1)).await.unwrap().is_empty());
        bench.publish("jobs", &[""]).await;
        bench.publish("jobs", &[""]).await;
        if is_leased {
            assert_eq!(queue.pull(pull("a", 1)).await.unwrap().len(), 1);
        }
        bench.broker.delete_topic(&name("jobs")).await.unwrap();
        bench.clock.advance(ms(30_000));
        assert!(queue.pull(pull("a", 1)).await.unwrap().is_empty());
        let told = || queue.status().unwrap().totals.lost == 2;
        crate::testing::until("both are lost", told).await;
        bench.broker.close().await;
    }
}

/// Goal: counts are exact while workers finish events out of order, also of events that are gone,
/// and whoever asks with the tag of a count hears of each change.
#[tokio::test]
async fn counts_know_what_workers_have_finished_and_their_tag_changes_with_it() {
    let mut bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &[""; 6]).await;
    let leased = queue.pull(pull("a", 6)).await.unwrap();
    let mut tags = Vec::new();
    for (acked, unfinished) in [(5, 5), (2, 4), (1, 3)] {
        queue.settle(Settlement::ack([leased[acked].lease])).await.unwrap();
        let counts = bench.consumers.counts(&id("jobs"), &[]).await.unwrap().counts[0];
        assert_eq!((counts.unfinished, counts.lost, counts.total), (unfinished, 0, 6));
        tags.push(bench.consumers.counts_tag(&id("jobs")).await.unwrap());
    }
    assert!(tags[0] != tags[1] && tags[1] != tags[2], "{tags:?}");
    bench.broker.purge(&name("jobs"), Sequence::new(4)).await.unwrap();
    bench.crash().await;
    let counts = bench.consumers.counts(&id("jobs"), &[]).await.unwrap().counts[0];
    assert_eq!((counts.unfinished, counts.lost, counts.total), (2, 1, 3));
    let workers = bench.queue("jobs").status().unwrap().workers;
    assert_eq!(workers, [("a".to_owned(), 3)], "they are told before anybody pulls");
    bench.broker.close().await;
}

/// Goal: a lease that nobody was given is not told to be done.
#[tokio::test]
async fn a_lease_of_an_event_that_nobody_had_is_over() {
    let mut bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &["", ""]).await;
    let mut lease = queue.pull(pull("a", 1)).await.unwrap()[0].lease;
    queue.settle(Settlement::ack([lease])).await.unwrap();
    bench.crash().await;
    let queue = bench.queue("jobs");
    for (sequence, outcome) in [(1, SettleOutcome::Done), (2, SettleOutcome::Over)] {
        lease.place.sequence = Sequence::new(sequence);
        let settled = queue.settle(Settlement::ack([lease])).await.unwrap();
        assert_eq!(settled.ack, [outcome], "{sequence}");
    }
    bench.broker.close().await;
}

#[tokio::test]
async fn only_a_shared_consumer_has_work_and_its_checkpoint_moves_by_work_alone() {
    let bench = Bench::new().await;
    let queue = bench.queue("jobs");
    let error = queue.pull(pull("a", 1)).await.unwrap_err();
    assert!(matches!(error, Error::UnknownConsumer(_)), "{error}");
    bench.consumers.put(id("jobs"), ConsumerSettings::default(), None).await.unwrap();
    let told = queue.pull(pull("a", 1)).await.unwrap_err().to_string();
    assert!(told.starts_with("consumer: does not share"), "{told}");
    let owned = id("jobs").of_owner("u");
    let settings = ConsumerSettings::default().shared(WorkSettings::default());
    let told = bench.consumers.put(owned, settings, None).await.unwrap_err().to_string();
    assert!(told.starts_with("shared: is for consumers without an owner"), "{told}");

    bench.publish("jobs", &["", ""]).await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    let to = crate::consumers::Checkpoint::at("1".parse().unwrap());
    let told = bench.consumers.checkpoint(&id("jobs"), to).await.unwrap_err().to_string();
    assert!(told.starts_with("consumer: shares its events"), "{told}");
    let settings = ConsumerSettings::default();
    let told = bench.consumers.put(id("jobs"), settings, None).await.unwrap_err().to_string();
    assert!(told.starts_with("shared: cannot be switched off"), "{told}");
    assert_eq!(queue.pull(pull("a", 10)).await.unwrap().len(), 2);
    bench.broker.close().await;
}

#[tokio::test]
async fn a_deleted_consumer_leaves_nothing_and_a_new_one_begins_where_it_is_told() {
    let mut bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &["", "", ""]).await;
    let before = queue.pull(pull("a", 2)).await.unwrap();
    bench.consumers.delete(&id("jobs")).await.unwrap();
    let error = queue.settle(Settlement::ack([before[0].lease])).await.unwrap_err();
    assert!(matches!(error, Error::UnknownConsumer(_)), "{error}");
    let settings = ConsumerSettings::default().shared(WorkSettings::default());
    let from = Some(StartPoint::Last(1));
    bench.consumers.put(id("jobs"), settings, from).await.unwrap();
    let told = queue.settle(Settlement::ack([before[0].lease])).await.unwrap_err().to_string();
    assert!(told.contains("is of another consumer"), "{told}");
    let leased = queue.pull(pull("a", 10)).await.unwrap();
    assert_eq!((sequences(&leased), leased[0].tries), (vec![3], 1));
    bench.crash().await;
    let records = bench.broker.state(&name("$consumers"), StateRequest::default()).await.unwrap();
    let keys: Vec<_> = records.events.iter().map(|event| event.content.key.clone()).collect();
    assert!(keys.iter().all(|key| !key.starts_with("w1.")), "{keys:?}");
    assert!(keys.iter().any(|key| key.starts_with("w2.")), "{keys:?}");
    bench.broker.close().await;
}

#[tokio::test]
async fn settings_that_change_hold_from_the_next_pull_on() {
    let bench = Bench::new().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    let events = ["x", "y", "x"].map(|kind| NewEvent::new("1").with_type(kind));
    bench.broker.publish(Publish::new(name("jobs"), events.to_vec())).await.unwrap();
    let first = queue.pull(pull("a", 1)).await.unwrap();
    assert_eq!(sequences(&first), [1]);
    let shared = WorkSettings { lease_ms: 5, ..WorkSettings::default() };
    let filter = crate::broker::Filter::default().of_type("x");
    let settings = ConsumerSettings::default().filter(filter).shared(shared);
    bench.consumers.put(id("jobs"), settings, None).await.unwrap();
    let next = queue.pull(pull("a", 10)).await.unwrap();
    assert_eq!(sequences(&next), [3]);
    assert_eq!(next[0].until, bench.clock.now().plus_ms(5));
    queue.settle(Settlement::ack([first[0].lease, next[0].lease])).await.unwrap();
    assert_eq!(queue.status().unwrap().checkpoint.unwrap().after.number(), 3);
    bench.broker.close().await;
}

#[tokio::test]
async fn so_many_consumers_are_in_use_and_so_many_pulls_wait_and_an_unused_one_makes_room() {
    let mut config = ConsumersConfig::default();
    config.work = WorkConfig { max_queues: 1, max_waiting: 1, idle_ms: 1, ..config.work };
    let bench = Bench::on(Arc::new(FaultyLog::default()), config).await;
    let jobs = bench.share("jobs", WorkSettings::default()).await;
    let other = bench.share("other", WorkSettings::default()).await;
    let waiting = tokio::spawn({
        let jobs = jobs.clone();
        async move { jobs.pull(pull("a", 1).wait(Duration::from_secs(600))).await }
    });
    crate::testing::until("a pull waits", || jobs.status().unwrap().waiting == 1).await;
    let told = jobs.pull(pull("a", 1).wait(ms(1))).await.unwrap_err().to_string();
    assert_eq!(told, "1 callers wait for events of this consumer already");
    let told = other.pull(pull("a", 1)).await.unwrap_err().to_string();
    assert_eq!(told, "there are 1 shared consumers in use already, and there may be no more");
    bench.publish("jobs", &[""]).await;
    let leased = waiting.await.unwrap().unwrap();
    jobs.settle(Settlement::ack([leased[0].lease])).await.unwrap();
    let started = std::time::Instant::now();
    while other.pull(pull("a", 1)).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "the unused one stays");
        tokio::time::sleep(ms(1)).await;
    }
    bench.broker.close().await;
}
