//! The broker in a program without a runtime, and on the threads for blocking work of one that has
//! a runtime.

use std::time::Duration;

use leftoff::{
    Broker, Delivery, Error, NewEvent, OnGap, OpenConfig, PageRequest, Publish, StartPoint,
    StateRequest, TopicName, Waited,
};

/// A program as `fn main` has it: no runtime, and every call blocks.
fn program(broker: &Broker) {
    let blocking = broker.blocking().expect("a thread");
    let topic: TopicName = "orders".parse().expect("a name");
    for payload in ["one", "two", "three"] {
        let event = NewEvent::new(payload).with_key("key");
        blocking.publish(Publish::one(topic.clone(), event)).expect("an acknowledgement");
    }
    let page = blocking.read(&topic, PageRequest::default().limit(2)).expect("a page");
    let payloads = page.runs.iter().flat_map(|run| run.to_events());
    let payloads: Vec<_> = payloads.map(|event| event.content.payload).collect();
    assert_eq!(payloads, ["one", "two"]);
    let state = blocking.state(&topic, StateRequest::default()).expect("a state");
    assert_eq!(state.events.len(), 1);
    assert_eq!(state.events[0].content.payload, "three");

    let mut reader =
        blocking.subscribe(&topic, page.cursor.into(), OnGap::Resume).expect("a reader");
    let mut followed = Vec::new();
    while let Some(delivery) = reader.next().expect("a delivery") {
        match delivery {
            Delivery::Events(run) => followed.extend(run.to_events()),
            Delivery::CaughtUp => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(followed.len(), 1);
    assert_eq!(followed[0].content.payload, "three");
    let silence = reader.next_within(Duration::from_millis(10)).expect("no failure");
    assert!(matches!(silence, Waited::Silence), "{silence:?}");
    let publisher = blocking.clone();
    let later = std::thread::spawn(move || {
        let publish = Publish::one("orders".parse().expect("a name"), NewEvent::new("four"));
        publisher.publish(publish).expect("an acknowledgement");
    });
    let Some(Delivery::Events(run)) = reader.next().expect("a delivery") else {
        panic!("an event from another thread")
    };
    assert_eq!(run.to_events()[0].content.payload, "four");
    later.join().expect("no panic");
    blocking.close();
    let after = blocking.publish(Publish::one(topic, NewEvent::new("late")));
    assert!(matches!(after, Err(Error::ShuttingDown)), "{after:?}");
    assert!(reader.next().expect("an end in order").is_none());
}

/// Goal: a thread without a runtime publishes, follows, reads pages and states, and closes; the
/// directory is free afterwards.
#[test]
fn a_program_without_a_runtime_has_every_call() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = Broker::open(directory.path(), &OpenConfig::default()).expect("a broker");
    program(&broker);
    let again = Broker::open(directory.path(), &OpenConfig::default()).expect("it is free");
    assert_eq!(again.last_position().get(), 4);
    again.close_blocking();
}

/// Goal: the same calls work on the blocking threads of a runtime, and an asynchronous call outside
/// of any runtime says what to do.
#[test]
fn blocking_calls_work_in_a_runtime_and_others_name_them_outside() {
    let broker = Broker::in_memory(&OpenConfig::default()).expect("a broker");
    let publish = Publish::one("orders".parse().expect("a name"), NewEvent::new("one"));
    let mut call = std::pin::pin!(broker.publish(publish));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match call.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Err(error @ Error::NoRuntime)) => {
            assert!(error.to_string().contains("Broker::blocking"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let in_task = broker.clone();
    runtime.block_on(async move {
        let work = tokio::task::spawn_blocking(move || program(&in_task));
        leftoff_host::soon(work).await.expect("no panic");
    });
    let topic = "orders".parse().expect("a name");
    let later = broker.subscribe(&topic, StartPoint::Latest, OnGap::Fail);
    let refused = runtime.block_on(later).expect_err("closed");
    assert!(matches!(refused, Error::ShuttingDown), "{refused}");
}
