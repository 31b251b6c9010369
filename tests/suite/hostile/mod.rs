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

use std::time::Duration;

use crate::common::soon;

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

/// Waits until a process has no more descriptors open than this.
async fn until_no_more_than(id: u32, count: usize) {
    soon(async {
        while descriptors(id) > count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
