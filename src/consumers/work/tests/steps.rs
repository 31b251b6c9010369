//! The steps of a dispatcher: how much is done in one of them, and in one poll.

use std::future::poll_fn;
use std::pin::pin;

use tokio::sync::{mpsc, oneshot};

use super::super::dispatcher::{Dispatcher, DispatcherParts};
use super::super::places::WorkPlace;
use super::super::shared::SharedConsumer;
use super::super::work_commands::Command;
use super::*;
use crate::broker::Filter;
use crate::cursor::Sequence;
use crate::polls;
use crate::topic::TopicId;

fn consumer() -> SharedConsumer {
    SharedConsumer {
        number: 1,
        name: "work".to_owned(),
        selection: "jobs".parse().unwrap(),
        filter: Filter::default(),
        settings: WorkSettings::default(),
        start: None,
    }
}

/// Returns a dispatcher that nobody runs.
async fn dispatcher(bench: &Bench, max_waiting: u64) -> Dispatcher {
    bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &[""]).await;
    let (own, _) = mpsc::channel(1);
    let parts = DispatcherParts {
        broker: bench.broker.clone(),
        term: bench.broker.lead_term().unwrap(),
        led_since_ms: None,
        own_topic: name("$consumers"),
        config: WorkConfig { max_waiting, ..WorkConfig::default() },
        records: Arc::default(),
        status: Arc::default(),
        own: own.downgrade(),
    };
    Dispatcher::new(parts, consumer())
}

/// Goal: where as many pulls wait as may, those that come together have all waiting ones looked
/// through once. Method: what is given up after that makes no room before the next step.
#[tokio::test]
async fn a_step_looks_once_for_pulls_that_were_given_up() {
    let bench = Bench::new().await;
    let mut dispatcher = dispatcher(&bench, 2).await;
    let ask = |dispatcher: &mut Dispatcher| {
        let (reply, answer) = oneshot::channel();
        dispatcher.add_waiting(pull("a", 1).wait(ms(60_000)), reply);
        answer
    };
    let [first, second] = [ask(&mut dispatcher), ask(&mut dispatcher)];
    drop(first);
    let mut third = ask(&mut dispatcher);
    third.try_recv().expect_err("it waits in the place of the first one");
    drop(second);
    let refused = ask(&mut dispatcher).try_recv().expect("it is told at once");
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("events of this consumer"), "{refused}");
    dispatcher.step(std::iter::empty()).await;
    let mut next = ask(&mut dispatcher);
    next.try_recv().expect_err("it waits in the place of the second one");
    bench.broker.close().await;
}

/// Goal: however many leases are settled together, other tasks get their turn meanwhile.
#[tokio::test]
async fn many_leases_are_settled_in_several_polls() {
    let bench = Bench::new().await;
    let mut dispatcher = dispatcher(&bench, 2).await;
    dispatcher.step(std::iter::empty()).await; // All is read and stored that there is.
    let place =
        WorkPlace { topic: TopicId::from_stored(1).unwrap(), sequence: Sequence::new(1_000) };
    let lease = LeaseId { consumer: 1, place, tries: 1 };
    let settle = |_| {
        let (reply, answer) = oneshot::channel();
        let settlement = Settlement::ack(vec![lease; MAX_SETTLED]);
        (Command::Settle { consumer: consumer(), settlement, reply }, answer)
    };
    let (commands, answers): (Vec<_>, Vec<_>) = (0..20).map(settle).unzip();
    let mut polled = 0;
    {
        let step = dispatcher.step(commands.into_iter());
        let mut step = pin!(polls::timed(polls::Task::Consumers, step));
        let counted = poll_fn(|cx| {
            polled += 1;
            step.as_mut().poll(cx)
        });
        assert!(counted.await.is_none(), "the consumer is not deleted");
    }
    assert!(polled > 1, "all in one poll");
    for answer in answers {
        let settled = answer.await.unwrap().unwrap();
        assert_eq!(settled.ack, vec![SettleOutcome::Over; MAX_SETTLED]);
    }
    bench.broker.close().await;
}
