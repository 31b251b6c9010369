//! Comparing what workers were given and told with what a shared consumer promises.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::asking::ms_of;
use super::workers::{Lease, MAX_TRIES};

/// The difference up to which two times of one clock say nothing about their order, in
/// milliseconds.
const TOLERANCE_MS: u64 = 3;

/// An event of the topic, or a dead letter.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) sequence: u64,
    pub(super) key: String,
}

/// What a dead letter says.
#[derive(Debug, Clone)]
pub(super) struct DeadLetter {
    pub(super) sequence: u64,
    pub(super) tries: u64,
    pub(super) time_ms: u64,
}

impl DeadLetter {
    pub(super) fn of(event: &Value) -> Self {
        let number = |name: &str| event["headers"][name].as_str().unwrap().parse().unwrap();
        Self {
            sequence: number("leftoff-dead-sequence"),
            tries: number("leftoff-dead-tries"),
            time_ms: ms_of(&event["time"]),
        }
    }
}

/// Checks the leases that were given so far. Returns the first few violations.
pub(super) fn violations(leases: &[Lease], jobs: &[Job], dead: &[DeadLetter]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut of_event: BTreeMap<u64, Vec<&Lease>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for lease in leases {
        if !ids.insert(&lease.id) {
            problems.push(format!("given twice: {lease:?}"));
        }
        of_event.entry(lease.sequence).or_default().push(lease);
    }
    let died: BTreeMap<u64, &DeadLetter> = dead.iter().map(|it| (it.sequence, it)).collect();
    for of_one in of_event.values_mut() {
        of_one.sort_by_key(|lease| lease.tries);
        for pair in of_one.windows(2) {
            let [first, second] = pair else { unreachable!("a window of two") };
            let is_early = second.given_ms + TOLERANCE_MS < first.until_ms;
            let was_returned = first.returned_ms.is_some_and(|at| at <= second.given_ms);
            if is_early && !was_returned {
                problems.push(format!("leased before its time: {first:?}, then {second:?}"));
            }
        }
        let acked_ms = of_one.iter().filter_map(|lease| lease.acked_ms).min();
        let again = of_one.iter().find(|it| acked_ms.is_some_and(|at| it.asked_ms > at));
        problems.extend(again.map(|lease| format!("finished, then leased: {lease:?}")));
        let most = MAX_TRIES + of_one.iter().filter(|lease| lease.is_released).count() as u64;
        let over = of_one.iter().find(|lease| lease.tries > most);
        problems.extend(over.map(|lease| format!("tried too often: {lease:?}")));
        if let Some(letter) = died.get(&of_one[0].sequence) {
            let again = of_one.iter().find(|lease| lease.asked_ms > letter.time_ms + TOLERANCE_MS);
            problems.extend(again.map(|lease| format!("{letter:?}, then leased: {lease:?}")));
        }
    }
    problems.extend(disorder(leases, jobs, &of_event, &died));
    problems.truncate(5);
    problems
}

/// Returns the leases that were given while an earlier event of the same key was not finished.
fn disorder(
    leases: &[Lease],
    jobs: &[Job],
    of_event: &BTreeMap<u64, Vec<&Lease>>,
    died: &BTreeMap<u64, &DeadLetter>,
) -> Vec<String> {
    let mut of_key: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for job in jobs {
        of_key.entry(&job.key).or_default().push(job.sequence);
    }
    let mut problems = Vec::new();
    for lease in leases.iter().filter(|lease| !lease.key.is_empty()) {
        let of_key = &of_key[lease.key.as_str()];
        let earlier = of_key.partition_point(|sequence| *sequence < lease.sequence);
        let Some(before) = earlier.checked_sub(1).map(|at| of_key[at]) else { continue };
        let tries = of_event.get(&before).into_iter().flatten();
        let may_be_finished = tries.filter_map(|it| it.acking_ms).any(|at| at <= lease.given_ms);
        let is_dead =
            died.get(&before).is_some_and(|it| it.time_ms <= lease.given_ms + TOLERANCE_MS);
        if !may_be_finished && !is_dead {
            problems.push(format!("{before} was not finished: {lease:?}"));
        }
    }
    problems
}

/// Checks the end: each event was finished or is a dead letter, once.
pub(super) fn assert_finished(status: &Value, leases: &[Lease], jobs: &[Job], dead: &[DeadLetter]) {
    let died: BTreeSet<u64> = dead.iter().map(|it| it.sequence).collect();
    assert_eq!(died.len(), dead.len(), "an event has two dead letters");
    assert!(dead.iter().all(|it| it.tries >= MAX_TRIES), "{dead:?}");
    for job in jobs {
        let of_job = || leases.iter().filter(|lease| lease.sequence == job.sequence);
        let is_dead = died.contains(&job.sequence);
        let is_acking = of_job().any(|lease| lease.acking_ms.is_some());
        assert!(is_dead || is_acking, "{job:?} is neither finished nor dead");
        // An acknowledgement that is late says that there is nothing more to do.
        let in_time = of_job().find(|it| it.acked_ms.is_some_and(|at| at < it.until_ms));
        assert!(!is_dead || in_time.is_none(), "{job:?} is finished and dead: {in_time:?}");
    }
    let told = ["finished", "dead", "lost", "in_flight", "delayed", "dying"];
    let told = told.map(|name| status[name].as_u64().unwrap());
    let (all, dead) = (jobs.len() as u64, dead.len() as u64);
    assert_eq!(told, [all - dead, dead, 0, 0, 0, 0], "{status}");
    assert_eq!(super::asking::number_of(&status["checkpoint"]), all, "{status}");
}
