//! Clients that mean harm: whatever they do, the others are served, and all is as before when they
//! are gone. From loopback, against the real binary.

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

/// Most pieces that something is sent in.
const MAX_PIECES: usize = 5;

/// What chance decides about an attack, with a seed that is told: the order of its parts, and where
/// what is sent is cut.
#[derive(Debug)]
struct Chance(Mutex<StdRng>);

impl Chance {
    fn new() -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed())))
    }

    /// The parts of an attack in any order.
    fn shuffled<T>(&self, parts: impl IntoIterator<Item = T>) -> Vec<T> {
        let mut parts: Vec<T> = parts.into_iter().collect();
        parts.shuffle(&mut *self.0.lock().unwrap());
        parts
    }

    /// Sends bytes in pieces: for the broker it must not matter how they come.
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

/// Descriptors that a process has open.
fn descriptors(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// The most memory that a process has had so far, in KiB. Source: proc(5).
fn peak_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The same in MiB.
fn peak_mib(id: u32) -> u64 {
    peak_kib(id) >> 10
}

/// Processor time that a process has used so far.
fn processor_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // After the name: the 12th and the 13th are the times of user and system, in ticks.
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

/// What a broker has open: descriptors, and tasks of its runtime.
#[derive(Debug, Clone, Copy)]
struct Open {
    descriptors: usize,
    tasks: usize,
}

/// What may be open besides: a bystander's connections come and go, and so do those that look.
const BESIDES: usize = 8;

/// How soon after an attack all is back to where it was.
const BACK: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 5 });

impl Open {
    async fn now(process: &Process) -> Self {
        let metrics = text(&get(process.address, "/metrics").await.body);
        let tasks = metrics.lines().find_map(|line| line.strip_prefix("leftoff_tasks "));
        Self { descriptors: descriptors(process.id()), tasks: tasks.unwrap().parse().unwrap() }
    }

    /// Goal: when the attackers are gone, so is what was opened for them.
    ///
    /// # Panics
    ///
    /// More is open than there was, for longer than [`BACK`].
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
