//! Tests of nodes that load the backup of a peer.

use std::path::Path;

use futures_util::StreamExt as _;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::cluster::links::{LinkConfig, with_proof};
use crate::cluster::messages::{FleetMessages, MessageKind};
use crate::cluster::peers::PeerStatus;
use crate::cluster::proto::joining_server::{Joining, JoiningServer};
use crate::cluster::proto::{LoadBackupRequest, LoadBackupResponse};
use crate::cluster::signed_messages::SignedMessages;
use crate::cluster::{JoiningService, JoiningState, JoiningStep, open_in};

pub(super) const SECRET: &str = "of the fleet";
pub(super) const SHORT: Duration = Duration::from_millis(100);

/// A node that other nodes can load a backup from.
pub(super) struct Giver {
    pub(super) node: TestNode,
    server: JoinHandle<()>,
}

impl Giver {
    pub(super) async fn close(self) {
        self.server.abort();
        drop(self.server.await);
        self.node.close().await;
    }
}

fn config(number: usize, secret: &str) -> NodeConfig {
    let (secret, search_bytes_per_second) = (Some(secret.into()), 64 << 20);
    NodeConfig { lease: SHORT, secret, search_bytes_per_second, ..named(number) }
}

fn link_config(secret: &str) -> LinkConfig {
    LinkConfig::new(Some(secret.into()), None, "")
}

pub(super) async fn giver(number: usize, stream: &SimulatedStream, disk: &TestDisk) -> Giver {
    let (socket, advertise) = socket().await;
    let config = NodeConfig { advertise, ..config(number, SECRET) };
    let node = open_as(disk.open(), Arc::new(stream.another_link()), config).await.unwrap();
    let service = node.node.joining_service();
    let server = serve(socket, Routes::new(service.served()));
    Giver { node, server }
}

/// Goal: a node with an empty log that the engine does not answer says so, and opens once it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_for_the_engine_says_why() {
    let link = Arc::new(begun_stream().another_link());
    link.cut(PATIENCE);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let state = watch::Sender::new(JoiningState::default());
    let engine = link.clone();
    let mut watched = state.subscribe();
    let opening = tokio::spawn(async move {
        open_in(&data, engine, config(7, SECRET), &OpenConfig::default(), &state).await
    });
    let waits = |state: &JoiningState| matches!(state.step, JoiningStep::Waiting { .. });
    let said = watched.wait_for(waits).await.unwrap().to_string();
    let problem = link.tail().await.unwrap_err();
    assert!(problem.to_string().ends_with(said.rsplit(": ").next().unwrap()), "{said}");
    link.cut(Duration::ZERO);
    let (_broker, node) = opening.await.unwrap().unwrap();
    wait_for(|| node.view().check_ready().is_ok().then_some(())).await;
    node.close().await;
}

/// Opens a node in a directory, with a backup if it needs one.
pub(super) async fn join(
    directory: &Path,
    stream: &SimulatedStream,
    secret: &str,
    state: &watch::Sender<JoiningState>,
) -> Result<(Broker, FleetNode), NodeOpenError> {
    let open = OpenConfig::default();
    let engine = Arc::new(stream.another_link());
    open_in(directory, engine, config(7, secret), &open, state).await
}

pub(super) fn begun_stream() -> SimulatedStream {
    SimulatedStream::new(1, faultless(), Arc::new(RuntimeClock::default()))
}

pub(super) async fn publish_all(broker: &Broker, ids: std::ops::Range<u32>) {
    for id in ids {
        publish(broker, "a", &id.to_string()).await.unwrap();
    }
}

pub(super) fn numbers(ids: std::ops::Range<u32>) -> Vec<String> {
    ids.map(|id| id.to_string()).collect()
}

pub(super) async fn trim_all(stream: &SimulatedStream) {
    let tail = stream.tail().await.unwrap();
    stream.trim(tail).await.unwrap();
}

pub(super) fn sled_disk() -> TestDisk {
    TestDisk::Sled(tempfile::tempdir().unwrap())
}

pub(super) fn content_in(directory: &Path) -> String {
    let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
    content(&SledLog::open(directory, &config).unwrap())
}

/// Goal: a new node, and one that was away for too long, load a backup of a peer that goes on, and
/// hold the same from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_records_it_needs_loads_a_backup_of_a_peer() {
    let (stream, disk) = (begun_stream(), sled_disk());
    let peer = giver(1, &stream, &disk).await;
    wait_for(|| peer.node.leads().then_some(())).await;
    publish_all(&peer.node.broker, 0..50).await;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut end = 50;
    for round in 0..2 {
        trim_all(&stream).await;
        let state = watch::Sender::new(JoiningState::default());
        let mut watched = state.subscribe();
        let steps = tokio::spawn(async move {
            let mut steps = Vec::new();
            while watched.changed().await.is_ok() {
                steps.push(watched.borrow_and_update().step.clone());
            }
            steps
        });
        let opened = join(&data, &stream, SECRET, &state);
        let going_on = publish_all(&peer.node.broker, end..end + 20);
        let (opened, ()) = tokio::join!(opened, going_on);
        let (broker, node) = opened.unwrap();
        publish_all(&peer.node.broker, end + 20..end + 30).await;
        end += 30;
        wait_for(|| (broker.last_position() == peer.node.broker.last_position()).then_some(()))
            .await;
        assert_eq!(broker.epoch(), peer.node.broker.epoch());
        assert_eq!(ids(&broker, "a").await, numbers(0..end), "round {round}");
        assert_eq!(state.borrow().failures, 0);
        drop(state);
        let steps = steps.await.unwrap();
        let is_there = |wanted: fn(&JoiningStep) -> bool| steps.iter().any(wanted);
        assert!(is_there(|step| matches!(step, JoiningStep::Choosing)), "{steps:?}");
        assert!(is_there(|step| matches!(step, JoiningStep::Making { .. })), "{steps:?}");
        assert_eq!(steps.last(), Some(&JoiningStep::Open));
        node.close().await;
        // Away for too long.
        publish_all(&peer.node.broker, end..end + 10).await;
        end += 10;
    }
    // It has all records from its place on, and needs no backup.
    let state = watch::Sender::new(JoiningState::default());
    let (broker, node) = join(&data, &stream, "another", &state).await.unwrap();
    wait_for(|| (broker.last_position() == peer.node.broker.last_position()).then_some(())).await;
    node.close().await;
    peer.close().await;
    let TestDisk::Sled(of_peer) = &disk else { unreachable!() };
    assert_eq!(content_in(&data), content_in(of_peer.path()));
}

/// A peer that gives half of a backup, and some of it wrong.
struct BadPeer;

#[tonic::async_trait]
impl Joining for BadPeer {
    type LoadBackupStream =
        stream::Iter<std::vec::IntoIter<std::result::Result<LoadBackupResponse, Status>>>;

    async fn load_backup(
        &self,
        _request: Request<LoadBackupRequest>,
    ) -> std::result::Result<Response<Self::LoadBackupStream>, Status> {
        let content = "not what a backup begins with".into();
        let response = LoadBackupResponse { content, applied: 1, ..Default::default() };
        let end = LoadBackupResponse { reached: Some(1), ..Default::default() };
        let mut responses = vec![Ok(response)];
        if rand::random() {
            responses.push(Ok(end));
        }
        Ok(Response::new(stream::iter(responses)))
    }
}

/// Goal: a peer that gives no backup, or a bad one, is left for another one; without any, opening
/// fails after a bounded number of attempts, and the log that was there is as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_cannot_be_loaded_is_loaded_from_another_peer() {
    let (stream, disk) = (begun_stream(), TestDisk::Memory(Arc::default()));
    let peer = giver(1, &stream, &disk).await;
    wait_for(|| peer.node.leads().then_some(())).await;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let state = watch::Sender::new(JoiningState::default());
    let (broker, node) = join(&data, &stream, "no matter", &state).await.unwrap();
    publish_all(&peer.node.broker, 0..5).await;
    wait_for(|| (broker.last_position().get() == 5).then_some(())).await;
    node.close().await;
    let before = content_in(&data);
    publish_all(&peer.node.broker, 5..10).await;
    trim_all(&stream).await;
    // Without the secret it hears nobody, and says why.
    let mut told = state.subscribe();
    tokio::select! {
        opened = join(&data, &stream, "another", &state) => panic!("{:?}", opened.map(|_| ())),
        told = told.wait_for(|state| state.problem.is_some()) => {
            let problem = told.unwrap().problem.clone().unwrap_or_default();
            assert!(problem.contains("fleet.secret"), "{problem}");
        }
    }
    assert_eq!(content_in(&data), before);
    // It says that it has most, and cannot give it. Who does not know the secret says so in vain.
    let (socket, address) = socket().await;
    let bad = serve(socket, Routes::new(JoiningServer::new(BadPeer)));
    let mut status = peer.node.node.peers().own();
    (status.name, status.incarnation, status.address) = ("bad".to_owned(), 1, address);
    status.applied += 1_000;
    let telling = |secret: Option<&str>, status: PeerStatus| {
        let link = Arc::new(stream.another_link());
        let messages = SignedMessages::new(link, "", secret.map(Secret::from));
        tokio::spawn(async move {
            loop {
                messages.tell(MessageKind::Peers, status.encode()).unwrap();
                tokio::time::sleep(SHORT / 3).await;
            }
        })
    };
    let false_nodes = [None, Some("guessed")].map(|secret| telling(secret, status.clone()));
    let state = watch::Sender::new(JoiningState::default());
    let (_, node) = join(&data, &stream, SECRET, &state).await.unwrap();
    assert_eq!(state.borrow().failures, 0, "a false node is not asked");
    wait_for(|| (node.view().refused_messages() > 0).then_some(())).await;
    node.close().await;
    false_nodes.iter().for_each(JoinHandle::abort);
    std::fs::remove_dir_all(&data).unwrap();
    let telling = telling(Some(SECRET), status);
    let state = watch::Sender::new(JoiningState::default());
    let (broker, node) = join(&data, &stream, SECRET, &state).await.unwrap();
    assert_eq!(ids(&broker, "a").await, numbers(0..10));
    assert!((1..8).contains(&state.borrow().failures), "{:?}", state.borrow());
    node.close().await;
    // Nobody can give it.
    bad.abort();
    peer.server.abort();
    std::fs::remove_dir_all(&data).unwrap();
    let state = watch::Sender::new(JoiningState::default());
    let refused = join(&data, &stream, SECRET, &state).await.unwrap_err();
    assert!(matches!(refused, NodeOpenError::NotLoaded(_)), "{refused}");
    assert_eq!(state.borrow().failures, 8);
    telling.abort();
    peer.close().await;
}

/// Goal: nobody gets the broker of a node whose log may have blocks of later records, also after a
/// restart, until these are applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_only_once_it_has_applied_what_its_backup_may_have() {
    let (stream, disk) = (begun_stream(), TestDisk::Memory(Arc::default()));
    let peer = giver(1, &stream, &disk).await;
    wait_for(|| peer.node.leads().then_some(())).await;
    publish_all(&peer.node.broker, 0..5).await;
    let directory = tempfile::tempdir().unwrap();
    let state = watch::Sender::new(JoiningState::default());
    let (_, node) = join(directory.path(), &stream, SECRET, &state).await.unwrap();
    node.close().await;
    // The leader appends heartbeats, too, about 30 in a second.
    let until = stream.tail().await.unwrap().get() + 300;
    std::fs::write(directory.path().join("joined"), until.to_string()).unwrap();
    for _ in 0..2 {
        let mut steps = state.subscribe();
        let is_waiting = |state: &JoiningState| match state.step {
            JoiningStep::CatchingUp { until: told, .. } => told == until,
            _ => false,
        };
        let given_up = async {
            steps.wait_for(is_waiting).await.unwrap();
            tokio::time::sleep(SHORT).await;
        };
        tokio::select! {
            _ = join(directory.path(), &stream, SECRET, &state) => panic!("it serves"),
            () = given_up => {}
        }
        state.send_replace(JoiningState::default());
        // The broker that was given up closes its log in the background.
        tokio::time::sleep(SHORT).await;
    }
    let opening = join(directory.path(), &stream, SECRET, &state);
    let going_on = publish_all(&peer.node.broker, 5..400);
    let (opened, ()) = tokio::join!(opening, going_on);
    let (broker, node) = opened.unwrap();
    assert!(node.status().borrow().applied.get() >= until);
    assert!(ids(&broker, "a").await.len() > 10);
    node.close().await;
    let (_, node) = join(directory.path(), &stream, SECRET, &state).await.unwrap();
    assert!(!directory.path().join("joined").exists());
    node.close().await;
    peer.close().await;
}

/// Goal: a backup is given to nodes of the fleet, to few at once, and by a node that takes part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gives_two_backups_at_once_to_those_who_know_the_secret() {
    let stream = begun_stream();
    let log = Arc::new(MemoryLog::default());
    let node = open_as(log, Arc::new(stream.another_link()), config(1, SECRET)).await.unwrap();
    wait_for(|| node.leads().then_some(())).await;
    publish_all(&node.broker, 0..5).await;
    let service = node.node.joining_service();
    let ask = async |service: &JoiningService, secret: &str| {
        let request = LoadBackupRequest { node: "n2".to_owned() };
        let request = with_proof(request, "", &link_config(secret));
        service.load_backup(request).await.map(Response::into_inner)
    };
    let code = |refused: Result<_, Status>| refused.map(drop).unwrap_err().code();
    assert_eq!(code(ask(&service, "another").await), Code::Unauthenticated);
    let (mut first, second) = (ask(&service, SECRET).await.unwrap(), ask(&service, SECRET).await);
    assert_eq!(code(ask(&service, SECRET).await), Code::ResourceExhausted);
    drop(second);
    drop(ask(&service, SECRET).await.unwrap());
    let mut last = None;
    while let Some(response) = first.next().await {
        let response = response.unwrap();
        assert!(response.applied > 0 && response.content.len() <= 1 << 20);
        last = Some(response);
    }
    assert!(last.unwrap().reached.is_some());
    let status = node.node.status();
    node.close().await;
    assert_eq!(status.borrow().role, NodeRole::Stopped);
    assert_eq!(code(ask(&service, SECRET).await), Code::Unavailable);
}
