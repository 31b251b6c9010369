//! A node as it is shown to others: whether it is ready, how far it is behind, and how it hands
//! over the lead.

use super::joining::begun_stream;
use super::versions::last_place;
use super::*;
use crate::cluster::chain::StreamPlace;
use crate::cluster::record::RecordBody;
use crate::cluster::simulated::SimulatedStream;
use crate::cluster::stream::Stream as _;
use crate::error::OpenReason;

/// Goal: a node is ready once it has caught up, stays so while the engine is away, and says why it
/// is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_whether_it_is_ready_and_how_far_it_is_behind() {
    let (mut fleet, links) = TestFleet::begun(LEASE).await;
    let leader = fleet.leader_but(None).await;
    fleet.publish_somewhere("a", "1").await;
    fleet.agreed().await;
    for node in fleet.running() {
        let view = node.node.view();
        wait_for(|| view.check_ready().ok()).await;
        wait_for(|| (view.status().lag_records() == 0).then_some(())).await;
        assert!(view.lag() < LEASE, "{:?}", view.lag());
        assert!(view.status().terms >= 1, "{:?}", view.status());
    }
    let view = fleet.node(leader).node.view();
    assert!(view.status().announcements >= 1, "{:?}", view.status());
    let follower = (leader + 1) % 3;
    fleet.take(follower).close().await;
    links.iter().for_each(|link| link.cut(PATIENCE));
    // One that was open and one that is opened now: only the first knows what it has.
    let stays = fleet.node((leader + 2) % 3).node.view();
    wait_for(|| stays.status().engine_problem).await;
    stays.check_ready().unwrap();
    fleet.start(follower).await;
    let opened = fleet.node(follower).node.view();
    wait_for(|| opened.status().engine_problem).await;
    let reason = opened.check_ready().unwrap_err();
    assert!(reason.contains("does not know yet what it misses: the engine"), "{reason}");
    assert_eq!(ids(&fleet.node(follower).broker, "a").await, ["1"], "readers are served");
    links.iter().for_each(|link| link.cut(Duration::ZERO));
    wait_for(|| opened.check_ready().ok()).await;
    fleet.close().await;
    let reason = opened.check_ready().unwrap_err();
    assert!(reason.ends_with("no part in its fleet: it is closed"), "{reason}");
}

/// Goal: the log of a node is not served by a broker that is alone, which would go another way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_node_is_no_log_for_a_broker_that_is_alone() {
    let (mut fleet, _) = TestFleet::begun(LEASE).await;
    fleet.publish_somewhere("a", "1").await;
    fleet.agreed().await;
    fleet.take(2).close().await;
    let TestDisk::Sled(directory) = &fleet.disks[2] else { panic!("the last one has a disk") };
    let refused = Broker::open(directory.path(), &OpenConfig::default()).unwrap_err();
    assert!(refused.to_string().contains("cannot open"), "{refused}");
    assert!(matches!(&refused, Error::Open(it) if matches!(it.reason, OpenReason::OfFleet)));
    fleet.start(2).await;
    fleet.agreed().await;
    assert_eq!(ids(&fleet.node(2).broker, "a").await, ["1"]);
    fleet.close().await;
}

/// Goal: a leader that hands over loses nothing that was handed in, is followed by another one long
/// before its lease is over, never leads again, and goes on following.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hands_over_follows_the_next_one_and_leads_no_more() {
    let lease = Duration::from_secs(2);
    let (mut fleet, _) = TestFleet::begun(lease).await;
    let leader = fleet.leader_but(None).await;
    let former = fleet.node(leader);
    let view = former.node.view();
    let handed_in: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let broker = former.broker.clone();
    let mut turns = Vec::new();
    for id in &handed_in {
        let event = NewEvent::new("x").with_id(id.clone());
        turns.push(broker.publish(Publish::one(name("a"), event)));
    }
    let (acknowledged, ()) = tokio::join!(futures_util::future::join_all(turns), view.hand_over());
    assert!(!former.leads());
    let reason = view.check_ready().unwrap_err();
    assert!(reason.contains("is leaving its fleet"), "{reason}");
    let began = Instant::now();
    let next = fleet.leader_but(Some(leader)).await;
    assert!(began.elapsed() < lease / 2, "{:?}", began.elapsed());
    for (id, acknowledged) in handed_in.iter().zip(acknowledged) {
        // Polled first after the lead was given away, a publish is refused, and surely not stored.
        if let Err(error) = acknowledged {
            assert!(matches!(error, Error::NotLeading), "{error}");
            fleet.publish_somewhere("a", id).await;
        }
    }
    fleet.publish_somewhere("a", "later").await;
    fleet.agreed().await;
    let mut stored = ids(&fleet.node(leader).broker, "a").await;
    assert_eq!(stored.pop().as_deref(), Some("later"));
    stored.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(stored, handed_in);
    fleet.take(next).kill().await;
    let third = fleet.leader_but(Some(leader)).await;
    assert!(third != leader && third != next);
    fleet.close().await;
}

/// Appends a record to a stream, as another node does.
async fn append(stream: &SimulatedStream, body: RecordBody) -> StreamPlace {
    let place = last_place(stream).await;
    let (record, next) = place.following(&body);
    stream.append(place.stream, record).await.unwrap();
    next
}

/// Goal: a leader that has resigned is not shown as the leader, whatever record comes after; one
/// that has not is shown to a node that comes in the middle of its term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_resigned_is_not_shown_again() {
    for resigns in [true, false] {
        let stream = begun_stream();
        let founded = append(&stream, RecordBody::Found(crate::Epoch::new(7))).await;
        let (node, address) = ("n9".to_owned(), String::new());
        let leader = FleetLeader { node, incarnation: 9, address };
        let epoch = founded.epoch.unwrap();
        let announced = RecordBody::Announce { leader: leader.clone(), epoch };
        append(&stream, announced).await;
        if resigns {
            append(&stream, RecordBody::Resigned).await;
        }
        let last = append(&stream, RecordBody::Skipped).await;
        // The lease is long: nobody else leads in the meantime.
        let link = Arc::new(stream.another_link());
        let node = open_node(Arc::<MemoryLog>::default(), link, 1, PATIENCE).await.unwrap();
        let read = wait_for(|| {
            let status = node.node.status().borrow().clone();
            (status.read == last.stream).then_some(status)
        })
        .await;
        assert_eq!(read.leader, Some(leader).filter(|_| !resigns));
        assert_eq!(read.resigned, if resigns { last.term } else { 0 });
        node.close().await;
    }
}
