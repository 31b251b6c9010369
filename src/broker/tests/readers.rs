//! Tests of readers in rare situations: a topic is deleted while they read, no event is for them,
//! the broker was restarted, and counts are exactly at their bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::broker::*;
use crate::cursor::{GapReason, Place, Requested};
use crate::event::{NewEvent, Timestamp};
use crate::log::{LogConfig, MemoryLog, SledLog};

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

async fn store(broker: &Broker, topic: &str, events: Vec<NewEvent>) {
    let publish = Publish { topic: name(topic), events, expected_sequence: None };
    broker.publish(publish).await.unwrap();
}

fn plain(payload: &str) -> Vec<NewEvent> {
    vec![NewEvent::new(payload.to_owned())]
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("the wait takes too long")
}

/// Returns a broker that runs maintenance only when a test asks for it.
fn quiet(log: Arc<dyn Log>, now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Broker {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000;
    Broker::with_clock(log, &config, Arc::new(now)).unwrap()
}

fn request(start: StartPoint) -> PageRequest {
    let (before, filter) = (None, Filter::default());
    PageRequest {
        start,
        before,
        limit: 100,
        wait: Duration::ZERO,
        on_gap: OnGap::Fail,
        filter,
        ..PageRequest::default()
    }
}

/// Returns the sequences of the events of a page.
fn sequences(page: &Page) -> Vec<u64> {
    page.runs.iter().flat_map(|run| run.events().map(|event| event.sequence.get())).collect()
}

/// Goal: a waiting reader is told at once that its topic is deleted. A reader that comes to it
/// later gets no event of the new topic of the same name, also not from memory.
#[tokio::test]
async fn a_reader_that_waits_is_told_at_once_that_its_topic_is_deleted() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    store(&broker, "a", plain("1")).await;
    let follow = async || {
        let start = StartPoint::Latest;
        let mut reader = broker.subscribe(&name("a"), start, OnGap::Resume).await.unwrap();
        let first = reader.next_ready().await.unwrap();
        assert!(matches!(first, Some(Delivery::CaughtUp)), "{first:?}");
        reader
    };
    let (mut waits, mut reads) = (follow().await, follow().await);
    let mut patience = Patience::new(Duration::from_secs(3_600));
    let mut waiting = Box::pin(waits.next_within(&mut patience));
    let first = std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context))).await;
    assert!(first.is_pending(), "there is nothing to read");
    broker.delete_topic(&name("a")).await.unwrap();
    let told = soon(waiting).await;
    assert!(matches!(told, Err(Error::TopicDeleted(_))), "{told:?}");
    store(&broker, "a", plain("2")).await;
    assert!(reads.next_in_memory().is_none(), "the event is of another topic");
    let told = reads.next_ready().await;
    assert!(matches!(told, Err(Error::TopicDeleted(_))), "{told:?}");
}

/// Goal: a start by time is at the first event of exactly that millisecond, for one topic and for
/// many.
#[tokio::test]
async fn a_start_by_time_takes_what_was_appended_right_then() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let clock = || Timestamp::from_ms(NOW.load(Ordering::SeqCst));
    let broker = quiet(Arc::new(MemoryLog::default()), clock);
    for time_ms in [1_000, 2_000, 2_000, 3_000] {
        NOW.store(time_ms, Ordering::SeqCst);
        store(&broker, "a", plain("x")).await;
    }
    for (time_ms, expected) in
        [(1_000, &[1, 2, 3, 4][..]), (1_001, &[2, 3, 4]), (2_000, &[2, 3, 4]), (3_000, &[4])]
    {
        let start = || request(StartPoint::Time(Timestamp::from_ms(time_ms)));
        let one = broker.read(&name("a"), start()).await.unwrap();
        let many = broker.read_many(vec![">".parse().unwrap()], start()).await.unwrap();
        assert_eq!((sequences(&one), sequences(&many)), (expected.into(), expected.into()));
    }
    let later = request(StartPoint::Time(Timestamp::from_ms(3_001)));
    let many = broker.read_many(vec![">".parse().unwrap()], later).await.unwrap();
    assert_eq!(sequences(&many), [0_u64; 0]);
}

/// Goal: a page holds events up to its limit of bytes, the names of topics included, and always its
/// first event, however large it is.
#[tokio::test]
async fn a_page_has_room_for_its_bytes_and_for_one_event_that_is_larger() {
    let mut config = OpenConfig::default();
    config.broker.max_page_bytes = 1_024;
    let broker = Broker::in_memory(&config).unwrap();
    let large = "x".repeat(5_000);
    for payload in [&large, "1", &large, &large] {
        store(&broker, "a", plain(payload)).await;
    }
    let (mut start, mut pages) = (StartPoint::Earliest, Vec::new());
    for _ in 0..4 {
        let page = broker.read(&name("a"), request(start)).await.unwrap();
        start = StartPoint::After(page.cursor);
        pages.push(sequences(&page));
    }
    assert_eq!(pages, [[1], [2], [3], [4]]);
    let long = format!("{}.{}", "t".repeat(100), "u".repeat(100));
    store(&broker, &long, (0..20).map(|_| NewEvent::new("x")).collect()).await;
    let page = broker.read(&name(&long), request(StartPoint::Earliest)).await.unwrap();
    let taken: usize = page.runs.iter().flat_map(|run| run.events().map(|e| e.size_bytes())).sum();
    let count = sequences(&page).len();
    let size_bytes = taken + count * (crate::broker::read::page::EVENT_BYTES + long.len());
    assert!(count > 0 && size_bytes <= 1_024, "{count} events take {size_bytes} bytes");
}

/// Goal: a page ends its search in time, though events that its filter does not pick keep coming.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_finds_nothing_ends_while_there_is_ever_more() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move {
            loop {
                store(&broker, "a", plain("not wanted")).await;
            }
        }
    });
    while broker.topic(&name("a")).is_err() {
        tokio::task::yield_now().await;
    }
    let filter = Filter { types: ["wanted".to_owned()].into(), ..Filter::default() };
    for _ in 0..3 {
        let request = PageRequest { filter: filter.clone(), ..request(StartPoint::Earliest) };
        let page = soon(broker.read(&name("a"), request)).await.unwrap();
        assert_eq!(sequences(&page), [0_u64; 0]);
        assert!(page.cursor.after.number() > 0, "the cursor has not moved");
    }
    publishing.abort();
}

/// Goal: after a restart, events still expire, and ids are still remembered.
#[tokio::test]
async fn after_a_restart_what_expires_goes_and_ids_stay_known() {
    static NOW: AtomicU64 = AtomicU64::new(1_000_000);
    let clock = || Timestamp::from_ms(NOW.load(Ordering::SeqCst));
    for takes_whole_blocks in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
            quiet(Arc::new(SledLog::open(directory.path(), &config).unwrap()), clock)
        };
        let broker = open();
        let expiring = |id: &str| {
            let (ttl_ms, id) = (Some(5_000), id.to_owned());
            vec![NewEvent { ttl_ms, id, ..NewEvent::new("x") }]
        };
        store(&broker, "ids", expiring("known")).await;
        let first = if takes_whole_blocks { expiring("") } else { plain("first") };
        store(&broker, "a", [first, expiring("")].concat()).await;
        // Opening a log reads only the newest block of a topic, and that one does not expire.
        for topic in ["a", "ids"] {
            store(&broker, topic, plain("last")).await;
        }
        broker.close().await;
        drop(broker);
        let broker = open();
        NOW.fetch_add(6_000, Ordering::SeqCst);
        broker.maintain(None).await.unwrap();
        let left = broker.read(&name("a"), request(StartPoint::Earliest)).await.unwrap();
        assert_eq!(sequences(&left), if takes_whole_blocks { vec![3] } else { vec![1, 3] });
        let stored = broker.topic(&name("a")).unwrap().extent.events();
        assert_eq!(stored, if takes_whole_blocks { 1 } else { 2 }, "the expired events are gone");
        broker.close().await;
        drop(broker);
        let broker = open();
        let events = expiring("known");
        let publish = Publish { topic: name("ids"), events, expected_sequence: None };
        assert!(broker.publish(publish).await.unwrap().is_duplicate(), "the id is remembered");
        broker.close().await;
    }
}

/// Goal: a block tells the first expiry among its events, in whatever order these come.
#[tokio::test]
async fn the_first_event_of_a_block_that_expires_is_looked_for_in_its_time() {
    let events = |ttls: &[u64]| -> Vec<NewEvent> {
        ttls.iter().map(|ttl| NewEvent { ttl_ms: Some(*ttl), ..NewEvent::new("x") }).collect()
    };
    let records = crate::log::NewRecords::encode(&events(&[9_000, 500, 7_000]));
    let mut builder = crate::log::BlockBuilder::new(Sequence::FIRST);
    (0..3).for_each(|index| builder.push(records.record(index), false, true));
    let block = builder.finish(Position::FIRST, Timestamp::from_ms(1_000), 0);
    assert_eq!(block.first_expiry(), Some(Timestamp::from_ms(1_500)));
}

/// Goal: purged events are counted as purged when they are removed.
#[tokio::test]
async fn what_is_purged_is_counted_when_it_is_removed() {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000;
    let broker = Broker::in_memory(&config).unwrap();
    for _ in 0..10 {
        store(&broker, "a", plain("x")).await;
    }
    broker.purge(&name("a"), Sequence::new(8)).await.unwrap();
    broker.maintain(None).await.unwrap();
    let MaintenanceReport { purged, retention, expired, .. } = broker.maintenance_totals();
    assert_eq!((purged.events, retention.events, expired.events), (7, 0, 0));
    assert!(purged.bytes > 7 * 70, "{purged:?}");
}

/// Goal: the bounds on members and on topics that do not exist yet are exact.
#[tokio::test]
async fn members_and_unborn_topics_are_bounded_exactly() {
    let mut config = OpenConfig::default();
    config.broker.max_members = 2;
    config.limits.max_unborn_topics = 3;
    let broker = Broker::in_memory(&config).unwrap();
    let member = |id: &str| Member { id: id.to_owned(), info: Default::default() };
    store(&broker, "a", plain("x")).await;
    let join = async |id: &str| broker.join(&[name("a")], member(id)).await;
    let _present = [join("1").await, join("2").await, join("2").await].map(Result::unwrap);
    let refused = join("3").await.unwrap_err().to_string();
    assert!(refused.contains("members: 3 is over the limit of 2"), "{refused}");
    let mut followed = Vec::new();
    for number in 0..3 {
        let topic = name(&format!("unborn.{number}"));
        let start = StartPoint::Latest;
        followed.push(broker.subscribe(&topic, start, OnGap::Resume).await.unwrap());
    }
    let start = StartPoint::Latest;
    let refused = broker.subscribe(&name("unborn.3"), start, OnGap::Resume).await.unwrap_err();
    assert!(refused.to_string().contains("4 is over the limit of 3"), "{refused}");
    followed.pop();
    let start = StartPoint::Latest;
    broker.subscribe(&name("unborn.3"), start, OnGap::Resume).await.unwrap();
}

/// Goal: a feed gets each ephemeral event once, also if they come in more topics than the feed
/// remembers.
#[tokio::test]
async fn a_feed_that_hears_in_very_many_topics_hears_everything_once_at_the_most() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let patterns = vec![">".parse().unwrap()];
    let mut feed = broker.feed(patterns, StartPoint::Latest, OnGap::Resume).await.unwrap();
    let mut heard = Vec::new();
    for number in 0..2_600 {
        let topic = name(&format!("t{}", number % 1_300));
        broker.publish_ephemeral(&topic, vec![NewEvent::new(number.to_string())]).unwrap();
        loop {
            let mut patience = Patience::new(Duration::from_secs(20));
            match soon(feed.next_within(&mut patience)).await.unwrap() {
                Waited::Delivery(Delivery::Ephemeral(event)) => {
                    heard.push(String::from_utf8(event.event.payload.to_vec()).unwrap());
                    break;
                }
                Waited::Delivery(Delivery::CaughtUp) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let expected: Vec<String> = (0..2_600).map(|number| number.to_string()).collect();
    assert_eq!(heard, expected);
    let rest = feed.next_within(&mut Patience::new(Duration::from_millis(50))).await.unwrap();
    assert!(matches!(rest, Waited::Silence), "{rest:?}");
}

/// Goal: two gaps that are told as one count the losses of both, and have the more important
/// reason.
#[test]
fn gaps_that_are_told_as_one_count_all_and_say_what_matters() {
    let place = |sequence| Place::Sequence(Sequence::new(sequence));
    let gap = |reason, requested, lost| crate::cursor::Gap {
        topic: Some(name("a")),
        requested: Requested::Place(place(requested)),
        earliest: place(requested + 3),
        tail: place(99),
        lost,
        reason,
        resume: place(requested + 3),
    };
    let (purged, epoch) = (GapReason::Purged, GapReason::Epoch);
    let joined = gap(GapReason::Retention, 1, Some(3)).joined(gap(purged, 4, Some(4)));
    assert_eq!((joined.requested.number(), joined.lost, joined.reason), (1, Some(7), purged));
    assert_eq!(joined.resume, place(7));
    let joined = gap(epoch, 1, None).joined(gap(purged, 4, Some(4)));
    assert_eq!((joined.lost, joined.reason), (None, epoch));
    let joined = gap(GapReason::Ahead, 1, None).joined(gap(purged, 4, Some(4)));
    assert_eq!(joined.reason, GapReason::Ahead);
    let joined = gap(GapReason::Unknown, 0, None).joined(gap(purged, 4, Some(4)));
    assert_eq!((joined.requested.number(), joined.reason), (0, GapReason::Unknown));
}

/// Goal: a waiting reader takes little memory: its future has no room for work that readers do
/// rarely.
#[tokio::test]
async fn a_reader_that_waits_has_no_room_for_what_it_rarely_does() {
    const MOST_BYTES: usize = 512;
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    store(&broker, "a", plain("x")).await;
    let (start, on_gap) = (StartPoint::Earliest, OnGap::Resume);
    let one = broker.subscribe(&name("a"), start, on_gap).await.unwrap();
    let many = broker.feed(vec![">".parse().unwrap()], start, on_gap).await.unwrap();
    let mut patience = Patience::new(Duration::from_secs(1));
    for mut reader in [one, many] {
        let held_bytes = size_of_val(&reader) + size_of_val(&reader.next_within(&mut patience));
        assert!(held_bytes <= 2 * MOST_BYTES, "{held_bytes} bytes of a reader that waits");
        let waits_bytes = size_of_val(&reader.next_within(&mut patience));
        assert!(waits_bytes <= MOST_BYTES, "{waits_bytes} bytes of its wait");
    }
}
