//! Tests of nodes whose logs are damaged.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::joining::{
    Giver, SECRET, begun_stream, content_in, giver, join, numbers, publish_all, sled_disk, trim_all,
};
use super::*;
use crate::cluster::{JoiningState, RepairedLog};
use crate::cursor::{Epoch, Sequence};
use crate::log::{Applied, Fault, FaultyLog, damage_stored, note_damage};

/// A fleet of one node that others can load a backup from, and the directory of a second node that
/// was in it and is closed.
pub(super) struct Pair {
    stream: SimulatedStream,
    disk: TestDisk,
    peer: Option<Giver>,
    _directory: TempDir,
    pub(super) data: PathBuf,
}

impl Pair {
    pub(super) async fn begun() -> Self {
        let (stream, disk) = (begun_stream(), sled_disk());
        let peer = giver(1, &stream, &disk).await;
        wait_for(|| peer.node.leads().then_some(())).await;
        publish_all(&peer.node.broker, 0..30).await;
        publish_large(&peer.node.broker).await;
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let pair = Self { stream, disk, peer: Some(peer), _directory: directory, data };
        for _ in 0..2 {
            let (broker, node) = pair.join().await;
            let last = pair.peer().node.broker.last_position();
            wait_for(|| (broker.last_position() == last).then_some(())).await;
            node.close().await;
            drop(broker);
        }
        pair
    }

    pub(super) fn peer(&self) -> &Giver {
        self.peer.as_ref().unwrap()
    }

    async fn stop_peer(&mut self) {
        self.peer.take().unwrap().close().await;
    }

    async fn start_peer(&mut self) {
        self.peer = Some(giver(1, &self.stream, &self.disk).await);
        wait_for(|| self.peer().node.leads().then_some(())).await;
    }

    pub(super) async fn join(&self) -> (Broker, FleetNode) {
        let state = watch::Sender::new(JoiningState::default());
        join(&self.data, &self.stream, SECRET, &state).await.unwrap()
    }

    /// Joins, and asserts that the log was replaced. Returns what is told of that.
    pub(super) async fn repaired(&self) -> RepairedLog {
        let (broker, node) = self.join().await;
        let last = self.peer().node.broker.last_position();
        wait_for(|| (broker.last_position() == last).then_some(())).await;
        assert_eq!(ids(&broker, "a").await, numbers(0..30));
        let status = node.status().borrow().clone();
        assert_eq!(status.damage, None);
        assert_eq!(node.peers().own().problem, None);
        node.close().await;
        let repaired = status.repaired.expect("the damaged log is kept");
        assert!(repaired.kept_in.join("sled/db").exists(), "{repaired:?}");
        assert!(repaired.kept_bytes > 50_000, "{repaired:?}");
        assert!(asides(&self.data).contains(&repaired.kept_in));
        repaired
    }

    pub(super) async fn finish(mut self) {
        self.stop_peer().await;
        let TestDisk::Sled(of_peer) = &self.disk else { unreachable!() };
        assert_eq!(content_in(&self.data), content_in(of_peer.path()));
    }
}

/// Publishes events that fill several pages.
async fn publish_large(broker: &Broker) {
    for number in 0..100 {
        let event = NewEvent::new(format!("large {number:04}{}", "x".repeat(4_000)));
        broker.publish(Publish::one(name("large"), event)).await.unwrap();
    }
}

fn asides(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains("/damaged-")).collect()
}

/// Changes the file of sled in `data`.
fn change_db(data: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = data.join("sled/db");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
}

fn change_text(bytes: &mut [u8], text: &str) {
    let windows = bytes.windows(text.len()).enumerate();
    let found: Vec<usize> =
        windows.filter(|(_, window)| *window == text.as_bytes()).map(|(at, _)| at).collect();
    assert!(!found.is_empty());
    found.into_iter().for_each(|at| bytes[at..at + 3].copy_from_slice(b"###"));
}

/// Cuts the file of sled in `data` before the first place where it has `text`.
fn cut_at(data: &Path, text: &str) {
    change_db(data, |bytes| {
        let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        bytes.truncate(found.expect("it is in the file"));
    });
}

/// The place of the log in `data`, changed by `change`.
fn change_place(data: &Path, change: impl FnOnce(&mut Applied)) {
    let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
    let log = SledLog::open(data, &config).unwrap();
    let mut applied = log.applied().unwrap().unwrap();
    change(&mut applied);
    let durability = Durability::Fsync;
    log.commit(&Group { durability, applied: Some(applied), ..Group::default() }).unwrap();
}

/// Goal: a node whose log has lost its end, or does not open, loads a backup of a peer at its next
/// start, says so, and keeps the damaged log, also the first one of a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_damaged_log_loads_a_backup_and_keeps_the_damaged_one() {
    let pair = Pair::begun().await;
    trim_all(&pair.stream).await;
    publish(&pair.peer().node.broker, "b", "moves the place").await.unwrap();
    let mut kept = Vec::new();
    for cut in ["large 0090", "large 0020"] {
        cut_at(&pair.data, cut);
        let repaired = pair.repaired().await;
        assert_eq!(repaired.from.as_deref(), Some("n1"), "{repaired:?}");
        assert!(!repaired.why.is_empty());
        kept.push(repaired.kept_in);
    }
    assert!(kept[0] != kept[1] && kept.iter().all(|kept| kept.exists()), "{kept:?}");
    // They are told as long as they are kept.
    kept.iter().for_each(|kept| fs::remove_dir_all(kept).unwrap());
    let (_, node) = pair.join().await;
    assert_eq!(node.status().borrow().repaired, None);
    node.close().await;
    pair.finish().await;
}

/// Goal: while nobody can give a backup, a damaged log is left as it is and served; with a peer it
/// is repaired. A log of a broker that was alone is never replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_left_alone_until_a_peer_can_help() {
    let mut pair = Pair::begun().await;
    pair.stop_peer().await;
    trim_all(&pair.stream).await;
    let original = fs::read(pair.data.join("sled/db")).unwrap();
    cut_at(&pair.data, "large 0050");
    let state = watch::Sender::new(JoiningState::default());
    let refused = join(&pair.data, &pair.stream, SECRET, &state).await.unwrap_err();
    assert!(matches!(refused, NodeOpenError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("no other node is heard"), "{refused}");
    assert!(asides(&pair.data).is_empty());
    change_db(&pair.data, |bytes| *bytes = original);
    change_db(&pair.data, |bytes| change_text(bytes, "large 0099"));
    for _ in 0..2 {
        let (_, node) = pair.join().await;
        let status = node.status().borrow().clone();
        assert_eq!((status.role, &status.repaired), (NodeRole::Stopped, &None));
        let damage = status.damage.unwrap();
        assert!(damage.contains("no other node is heard"), "{damage}");
        node.view().check_ready().unwrap_err();
        node.close().await;
        assert!(asides(&pair.data).is_empty());
    }
    pair.start_peer().await;
    pair.repaired().await;
    pair.finish().await;

    let alone = tempfile::tempdir().unwrap();
    let broker = Broker::open(alone.path(), &OpenConfig::default()).unwrap();
    publish_all(&broker, 0..3).await;
    broker.close().await;
    drop(broker);
    let (stream, disk) = (begun_stream(), sled_disk());
    let peer = giver(1, &stream, &disk).await;
    for _ in 0..2 {
        let state = watch::Sender::new(JoiningState::default());
        let (broker, node) = join(alone.path(), &stream, SECRET, &state).await.unwrap();
        assert_eq!(ids(&broker, "a").await, numbers(0..3));
        let status = node.status().borrow().clone();
        assert_eq!((status.role, status.damage), (NodeRole::Stopped, None));
        assert!(asides(alone.path()).is_empty());
        node.close().await;
        note_damage(alone.path(), "a page of it").unwrap(); // It stays what it is.
    }
    peer.close().await;
}

/// Goal: without a peer, a damaged log is made anew from a stream that has all records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_made_anew_from_a_whole_stream() {
    let mut pair = Pair::begun().await;
    pair.stop_peer().await;
    cut_at(&pair.data, "large 0050");
    let (broker, node) = pair.join().await;
    wait_for(|| (node.status().borrow().role == NodeRole::Leading).then_some(())).await;
    assert_eq!(ids(&broker, "a").await, numbers(0..30));
    let status = node.status().borrow().clone();
    assert_eq!(status.damage, None);
    assert_eq!(status.repaired.unwrap().from, None);
    node.close().await;
    pair.start_peer().await;
    pair.finish().await;
}

/// Goal: damage in the middle, which is found when it is read, is told, keeps the node from being
/// ready while another one serves, and is repaired at the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_a_reader_finds_is_told_and_repaired_at_the_next_start() {
    let mut pair = Pair::begun().await;
    let (broker, node) = pair.join().await;
    wait_for(|| node.view().check_ready().is_ok().then_some(())).await;
    let (topic, first, problem) = (name("large"), Sequence::new(40), "a page".to_owned());
    let found = Error::Damaged { topic, first, last: Some(first), problem };
    node.log.noted::<()>(Err(found)).unwrap_err();
    wait_for(|| node.status().borrow().damage.clone()).await;
    wait_for(|| pair.data.join("damage").exists().then_some(())).await;
    let reason = wait_for(|| node.view().check_ready().err()).await;
    assert!(reason.contains("its next start loads a backup"), "{reason}");
    assert!(node.peers().own().problem.unwrap().contains("large"));
    pair.stop_peer().await;
    wait_for(|| node.view().check_ready().is_ok().then_some(())).await;
    node.close().await;
    drop(broker);
    pair.start_peer().await;
    let repaired = pair.repaired().await;
    assert!(repaired.why.contains("large"), "{repaired:?}");
    pair.finish().await;
}

/// Goal: a damaged page which nobody reads is found by the search. The node then waits to be opened
/// again once another node can help, and that repairs it. If the next log is damaged, too, it goes
/// on for hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_nobody_reads_is_found_and_the_node_ends_for_it_once_in_a_while() {
    let mut pair = Pair::begun().await;
    damage_stored(&pair.data, "large 0040");
    pair.stop_peer().await;
    let (broker, node) = pair.join().await;
    assert_eq!(node.status().borrow().repaired, None, "it is not found at the start");
    let mut repairable = tokio::spawn(node.repairable());
    let damage = wait_for(|| node.status().borrow().damage.clone()).await;
    assert!(damage.contains("large"), "{damage}");
    assert_eq!(node.view().searched().unwrap().passes, 0);
    wait_for(|| (!node.view().others_serve()).then_some(())).await;
    let early = tokio::time::timeout(LEASE * 4, &mut repairable).await;
    assert!(early.is_err(), "nobody can help it: {early:?}");
    pair.peer = Some(giver(1, &pair.stream, &pair.disk).await);
    let why = tokio::time::timeout(PATIENCE, repairable).await.unwrap().unwrap();
    assert!(why.contains("its log is damaged: ") && why.contains("n1 can help it"), "{why}");
    node.close().await;
    drop(broker);
    let repaired = pair.repaired().await;
    assert!(repaired.why.contains("large"), "{repaired:?}");
    let (broker, node) = pair.join().await;
    wait_for(|| (node.view().searched().unwrap().passes == 1).then_some(())).await;
    let searched = node.view().searched().unwrap();
    assert!(searched.read_bytes > 400_000 && searched.last_at_ms.is_some(), "{searched:?}");
    node.close().await;
    drop(broker);

    damage_stored(&pair.data, "large 0050");
    let (broker, node) = pair.join().await;
    let mut repairable = tokio::spawn(node.repairable());
    let problem = wait_for(|| node.status().borrow().restart_problem.clone()).await;
    assert!(problem.contains("ended for a repair (its log is damaged"), "{problem}");
    let reason = node.view().check_ready().unwrap_err();
    assert!(reason.contains(&problem), "{reason}");
    let early = tokio::time::timeout(LEASE * 4, &mut repairable).await;
    assert!(early.is_err(), "it ends again and again");
    fs::write(pair.data.join("ended"), "1 long ago").unwrap();
    tokio::time::timeout(PATIENCE, repairable).await.unwrap().unwrap();
    node.close().await;
    drop(broker);
    pair.repaired().await;
    pair.finish().await;
}

/// Goal: what looks damaged to a reader, because it was trimmed a moment before, is no damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_gone_are_not_taken_for_damage() {
    let pair = Pair::begun().await;
    let (broker, node) = pair.join().await;
    let leader = &pair.peer().node.broker;
    leader.purge(&name("large"), Sequence::new(50)).await.unwrap();
    leader.maintain(None).await.unwrap();
    let trimmed = || broker.topic(&name("large")).unwrap().extent.earliest > Sequence::new(40);
    wait_for(|| trimmed().then_some(())).await;
    let topic = node.log.topics().unwrap().into_iter().find(|it| it.name == name("large"));
    let (id, tail) = topic.map(|topic| (topic.id, topic.extent.tail)).unwrap();
    let suspects = node.log.suspects();
    // A reader that was told the old beginning comes late.
    wait_for(|| {
        let read = node.log.read(id, Sequence::new(10), tail, 1);
        matches!(read, Err(Error::Damaged { .. })).then_some(())
    })
    .await;
    wait_for(|| suspects.borrow().is_none().then_some(())).await;
    assert_eq!(node.status().borrow().damage, None);
    node.close().await;
    drop(broker);
    pair.peer.unwrap().close().await;
}

/// Goal: a node whose log takes nothing more says that it needs to be opened again; once another
/// node serves, it waits for that, and nothing is noted as damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_takes_nothing_more_is_to_be_opened_again() {
    let (fleet, links) = TestFleet::begun(LEASE).await;
    fleet.leader_but(None).await;
    let log = Arc::new(FaultyLog::default());
    let link = Arc::new(links[0].another_link());
    let node = open_node(log.clone(), link, 3, LEASE).await.unwrap();
    fleet.publish_somewhere("a", "first").await;
    wait_for(|| (log.appends() > 0).then_some(())).await;
    log.fail(log.appends() + 1, Fault::WriteFails);
    fleet.publish_somewhere("a", "second").await;
    let status = wait_for(|| {
        let status = node.node.status().borrow().clone();
        (status.role == NodeRole::Stopped).then_some(status)
    });
    let status = status.await;
    assert!(status.needs_opening && status.repairable_problem().is_some(), "{status:?}");
    assert_eq!(status.damage, None);
    node.close().await;
    fleet.close().await;

    let mut pair = Pair::begun().await;
    let (broker, node) = pair.join().await;
    pair.stop_peer().await;
    node.status.send_modify(|status| status.needs_opening = true);
    wait_for(|| (!node.view().others_serve()).then_some(())).await;
    let repairable = tokio::spawn(node.repairable());
    pair.peer = Some(giver(1, &pair.stream, &pair.disk).await);
    let why = tokio::time::timeout(PATIENCE, repairable).await.unwrap().unwrap();
    assert!(why.contains("n1 can help it"), "{why}");
    assert!(pair.data.join("ended").exists() && !pair.data.join("damage").exists());
    node.close().await;
    drop(broker);

    // A node that does not fit the stream has its log replaced, and kept.
    fs::remove_file(pair.data.join("ended")).unwrap();
    let (broker, node) = pair.join().await;
    node.status.send_modify(|status| status.breaks_at = Some(StreamSequence::new(2)));
    tokio::time::timeout(PATIENCE, node.repairable()).await.unwrap();
    node.close().await;
    drop(broker);
    let repaired = pair.repaired().await;
    assert_eq!(repaired.why, "it has stopped");
    pair.peer.unwrap().close().await;
}

/// Goal: a log whose last record is another one than the stream's is replaced by that of a peer of
/// the same fleet, and never by one of another fleet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_does_not_fit_the_stream_is_replaced_within_its_fleet() {
    let pair = Pair::begun().await;
    change_place(&pair.data, |place| place.chain ^= 1);
    let repaired = pair.repaired().await;
    assert!(repaired.why.contains("is another one"), "{repaired:?}");
    change_place(&pair.data, |place| {
        (place.chain, place.epoch) = (place.chain ^ 1, Epoch::new(place.epoch.get() ^ 1));
    });
    let (_, node) = pair.join().await;
    let damage = node.status().borrow().damage.clone().unwrap();
    assert!(damage.contains("take an empty data directory"), "{damage}");
    node.close().await;
    assert_eq!(asides(&pair.data), [repaired.kept_in]);
    pair.peer.unwrap().close().await;
}
