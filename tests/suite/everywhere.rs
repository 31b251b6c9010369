//! The promises to readers, each checked on every way to read, in one table.

use std::collections::BTreeMap;
use std::time::Duration;

use leftoff::broker::Filter;
use leftoff::{Config, NewEvent, Publish};

use crate::common::{Server, name, post, publish as publish_event, send, soon, to};
use crate::ways::{Ask, Heard, Reading, Told, WAYS, Way, read};

/// Returns the settings of a broker that reads from memory, and of one that reads from the log.
fn configs() -> [Config; 2] {
    let mut of_the_log = Config::default();
    of_the_log.broker.max_tail_bytes = 0;
    [Config::default(), of_the_log].map(|mut config| {
        config.maintenance.interval_ms = 3_600_000;
        config
    })
}

async fn purge(server: &Server, topic: &str, before: u64) {
    let path = format!("/v1/topics/{topic}/events?before={before}");
    assert_eq!(send(to(server.address, "DELETE", &path), "").await.status, 200);
}

/// Returns events that differ in every field that a filter can name, to be stored as one block.
fn various() -> Vec<NewEvent> {
    let headers = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let event = |event_type: &str, key: &str, pairs: &[(&str, &str)]| NewEvent {
        event_type: event_type.to_owned(),
        key: key.to_owned(),
        headers: headers(pairs),
        ..NewEvent::new("x")
    };
    vec![
        event("note", "user/1", &[("lang", "de"), ("kind", "a")]),
        event("note", "user/2", &[("lang", "de")]),
        event("post", "user/1", &[("lang", "en"), ("kind", "a")]),
        event("post", "room/1", &[("lang", "de"), ("kind", "b")]),
        event("", "", &[]),
        event("note", "room/1", &[("kind", "a")]),
        event("note", "user/10", &[("lang", "de"), ("kind", "a"), ("more", "1")]),
    ]
}

/// Goal: each field of a filter, and all fields together, select the same events on every way to
/// read, from memory and from the log, also where only some events of a block match.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_a_filter_picks_the_same_events() {
    let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let none = Filter::default;
    let cases: Vec<(Filter, Vec<u64>)> = vec![
        (Filter { types: set(&["note"]), ..none() }, vec![1, 2, 6, 7]),
        (Filter { types: set(&["post", "none"]), ..none() }, vec![3, 4]),
        (Filter { keys: set(&["user/1"]), ..none() }, vec![1, 3]),
        (Filter { keys: set(&["user/1", "room/1"]), ..none() }, vec![1, 3, 4, 6]),
        (Filter { key_prefixes: set(&["user/1"]), ..none() }, vec![1, 3, 7]),
        (Filter { key_prefixes: set(&["room/", "user/2"]), ..none() }, vec![2, 4, 6]),
        (Filter { headers: pairs(&[("lang", "de")]), ..none() }, vec![1, 2, 4, 7]),
        (Filter { headers: pairs(&[("lang", "de"), ("kind", "a")]), ..none() }, vec![1, 7]),
        (Filter { headers: pairs(&[("lang", "fr")]), ..none() }, vec![]),
        (
            Filter {
                types: set(&["note", "post"]),
                keys: set(&["user/1", "room/1"]),
                key_prefixes: set(&["user/", "r"]),
                headers: pairs(&[("kind", "a")]),
            },
            vec![1, 3, 6],
        ),
    ];
    for config in configs() {
        let server = Server::with(config).await;
        let publish = Publish::new(name("a"), various());
        server.broker.publish(publish).await.unwrap();
        for (way, (filter, wanted)) in WAYS.iter().flat_map(|w| cases.iter().map(move |c| (w, c))) {
            let ask = Ask { filter: filter.clone(), ..Ask::new("earliest", "fail") };
            let told = read(&server, *way, ask).await;
            assert_eq!((told.gap, &told.sequences), (None, wanted), "{way:?}, {filter:?}");
        }
    }
}

/// Goal: a reader whose filter matches nothing still receives its cursor, on every way to read.
/// With that cursor it resumes without a gap, even if all events before it are purged, and misses
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_in_silence_is_told_how_far_it_has_come() {
    for mut config in configs() {
        // A much shorter heartbeat would also shorten the time after which a slow client counts as
        // dead.
        config.follow.heartbeat_ms = 400;
        let server = Server::with(config).await;
        let only_wanted = Filter { types: ["wanted".to_owned()].into(), ..Filter::default() };
        let mut count = 0;
        for way in WAYS {
            let ask =
                |from: &str, on_gap| Ask { filter: only_wanted.clone(), ..Ask::new(from, on_gap) };
            let from = if way.1 { count.to_string() } else { format!("@{count}") };
            let mut reading = Reading::begin(&server, way, ask(&from, "resume")).await;
            while !matches!(reading.next().await, Heard::CaughtUp(_)) {}
            for _ in 0..5 {
                count = server.publish("a", "not wanted").await;
            }
            let place = if way.1 { count.to_string() } else { format!("@{count}") };
            let place = format!("{place}-{}", server.broker.epoch());
            let told = async {
                loop {
                    match reading.next().await {
                        Heard::Place(cursor) if cursor == place => return,
                        Heard::Place(_) => {}
                        other => panic!("{way:?}: {other:?}"),
                    }
                }
            };
            soon(told).await;
            drop(reading);
            let event = NewEvent { event_type: "wanted".to_owned(), ..NewEvent::new("x") };
            count = publish_event(&server.broker, "a", event).await;
            purge(&server, "a", count).await;
            let told = read(&server, way, ask(&place, "fail")).await;
            assert_eq!((told.gap, told.sequences), (None, vec![count]), "{way:?}");
        }
    }
}

/// Goal: a gap, whatever its reason, is reported with the reason on every way to read, and the
/// reader resumes as it asked, or is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_gap_is_told_and_every_reader_goes_on_as_it_asked() {
    const ALL: &[u64] = &[4, 5, 6];
    for config in configs() {
        let server = Server::with(config).await;
        for number in 1..=6_u64 {
            server.publish("a", number.to_string()).await;
        }
        purge(&server, "a", 4).await;
        let epoch = server.broker.epoch();
        let other = leftoff::cursor::Epoch::new(epoch.get() ^ 1);
        // The cursor, the reason, and the events that `resume` reads. `earliest` reads all events,
        // and `latest` reads none.
        let faults = [
            (format!("1-{epoch}"), "purged", ALL),
            (format!("5-{other}"), "epoch", ALL),
            (format!("7-{epoch}"), "ahead", &[]),
            (format!("1000-{epoch}"), "ahead", &[]),
            (format!("0~999-{epoch}"), "purged", ALL),
        ];
        for (way, (place, reason, resumed)) in
            WAYS.iter().flat_map(|way| faults.iter().map(move |fault| (way, fault)))
        {
            let place = if way.1 { place.clone() } else { format!("@{place}") };
            for (on_gap, expected) in
                [("resume", *resumed), ("earliest", ALL), ("latest", &[]), ("fail", &[])]
            {
                let told = read(&server, *way, Ask::new(&place, on_gap)).await;
                let gap = match on_gap {
                    "fail" => format!("refused: {reason}"),
                    _ => (*reason).to_owned(),
                };
                let told = (told.gap.as_deref(), &told.sequences[..]);
                assert_eq!(told, (Some(&gap[..]), expected), "{way:?}, {place}, {on_gap}");
            }
            for whole in ["3", "6"] {
                let whole = if way.1 { format!("{whole}-{epoch}") } else { format!("@{whole}") };
                let told = read(&server, *way, Ask::new(&whole, "fail")).await;
                assert_eq!(told.gap, None, "{way:?}, {whole}");
            }
        }
    }
}

/// Goal: a consumer that comes back after retention dropped what it had not finished is told so on
/// every way to read, and is not once its checkpoint is beyond the gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_comes_back_is_told_what_retention_dropped_since() {
    for mut config in configs() {
        config.broker.max_block_bytes = 1 << 10;
        let limits: Config = toml::from_str("[topics.a]\nmax_events = 4").unwrap();
        config.topics = limits.topics;
        let server = Server::with(config).await;
        let publish = async |count: u64| {
            for _ in 0..count {
                publish_event(&server.broker, "a", NewEvent::new("x".repeat(2_000))).await;
            }
        };
        publish(2).await;
        let checkpoint = async |topic: &str, cursor: String| {
            let path = format!("/v1/consumers/late/checkpoint?topic={topic}");
            let body = format!(r#"{{"cursor":"{cursor}"}}"#);
            assert_eq!(post(server.address, &path, body).await.status, 200);
        };
        checkpoint("a", "1".to_owned()).await;
        checkpoint("%3E", "@1".to_owned()).await;
        publish(12).await;
        let extent = server.broker.topic(&name("a")).unwrap().extent;
        let (earliest, tail) = (extent.earliest.get(), extent.tail.get());
        assert!(earliest > 3, "nothing was trimmed");
        let kept: Vec<u64> = (earliest..tail).collect();
        for way in WAYS {
            for (on_gap, gap, sequences) in [
                ("resume", "retention", &kept[..]),
                ("latest", "retention", &[]),
                ("fail", "refused: retention", &[]),
            ] {
                let told = read(&server, way, Ask::as_consumer("late", on_gap)).await;
                let told = (told.gap.as_deref(), &told.sequences[..]);
                assert_eq!(told, (Some(gap), sequences), "{way:?}, {on_gap}");
            }
        }
        checkpoint("a", earliest.to_string()).await;
        checkpoint("%3E", format!("@{}", extent.last_position.get() - 1)).await;
        for way in WAYS {
            let told = read(&server, way, Ask::as_consumer("late", "fail")).await;
            assert_eq!(told.gap, None, "{way:?}");
            assert_eq!(told.sequences.last(), Some(&(tail - 1)), "{way:?}");
        }
    }
}

/// Goal: a reader whose connection is cut right after it was told of a gap is told of it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_cut_before_its_gap_is_told_again() {
    let server = Server::with(configs()[0].clone()).await;
    for number in 1..=6_u64 {
        server.publish("a", number.to_string()).await;
    }
    purge(&server, "a", 4).await;
    for way in WAYS.into_iter().filter(|(way, _)| !is_of_pages(*way)) {
        let from = if way.1 { "1" } else { "@1" };
        let mut reading = Reading::begin(&server, way, Ask::new(from, "resume")).await;
        let place = match (way.0, reading.next().await) {
            (_, Heard::Place(place)) => place,
            // The first block is the gap itself. No id comes before it, so the cursor is unchanged.
            (Way::Sse | Way::SseHttp2, Heard::Gap { .. }) => from.to_owned(),
            (_, heard) => panic!("{way:?} tells no cursor: {heard:?}"),
        };
        drop(reading);
        let told = read(&server, way, Ask::new(place, "resume")).await;
        assert_eq!(told.gap.as_deref(), Some("purged"), "{way:?}");
        assert_eq!(told.sequences, [4, 5, 6], "{way:?}");
    }
}

fn is_of_pages(way: Way) -> bool {
    matches!(way, Way::Page | Way::PageHttp2 | Way::GrpcRead)
}

/// Goal: a gap that appears while a reader reads is reported on every way to read, at the reader's
/// place; a reader with `on_gap=fail` is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_trimmed_while_it_is_read_is_told_in_the_middle_of_a_stream() {
    for (way, on_gap) in WAYS.iter().flat_map(|w| ["resume", "fail"].map(|on_gap| (*w, on_gap))) {
        let mut config = configs()[1].clone();
        config.broker.max_read_bytes = 1 << 10;
        config.broker.max_block_bytes = 1 << 10;
        config.broker.max_page_bytes = 1 << 10;
        let server = Server::with(config).await;
        let large = NewEvent::new("x".repeat(64 << 10));
        for _ in 0..8 {
            let events = vec![large.clone(); 50];
            let publish = Publish::new(name("a"), events);
            server.broker.publish(publish).await.unwrap();
        }
        let mut reading = Reading::begin(&server, way, Ask::new("earliest", on_gap)).await;
        let mut told = Told::default();
        while told.sequences.is_empty() {
            told.take(reading.next().await);
        }
        purge(&server, "a", 399).await;
        let mut is_told = false;
        let all = async {
            loop {
                let heard = reading.next().await;
                if let Heard::Gap { reason, .. } | Heard::Refused(reason) = &heard {
                    assert_eq!((is_told, &reason[..]), (false, "purged"), "{way:?}");
                    assert!(told.sequences.last().unwrap() < &399, "{way:?}: told too late");
                    is_told = true;
                }
                let is_over = matches!(heard, Heard::CaughtUp(_) | Heard::Refused(_));
                told.take(heard);
                if is_over {
                    return;
                }
            }
        };
        soon(all).await;
        assert!(is_told, "{way:?}: no gap after {} events of 64 KiB", told.sequences.len());
        let last = *told.sequences.last().unwrap();
        match on_gap {
            "resume" => assert_eq!(last, 400, "{way:?}"),
            _ => assert!(last < 399, "{way:?}"),
        }
    }
}

/// Goal: events that a topic's limits trimmed before a reader began are no gap to it, on whichever
/// way it resumes. Events that are trimmed afterwards are a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_publish_trims_is_a_gap_to_those_alone_who_could_have_had_it() {
    for way in WAYS {
        let mut config = configs()[0].clone();
        config.broker.max_block_bytes = 1 << 10;
        let limits = toml::from_str("[topics.b]\nmax_events = 4").unwrap();
        let Config { topics, .. } = limits;
        config.topics = topics;
        let server = Server::with(config).await;
        let padded = || NewEvent::new("x".repeat(2_000));
        publish_event(&server.broker, "a", padded()).await;
        for _ in 0..12 {
            publish_event(&server.broker, "b", padded()).await;
        }
        for _ in 0..2 {
            publish_event(&server.broker, "a", padded()).await;
        }
        let earliest = server.broker.topic(&name("b")).unwrap().extent.earliest.get();
        assert!(earliest > 3, "nothing was trimmed");
        let whole = read(&server, way, Ask::new("earliest", "fail")).await;
        assert_eq!((whole.gap, &whole.sequences[..]), (None, &[1, 2, 3][..]), "{way:?}");
        for cursor in &whole.cursors {
            let again = read(&server, way, Ask::new(cursor, "fail")).await;
            assert_eq!(again.gap, None, "{way:?}, {cursor}");
        }
        if way.1 || is_of_pages(way.0) || way.0 == Way::GrpcSubscribe {
            continue; // No event of `a` is lost, or a cursor covers a batch.
        }
        for _ in 0..8 {
            publish_event(&server.broker, "b", padded()).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let told = read(&server, way, Ask::new(&whole.cursors[0], "resume")).await;
        assert_eq!(told.gap.as_deref(), Some("retention"), "{way:?}");
        assert_eq!(told.sequences, [2, 3], "{way:?}");
    }
}

/// Goal: no reader gets an expired event, and every reader gets an event that has not expired: on
/// every way to read, from memory and from the log, before the expired event is dropped and
/// afterwards. An expired event leaves no gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_is_read_on_no_way_and_is_no_gap() {
    const LIVES: &[u64] = &[1, 3, 5, 7];
    for config in configs() {
        let server = Server::with(config).await;
        // The first four events are one block; each later one is a block of its own.
        let event = |number: u64| NewEvent {
            ttl_ms: Some(if LIVES.contains(&number) { 600_000 } else { 1 }),
            ..NewEvent::new(number.to_string())
        };
        let events = (1..=4).map(event).collect();
        let publish = Publish::new(name("a"), events);
        server.broker.publish(publish).await.unwrap();
        for number in 5..=8 {
            publish_event(&server.broker, "a", event(number)).await;
        }
        let is_over = async {
            let first = Ask::new("7", "fail");
            while read(&server, (Way::Page, true), first.clone()).await.sequences != [0; 0] {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(is_over).await;
        for is_dropped in [false, true] {
            for way in WAYS {
                for (from, expected) in
                    [("earliest", LIVES), ("1", &LIVES[1..]), ("4", &LIVES[2..])]
                {
                    let from = match (way.1, from) {
                        (false, "earliest") | (true, _) => from.to_owned(),
                        (false, place) => format!("@{place}"),
                    };
                    let told = read(&server, way, Ask::new(&from, "fail")).await;
                    let told = (told.gap.as_deref(), &told.sequences[..]);
                    assert_eq!(told, (None, expected), "{way:?}, {from}, dropped: {is_dropped}");
                }
            }
            if !is_dropped {
                let report = soon(server.broker.maintain(Some(&name("a")))).await.unwrap();
                assert_eq!(report.expired.events, 4, "{report:?}");
            }
        }
    }
}
