//! The network of a broken fleet: each server and each node is reached through a proxy on loopback,
//! so that any two of them can be parted.
//!
//! ```text
//! n0 ──▶ proxy of s1 ──▶ s1        what n0 and s1 send each other waits, or their connections
//! s2 ──▶ proxy of s1 ──▶ s1        are cut and new ones are refused; s2 notices nothing
//! ```
//!
//! Who connects is found by the process that has the other end: all members are children of this
//! process, and name a path of their own in their arguments. Source: proc(5).

use std::collections::BTreeMap;
use std::io::Result;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::random_range;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A server or a node, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Member {
    Node(usize),
    Server(usize),
    /// This process, which looks at what the servers have.
    Checker,
}

/// What a fault does to the link of two members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// What is sent waits until the link is open again.
    Stall,
    /// Connections are cut, and new ones are refused.
    Cut,
}

/// Some members that do not reach some others, until they are joined again.
#[must_use]
pub(super) struct Parting {
    links: Vec<(Member, Member)>,
    obstacle: Obstacle,
}

/// The obstacles of a link: each counts until its own parting ends.
#[derive(Debug, Default, Clone, Copy)]
struct LinkState {
    stalls: usize,
    cuts: usize,
}

impl LinkState {
    fn count_mut(&mut self, obstacle: Obstacle) -> &mut usize {
        match obstacle {
            Obstacle::Stall => &mut self.stalls,
            Obstacle::Cut => &mut self.cuts,
        }
    }

    fn is_stalled(&self) -> bool {
        self.stalls > 0
    }

    fn is_cut(&self) -> bool {
        self.cuts > 0
    }
}

/// The network of some members. Its proxies end with the runtime.
#[derive(Clone, Default)]
pub(super) struct Network(Arc<NetworkState>);

#[derive(Default)]
struct NetworkState {
    /// The path that each member names in its arguments.
    paths: Mutex<BTreeMap<Member, PathBuf>>,
    /// The lesser member of each pair comes first.
    links: Mutex<BTreeMap<(Member, Member), watch::Sender<LinkState>>>,
}

impl Network {
    /// Takes in a member whose arguments have this path.
    pub(super) fn join(&self, member: Member, path: &Path) {
        self.0.paths.lock().unwrap().insert(member, path.to_owned());
    }

    /// Listens for a member that listens at `port`. Returns the port at which others reach it.
    pub(super) fn reach(&self, member: Member, port: u16) -> u16 {
        // No port that a server has chosen and does not listen at yet.
        let bind =
            || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, random_range(10_000..20_000)));
        let listener = std::iter::repeat_with(bind).find_map(Result::ok).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let reached = listener.local_addr().unwrap();
        tokio::spawn(self.clone().accept(listener, member, port));
        reached.port()
    }

    /// Puts an obstacle between each of some members and each of others.
    pub(super) fn part(&self, some: &[Member], others: &[Member], obstacle: Obstacle) -> Parting {
        let pairs = some.iter().flat_map(|one| others.iter().map(|other| (*one, *other)));
        let links: Vec<(Member, Member)> = pairs.collect();
        for (one, other) in &links {
            self.link(*one, *other).send_modify(|state| *state.count_mut(obstacle) += 1);
        }
        Parting { links, obstacle }
    }

    /// Takes the obstacles of a parting away. Those of other partings stay.
    pub(super) fn join_again(&self, parting: Parting) {
        for (one, other) in parting.links {
            self.link(one, other).send_modify(|state| *state.count_mut(parting.obstacle) -= 1);
        }
    }

    fn link(&self, one: Member, other: Member) -> watch::Sender<LinkState> {
        let mut links = self.0.links.lock().unwrap();
        links.entry((one.min(other), one.max(other))).or_default().clone()
    }

    async fn accept(self, listener: TcpListener, member: Member, port: u16) {
        while let Ok((client, _)) = listener.accept().await {
            let network = self.clone();
            tokio::spawn(async move {
                let finding = network.clone();
                let ends = [client.peer_addr(), client.local_addr()];
                let found = tokio::task::spawn_blocking(move || finding.who(ends)).await;
                let Ok(Some(who)) = found else { return };
                let state = network.link(who, member).subscribe();
                let _is_cut = carry(client, port, state).await;
            });
        }
    }

    /// Returns the member that has the first of these ends of a connection.
    fn who(&self, ends: [Result<SocketAddr>; 2]) -> Option<Member> {
        let [Ok(own), Ok(other)] = ends else { return None };
        let socket = socket_of(own, other)?;
        if has_socket(std::process::id(), &socket) {
            return Some(Member::Checker);
        }
        let paths = self.0.paths.lock().unwrap().clone();
        let children = children().into_iter().filter(|child| has_socket(*child, &socket));
        let words =
            children.filter_map(|child| std::fs::read(format!("/proc/{child}/cmdline")).ok());
        words.filter_map(|words| String::from_utf8(words).ok()).find_map(|words| {
            let named = |path: &Path| words.contains(path.to_str().unwrap());
            paths.iter().find(|(_, path)| named(path)).map(|(member, _)| *member)
        })
    }
}

/// Returns the name of the socket with these addresses of its own and of its other end.
fn socket_of(own: SocketAddr, other: SocketAddr) -> Option<String> {
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let found = sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let fits = fields.get(1) == Some(&&*hex(own)) && fields.get(2) == Some(&&*hex(other));
        fits.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))
    });
    found.flatten()
}

/// Returns the processes that this one has started.
fn children() -> Vec<u32> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let each = |list: String| -> Vec<u32> {
        list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    };
    lists.flat_map(each).collect()
}

fn has_socket(process: u32, socket: &str) -> bool {
    let files = std::fs::read_dir(format!("/proc/{process}/fd"));
    let mut files = files.into_iter().flatten().filter_map(Result::ok);
    files.any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == Path::new(socket)))
}

/// Carries what both ends send until one of them ends, or the link is cut.
async fn carry(client: TcpStream, port: u16, mut state: watch::Receiver<LinkState>) -> Result<()> {
    let open = *state.wait_for(|state| state.is_cut() || !state.is_stalled()).await.unwrap();
    if open.is_cut() {
        return Ok(());
    }
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        ended = copy(from_client, to_server, state.clone()) => ended,
        ended = copy(from_server, to_client, state.clone()) => ended,
        _ = state.wait_for(LinkState::is_cut) => Ok(()),
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<LinkState>,
) -> Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        state.wait_for(|state| !state.is_stalled()).await.map(|_| ()).unwrap();
        if count == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..count]).await?;
    }
}
