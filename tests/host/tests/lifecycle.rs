//! The life of a broker inside of a program: two at once, its end in every order, the same
//! directory again, and each error that a program can match.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use leftoff::error::OpenReason;
use leftoff::server::{Listener, Server};
use leftoff::{
    Broker, Delivery, Error, Filter, Member, NewEvent, OnGap, OpenConfig, PageRequest, Publish,
    Sequence, StartPoint, StateRequest, TopicConfig, TopicName,
};
use leftoff_host::soon;

fn name(topic: &str) -> TopicName {
    topic.parse().expect("a name")
}

fn one(topic: &str, payload: &'static str) -> Publish {
    Publish::one(name(topic), NewEvent::new(payload))
}

fn open(directory: &Path) -> leftoff::Result<Broker> {
    Broker::open(directory, &OpenConfig::default())
}

/// Goal: brokers of one process share nothing.
#[tokio::test]
async fn two_brokers_live_in_one_process() {
    let directories =
        [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("one")];
    let [first, second] = [0, 1].map(|index| open(directories[index].path()).expect("a broker"));
    soon(first.publish(one("a", "of the first"))).await.expect("an acknowledgement");
    assert!(second.topic(&name("a")).is_err());
    assert_ne!(first.epoch(), second.epoch());
    soon(first.close()).await;
    soon(second.publish(one("a", "of the second"))).await.expect("the other one is open");
    soon(second.close()).await;
}

/// Goal: a close that is given up, repeated or called on clones ends once, and the directory is
/// free at once, whatever of the broker lives on.
#[tokio::test]
async fn the_directory_is_free_after_a_close_whatever_lives_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut left = Vec::new();
    for opened in 1..=3 {
        let broker = open(directory.path()).expect("the directory is free");
        assert_eq!(broker.last_position().get(), opened - 1);
        soon(broker.publish(one("a", "event"))).await.expect("an acknowledgement");
        let reader = broker.subscribe(&name("a"), StartPoint::Earliest, OnGap::Resume).await;
        let mut reader = reader.expect("a reader");
        soon(reader.next()).await.expect("a delivery");
        let all = vec![">".parse().expect("a pattern")];
        let stream = broker.feed(all, StartPoint::Latest, OnGap::Fail);
        let mut stream = soon(stream).await.expect("a reader").into_stream();
        let waiting = tokio::spawn(async move {
            while let Some(delivery) = stream.next().await {
                delivery.expect("no failure");
            }
            stream
        });
        let presence = soon(broker.join(&[name("a")], Member::new("m"))).await.expect("a presence");
        let given_up = broker.clone();
        let _elapsed = tokio::time::timeout(Duration::ZERO, given_up.close()).await;
        let clone = broker.clone();
        let other = tokio::spawn(async move { clone.close().await });
        soon(broker.close()).await;
        soon(broker.close()).await;
        soon(other).await.expect("no panic");
        let stream = soon(waiting).await.expect("the stream ends");
        assert!(reader.next().await.expect("an end in order").is_none());
        left.push((broker, reader, stream, presence));
    }
    let again = open(directory.path()).expect("the directory is free");
    drop(left);
    soon(again.publish(one("a", "event"))).await.expect("the new broker is not touched");
    soon(again.close()).await;
}

/// Goal: a part of a host may close the broker when it is dropped, in a runtime and outside.
#[test]
fn a_drop_closes_the_broker() {
    struct Owner(Broker);
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.close_blocking();
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    drop(Owner(open(directory.path()).expect("a broker")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let owner = Owner(open(directory.path()).expect("the directory is free"));
        soon(owner.0.publish(one("a", "event"))).await.expect("an acknowledgement");
        drop(owner);
        let again = open(directory.path()).expect("the directory is free");
        assert_eq!(again.last_position().get(), 1);
        soon(again.close()).await;
    });
}

/// Goal: each call after the close says that the broker has stopped, and what is in memory is told.
#[tokio::test]
async fn each_call_after_a_close_is_refused() {
    let broker = Broker::in_memory(&OpenConfig::default()).expect("a broker");
    soon(broker.publish(one("a", "event"))).await.expect("an acknowledgement");
    soon(broker.close()).await;
    let (topic, all) = (name("a"), || vec![">".parse().expect("a pattern")]);
    let (start, on_gap) = (StartPoint::Earliest, OnGap::Resume);
    let config = TopicConfig::default;
    let refusals = [
        ("publish", broker.publish(one("a", "x")).await.map(drop)),
        ("submit", broker.submit(one("a", "x")).await.map(drop)),
        ("ephemeral", broker.publish_ephemeral(&topic, vec![NewEvent::new("x")]).map(drop)),
        ("subscribe", broker.subscribe(&topic, start, on_gap).await.map(drop)),
        ("feed", broker.feed(all(), start, on_gap).await.map(drop)),
        ("read", broker.read(&topic, PageRequest::default()).await.map(drop)),
        ("read_many", broker.read_many(all(), PageRequest::default()).await.map(drop)),
        ("state", broker.state(&topic, StateRequest::default()).await.map(drop)),
        ("join", broker.join(&[name("a")], Member::new("m")).await.map(drop)),
        ("purge", broker.purge(&topic, Sequence::new(2)).await),
        ("create", broker.create_topic(&name("b"), config()).await.map(drop)),
        ("set", broker.set_topic(&topic, config()).await.map(drop)),
        ("update", broker.update_topic(&topic, config(), vec![]).await.map(drop)),
        ("delete", broker.delete_topic(&topic).await),
        ("maintain", broker.maintain(None).await.map(drop)),
        ("backup", broker.backup(None).await.map(drop)),
        ("check_ready", broker.check_ready()),
    ];
    for (call, refused) in refusals {
        assert!(matches!(refused, Err(Error::ShuttingDown)), "{call}: {refused:?}");
    }
    assert_eq!(broker.topic(&topic).expect("it is in memory").extent.tail.get(), 2);
    assert_eq!((broker.topics(None, 9).len(), broker.last_position().get()), (1, 1));
}

/// Goal: a directory that cannot be opened says why, as a value and with the error of the system.
#[test]
fn each_reason_for_which_a_directory_is_not_opened_can_be_matched() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let reason = |opened: leftoff::Result<Broker>| match opened.map(|_| "a broker") {
        Err(Error::Open(error)) => (error.reason.clone(), error.to_string()),
        other => panic!("{other:?}"),
    };
    let broker = open(&path("deep/in/missing/parents")).expect("parents are created");
    let (locked, message) = reason(open(&path("deep/in/missing/parents")));
    assert!(matches!(locked, OpenReason::Locked), "{message}");
    assert!(message.contains("missing/parents"), "{message}");
    broker.close_blocking();

    std::fs::write(path("file"), "text").expect("a file");
    let (file, message) = reason(open(&path("file/log")));
    assert!(matches!(file, OpenReason::NoDirectory(_)), "{message}");
    let restored = |to: &str| match leftoff::log::restore(&path(to), &[path("file")], |_| {}) {
        Err(Error::Open(error)) => error.reason,
        other => panic!("{other:?}"),
    };
    let bad = restored("new");
    assert!(matches!(bad, OpenReason::BadBackup(_)), "{bad:?}");

    std::fs::create_dir_all(path("odd/lock")).expect("a directory in the place of the lock file");
    let error = open(&path("odd")).expect_err("no lock");
    let system = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    assert!(system.is_some_and(|it| it.kind() == io::ErrorKind::IsADirectory), "{error:?}");
}

/// Goal: a program finds what it can do about each refusal by matching on it.
#[tokio::test]
async fn each_refusal_can_be_matched() {
    let mut config = OpenConfig::default();
    config.limits.max_key_bytes = 8;
    let broker = Broker::in_memory(&config).expect("a broker");
    for payload in ["one", "two", "three"] {
        soon(broker.publish(one("a", payload))).await.expect("an acknowledgement");
    }
    let after_one = broker.read(&name("a"), PageRequest::default().limit(1)).await.expect("a page");
    match broker.publish(Publish::one(name("a"), NewEvent::new("x").with_key("123456789"))).await {
        Err(Error::OverLimit { value: 9, limit: 8, .. }) => {}
        other => panic!("{other:?}"),
    }
    match broker.read(&name("none"), PageRequest::default()).await {
        Err(Error::UnknownTopic(topic)) => assert_eq!(topic, name("none")),
        other => panic!("{other:?}"),
    }
    match broker.create_topic(&name("a"), TopicConfig::default()).await {
        Err(Error::TopicExists(topic)) => assert_eq!(topic, name("a")),
        other => panic!("{other:?}"),
    }
    match broker.publish(one("a", "x").expecting(7)).await {
        Err(Error::UnexpectedSequence { expected: 7, actual: 3, topic }) => {
            assert_eq!(topic, name("a"));
        }
        other => panic!("{other:?}"),
    }
    match broker.publish(Publish::new(name("a"), Vec::<NewEvent>::new())).await {
        Err(Error::Invalid { field, .. }) => assert_eq!(field, "events"),
        other => panic!("{other:?}"),
    }
    let tomorrow = after_one.runs[0].to_events()[0].time.plus_ms(86_400_000);
    match broker.subscribe(&name("a"), StartPoint::Time(tomorrow), OnGap::Resume).await {
        Err(Error::Invalid { field, .. }) => assert_eq!(field, "time"),
        other => panic!("{other:?}"),
    }
    let mut reader = broker.subscribe(&name("a"), StartPoint::Latest, OnGap::Fail).await;
    let filter = (0..2_000).fold(Filter::default(), |it, key| it.of_key(format!("{key}")));
    let other = broker.subscribe(&name("a"), StartPoint::Latest, OnGap::Fail).await;
    match other.and_then(|it| it.filtered(filter)) {
        Err(Error::OverLimit { .. }) => {}
        other => panic!("{other:?}"),
    }
    soon(broker.purge(&name("a"), Sequence::new(3))).await.expect("a purge");
    match broker.subscribe(&name("a"), after_one.cursor.into(), OnGap::Fail).await {
        Err(Error::Gap(gap)) => {
            assert_eq!((gap.lost, gap.earliest.number()), (Some(1), 3));
            let resumed =
                broker.subscribe(&name("a"), after_one.cursor.into(), OnGap::Resume).await;
            let mut resumed = resumed.expect("a reader");
            let told = soon(resumed.next()).await.expect("a delivery");
            assert!(matches!(told, Some(Delivery::Gap(_))), "{told:?}");
        }
        other => panic!("{other:?}"),
    }
    let reader = reader.as_mut().expect("a reader");
    assert!(matches!(soon(reader.next()).await, Ok(Some(Delivery::CaughtUp))));
    soon(broker.delete_topic(&name("a"))).await.expect("a deletion");
    match soon(reader.next()).await {
        Err(Error::TopicDeleted(topic)) => assert_eq!(topic, name("a")),
        other => panic!("{other:?}"),
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let error = Listener::bind(address).map(drop).expect_err("the port is taken");
    assert!(matches!(error, Error::Listen { .. }), "{error:?}");
    let system = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    assert!(system.is_some_and(|it| it.kind() == io::ErrorKind::AddrInUse), "{error:?}");
    let mut wrong = leftoff::server::ServerConfig::default();
    wrong.idle_ms = 0;
    let server = Server::builder(broker.clone()).config(wrong).bind().await;
    match server.map(drop) {
        Err(Error::Invalid { field, problem }) => {
            assert!(field == "server.idle_ms" && problem.contains('0'), "{field}: {problem}");
        }
        other => panic!("{other:?}"),
    }
    soon(broker.close()).await;
}
