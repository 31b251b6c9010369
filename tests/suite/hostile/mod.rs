//! Attackers: whatever they do, other clients are served, and when the attackers are gone, all is
//! as before. They run on loopback, against the real binary.

mod bystander;
mod connections;
mod fairness;
mod fairness_of_bodies;
mod grpc;
mod http1;
mod http2;
mod lists;
mod memory;
mod patterns;
mod rates;
mod raw_http2;
mod times;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::common::{Process, get, seed, text};

/// The largest number of pieces in which bytes are sent.
const MAX_PIECES: usize = 5;

/// The random parts of an attack, from a seed that is printed: the order of its steps, and the
/// places at which its bytes are cut.
#[derive(Debug)]
struct Chance(Mutex<StdRng>);

impl Chance {
    fn new() -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed())))
    }

    /// Returns the parts of an attack in random order.
    fn shuffled<T>(&self, parts: impl IntoIterator<Item = T>) -> Vec<T> {
        let mut parts: Vec<T> = parts.into_iter().collect();
        parts.shuffle(&mut *self.0.lock().unwrap());
        parts
    }

    /// Sends bytes in pieces, because the way in which they arrive must not matter to the broker.
    async fn send(
        &self,
        socket: &mut (impl AsyncWrite + Unpin),
        mut bytes: &[u8],
    ) -> std::io::Result<()> {
        let mut left = self.0.lock().unwrap().random_range(1..=MAX_PIECES);
        while left > 1 {
            let at = self.0.lock().unwrap().random_range(0..=bytes.len());
            socket.write_all(&bytes[..at]).await?;
            socket.flush().await?;
            tokio::task::yield_now().await;
            (bytes, left) = (&bytes[at..], left - 1);
        }
        socket.write_all(bytes).await
    }
}

/// Returns the number of descriptors that a process has open.
fn descriptors(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// Returns the most memory that a process has had so far, in KiB. Source: proc(5).
fn peak_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns the same in MiB.
fn peak_mib(id: u32) -> u64 {
    peak_kib(id) >> 10
}

/// Returns the processor time that a process has used so far.
fn processor_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // After the name, the 12th and the 13th fields are the user time and the system time, in ticks.
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

/// The resources that a broker holds: descriptors, and tasks of its runtime.
#[derive(Debug, Clone, Copy)]
struct Open {
    descriptors: usize,
    tasks: usize,
}

/// The number of descriptors, and of tasks, that may be open in addition: a bystander's
/// connections, and those of these checks, come and go.
const BESIDES: usize = 8;

/// The longest time after an attack until its resources are free.
const BACK: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 5 });

impl Open {
    async fn now(process: &Process) -> Self {
        let metrics = text(&get(process.address, "/metrics").await.body);
        let tasks = metrics.lines().find_map(|line| line.strip_prefix("leftoff_tasks "));
        Self { descriptors: descriptors(process.id()), tasks: tasks.unwrap().parse().unwrap() }
    }

    /// Goal: the resources that were opened for attackers are free when the attackers are gone.
    ///
    /// # Panics
    ///
    /// If more is open than before, for longer than [`BACK`].
    async fn assert_restored(self, process: &Process) {
        let started = Instant::now();
        loop {
            let now = Self::now(process).await;
            let is_back =
                now.descriptors <= self.descriptors + BESIDES && now.tasks <= self.tasks + BESIDES;
            if is_back {
                return println!("{self:?} before, {now:?} after {:?}", started.elapsed());
            }
            assert!(started.elapsed() < BACK, "{self:?} before, {now:?} after {BACK:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
