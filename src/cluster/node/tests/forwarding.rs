//! Tests of forwarding: callers of nodes that follow, over real connections between the nodes.

use super::*;
use crate::broker::InOrder;

/// A fleet whose nodes reach each other.
pub(super) async fn reachable(lease: Duration) -> (TestFleet, Vec<SimulatedStream>) {
    let stream = SimulatedStream::new(1, faultless(), Arc::new(RuntimeClock::default()));
    let links: Vec<_> = (0..3).map(|_| stream.another_link()).collect();
    let streams = links.iter().map(|link| Arc::new(link.clone()) as Arc<dyn FleetEngine>).collect();
    (TestFleet::connected(streams, lease, HOUR, true).await, links)
}

pub(super) fn event(id: &str) -> NewEvent {
    NewEvent::new(format!("event {id}")).with_id(id)
}

/// Goal: whoever asks a node that follows is answered as by the leader, and reads there at once
/// what it wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_every_node_are_served_alike_and_read_what_they_wrote() {
    let (fleet, _) = reachable(LEASE).await;
    let leader = fleet.leader_but(None).await;
    let mut expected = Vec::new();
    for number in 0..30 {
        let broker = &fleet.node(number % 3).broker;
        let ack = publish(broker, "a", &number.to_string()).await.unwrap();
        assert_eq!(ack.durability, Durability::Replicated);
        assert_eq!(ack.last().sequence.get(), number as u64 + 1);
        expected.push(number.to_string());
        assert_eq!(ids(broker, "a").await, expected, "node {number}, {leader} leads");
    }
    let follower = &fleet.node((leader + 1) % 3).broker;
    let again = publish(follower, "a", "7").await.unwrap();
    assert!(again.is_duplicate());
    assert_eq!(again.last().sequence.get(), 8);
    let unexpected = Publish::one(name("a"), event("x")).expecting(7);
    let refused = follower.publish(unexpected).await.unwrap_err();
    assert!(matches!(refused, Error::UnexpectedSequence { expected: 7, actual: 30, .. }));
    let several = ["b", "c", "b"].map(|topic| Publish::one(name(topic), event(topic)));
    let acks = follower.publish_all(several.to_vec()).await.unwrap();
    assert!(acks[2].is_duplicate() && acks[1].first().position > acks[0].first().position);
    let limited = TopicConfig { max_events: Some(3), ..TopicConfig::default() };
    follower.create_topic(&name("d"), limited).await.unwrap();
    assert_eq!(follower.topic(&name("d")).unwrap().config.max_events, Some(3));
    let exists = follower.create_topic(&name("d"), limited).await.unwrap_err();
    assert!(matches!(exists, Error::TopicExists(topic) if topic == name("d")));
    follower.delete_topic(&name("d")).await.unwrap();
    assert!(follower.topic(&name("d")).is_err());
    follower.purge(&name("a"), crate::Sequence::new(11)).await.unwrap();
    let few = TopicConfig { max_events: Some(1), ..TopicConfig::default() };
    follower.set_topic(&name("b"), few).await.unwrap();
    let report = follower.maintain(None).await.unwrap();
    assert!(report.topics >= 3, "{report:?}");
    let unknown = follower.maintain(Some(&name("x"))).await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownTopic(topic) if topic == name("x")));
    assert_eq!(ids(follower, "a").await, expected[10..]);
    fleet.agreed().await;
    fleet.close().await;
}

/// Goal: the publishes of one publisher keep their order, and after one that failed none is stored,
/// whichever node it uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publishers_order_is_kept_on_its_way() {
    let (fleet, _) = reachable(LEASE).await;
    let leader = fleet.leader_but(None).await;
    let broker = &fleet.node((leader + 1) % 3).broker;
    let (order, other) = (InOrder::default(), InOrder::default());
    let mut pending = Vec::new();
    for number in 0..200 {
        let publish = Publish::one(name("a"), NewEvent::new(number.to_string()));
        pending.push(broker.submit_in_order(publish, &order).await.unwrap());
    }
    let fails = Publish::one(name("a"), NewEvent::new("never")).expecting(7);
    let fails = broker.submit_in_order(fails, &order).await.unwrap();
    let mut after = Vec::new();
    for _ in 0..50 {
        let publish = Publish::one(name("a"), NewEvent::new("after"));
        let Ok(submitted) = broker.submit_in_order(publish, &order).await else { continue };
        after.push(submitted);
        let publish = Publish::one(name("b"), NewEvent::new("of another"));
        broker.submit_in_order(publish, &other).await.unwrap();
    }
    for (number, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.ack().await.unwrap().last().sequence.get(), number as u64 + 1);
    }
    let failed = fails.ack().await.unwrap_err();
    assert!(matches!(failed, Error::UnexpectedSequence { .. }), "{failed}");
    for after in after {
        let error = after.ack().await.unwrap_err();
        assert!(matches!(error, Error::AfterFailure), "{error}");
    }
    broker.publish(Publish::one(name("b"), NewEvent::new("last"))).await.unwrap();
    assert_eq!(broker.topic(&name("a")).unwrap().extent.tail.get(), 201);
    assert_eq!(broker.topic(&name("b")).unwrap().extent.tail.get(), 52);
    fleet.close().await;
}

/// Goal: a leader that dies under load costs publishers with ids on other nodes a pause and nothing
/// else: their nodes repeat what was not answered. Whoever gives no ids is told what nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_on_other_nodes_do_not_notice_that_a_leader_died() {
    let (mut fleet, _) = reachable(Duration::from_secs(1)).await;
    let mut former = fleet.leader_but(None).await;
    for round in 0..3 {
        let others: Vec<usize> = (0..3).filter(|number| *number != former).collect();
        let mut publishers = tokio::task::JoinSet::new();
        for number in 0..6 {
            let broker = fleet.node(others[number % 2]).broker.clone();
            publishers.spawn(async move {
                let topic = format!("r{round}p{number}");
                let has_ids = number < 4;
                let order = InOrder::default();
                let mut pending = Vec::new();
                for event in 0..150 {
                    let id = if has_ids { event.to_string() } else { String::new() };
                    let content = NewEvent::new(event.to_string()).with_id(&id);
                    let publish = Publish::one(name(&topic), content);
                    pending.push(match broker.submit_in_order(publish, &order).await {
                        Ok(submitted) => tokio::spawn(submitted.ack()),
                        Err(error) => tokio::spawn(async { Err(error) }),
                    });
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let mut outcomes = Vec::new();
                for pending in pending {
                    outcomes.push(pending.await.unwrap());
                }
                (topic, has_ids, outcomes)
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        fleet.take(former).kill().await;
        let next = fleet.leader_but(Some(former)).await;
        while let Some(done) = publishers.join_next().await {
            let (topic, has_ids, outcomes) = done.unwrap();
            let events = payloads(&fleet.node(next).broker, &topic).await;
            let stored =
                |event: usize| events.iter().filter(|it| **it == event.to_string()).count();
            assert!(
                events.is_sorted_by_key(|it| it.parse::<u32>().unwrap()),
                "{topic}: {events:?}"
            );
            for (event, outcome) in outcomes.iter().enumerate() {
                match outcome {
                    Ok(_) => assert_eq!(stored(event), 1, "{topic}: {event}"),
                    Err(error) => {
                        assert!(!has_ids, "{topic}: {event}: {error}");
                        let most = usize::from(error.outcome_unknown());
                        assert!(stored(event) <= most, "{topic}: {event}: {error}");
                    }
                }
            }
        }
        fleet.start(former).await;
        former = next;
    }
    fleet.agreed().await;
    fleet.close().await;
}

/// Goal: a leader that is closed hands over, and callers of it and of others are all served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_retires_serves_its_callers_until_it_is_closed() {
    let (mut fleet, _) = reachable(LEASE).await;
    let former = fleet.leader_but(None).await;
    let broker = fleet.node(former).broker.clone();
    let mut acked = Vec::new();
    for number in 0..60 {
        if number == 20 {
            let view = fleet.node(former).node.view();
            tokio::spawn(async move { view.hand_over().await });
        }
        publish(&broker, "a", &number.to_string()).await.unwrap();
        acked.push(number.to_string());
    }
    let next = fleet.leader_but(Some(former)).await;
    assert_ne!(next, former);
    fleet.take(former).close().await;
    assert_eq!(ids(&fleet.node(next).broker, "a").await, acked);
    fleet.close().await;
}

/// Goal: whoever does not know the secret of a fleet has nothing stored by its nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_the_secret_is_refused() {
    let (mut fleet, _) = reachable(LEASE).await;
    let leader = fleet.leader_but(None).await;
    let stranger = (leader + 1) % 3;
    fleet.take(stranger).close().await;
    fleet.secret = "another".into();
    fleet.start(stranger).await;
    let broker = fleet.node(stranger).broker.clone();
    let status = fleet.node(stranger).node.status();
    let is_refused = async |wanted: &str| {
        let began = Instant::now();
        let refused = publish(&broker, "a", "1").await.unwrap_err();
        assert!(began.elapsed() < FORWARDING_PATIENCE, "not at once: {:?}", began.elapsed());
        let Error::NoLeader(why) = refused else { panic!("{refused}") };
        assert!(why.to_string().contains(wanted), "{why}");
    };
    wait_for(|| status.borrow().is_among_strangers.then_some(())).await;
    is_refused("fleet.secret").await;
    // The next leader is known from the stream, and refuses the stranger.
    fleet.take(leader).close().await;
    wait_for(|| status.borrow().leader.clone()).await;
    is_refused("the secret of the fleet is another one").await;
    is_refused("the secret of the fleet is another one").await;
    let other = 3 - leader - stranger;
    assert!(fleet.node(other).broker.topic(&name("a")).is_err());
    fleet.close().await;
}

async fn payloads(broker: &Broker, topic: &str) -> Vec<String> {
    let mut events = Vec::new();
    let Ok(mut reader) = broker.subscribe(&name(topic), StartPoint::Earliest, OnGap::Fail).await
    else {
        return events;
    };
    loop {
        match tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap().unwrap() {
            Delivery::Events(run) => events.extend(
                run.to_events()
                    .into_iter()
                    .map(|event| String::from_utf8(event.content.payload.to_vec()).unwrap()),
            ),
            Delivery::CaughtUp => return events,
            other => panic!("{other:?}"),
        }
    }
}
