//! Consumers, and the work that they share, through `kill -9` under load.
//!
//! ```text
//! publishers ─▶ broker (real binary) ◀─ checkpoints, marks: HTTP, WebSocket, gRPC
//!                 ▲ kill -9           ◀─ workers: pull, ack, nack, extend, release
//! ```
//!
//! Goal: what was acknowledged is there after each kill, nothing that nobody asked for is there, a
//! request without an answer was done or not, and counts and pages agree with all of it.
//!
//! Method: each client keeps a model of its consumer. `LEFTOFF_SEED` repeats the choices of a run.
//! The broker is killed [`FEW_KILLS`] times; with `LEFTOFF_SOAK_SECONDS` set, [`ALL_KILLS`] times.

mod asking;
mod checks;
mod keepers;
mod kept;
mod ledger;
mod workers;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::asking::{Asker, number_of};
use self::keepers::{Habit, Published, Shared};
use self::kept::Kept;
use self::ledger::{DeadLetter, Job};
use self::workers::{Diligence, LEASE_MS, Leases, MAX_TRIES, Worker};
use crate::common::{Process, run, seed, text};
use crate::forgetful::Forgetful;

const FEW_KILLS: usize = 16;
const ALL_KILLS: usize = 40;

const WORKERS: u64 = 5;

/// Settings that keep maintenance busy, also in the topic of the consumers.
const EAGER: [&str; 4] =
    ["--set", "maintenance.interval_ms=20", "--set", "broker.max_block_bytes=1024"];

/// The topics of consumers with checkpoints and marks. The last one is trimmed all the time.
const TOPICS: [&str; 3] = ["u.a", "u.b", "short"];

const CREW: &str = "/v1/consumers/crew?topic=jobs&shared=true";
const WORK: &str = "/v1/consumers/crew/work?topic=jobs";

/// A broker that is killed again and again, and what its clients know.
struct Course {
    seed: u64,
    random: StdRng,
    consumers: Vec<Shared>,
    published: Published,
    leases: Leases,
    workers: Vec<Worker>,
}

impl Course {
    fn new(seed: u64) -> Self {
        let consumers = [
            ("http", "u.a", false),
            ("http", "u.>", false),
            ("even", "u.a", true),
            ("even", "u.>", true),
            ("http", "short", false),
            ("snoozing", "u.b", false),
            ("ws", "u.a", false),
            ("grpc", "u.b", false),
        ];
        let shared = |(name, selection, is_of_even)| {
            Arc::new(Mutex::new(Kept::new(name, selection, is_of_even)))
        };
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            consumers: consumers.map(shared).into(),
            published: Published::default(),
            leases: Leases::default(),
            workers: (0..WORKERS).map(|number| Worker::new(number, seed)).collect(),
        }
    }

    /// Creates topics and consumers.
    async fn prepare(&self, asker: &Asker) {
        let trimmed = json!({"max_events": 200});
        asker.done("PUT", "/v1/topics/short", &trimmed).await;
        for topic in ["u.a", "u.b", "jobs"] {
            asker.done("PUT", &format!("/v1/topics/{topic}"), &json!({})).await;
        }
        let shared = json!({"shared": {"lease_ms": LEASE_MS, "max_tries": MAX_TRIES}});
        asker.done("PUT", CREW, &shared).await;
        for consumer in &self.consumers {
            let (path, is_of_even) = {
                let kept = consumer.lock().unwrap();
                (kept.path(""), kept.is_of_even)
            };
            let types = if is_of_even { json!(["even"]) } else { json!([]) };
            let put = asker.done("PUT", &path, &json!({"filter": {"types": types}})).await;
            consumer.lock().unwrap().revision = number_of(&put["revision"]);
        }
    }

    /// Works until `end` has stopped the broker, and every client has noticed.
    async fn load(&mut self, process: &mut Process, end: impl AsyncFnOnce(&mut Process)) {
        let at = process.address;
        let mut clients = JoinSet::new();
        let mut next_seed = || self.random.random::<u64>();
        for topic in TOPICS.into_iter().chain(["jobs"]) {
            clients.spawn(keepers::publish(at, topic, self.published.clone(), next_seed()));
        }
        for shared in &self.consumers {
            let (shared, all) = (shared.clone(), self.published.clone());
            let name = shared.lock().unwrap().name;
            match name {
                "ws" => drop(clients.spawn(keepers::on_web_socket(at, shared, all, next_seed()))),
                "grpc" => drop(clients.spawn(keepers::over_grpc(at, shared, all, next_seed()))),
                _ => {
                    let (one, other) = (shared.clone(), all.clone());
                    clients.spawn(keepers::checkpoints(at, one, other, next_seed()));
                    let habit = if name == "snoozing" { Habit::ShortSnoozes } else { Habit::Any };
                    clients.spawn(keepers::marks(at, shared, all, next_seed(), habit));
                }
            }
        }
        let mut workers = JoinSet::new();
        for worker in self.workers.drain(..) {
            workers.spawn(worker.work(at, self.leases.clone(), Diligence::Mixed));
        }
        end(process).await;
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        while let Some(worker) = workers.join_next().await {
            self.workers.push(worker.unwrap());
        }
        self.workers.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Compares what the broker says with what its clients know.
    async fn check(&self, asker: &Asker) {
        checks::until_snoozes_are_over(&self.consumers).await;
        // What is to be trimmed after a start is trimmed now, and not in the middle of the check.
        asker.done("POST", "/v1/maintenance?topic=short", &Value::Null).await;
        let log = checks::read(asker, &TOPICS).await;
        for consumer in &self.consumers {
            checks::check(asker, consumer, &log).await;
        }
        assert!(checks::is_same(asker, &log).await, "a topic was trimmed once more");
        let leases = self.leases.lock().unwrap().clone();
        let problems = ledger::violations(&leases, &jobs(asker).await, &dead(asker).await);
        assert!(problems.is_empty(), "LEFTOFF_SEED={}: {problems:#?}", self.seed);
        let status = asker.done("GET", WORK, &Value::Null).await;
        let of = |is: &dyn Fn(&workers::Lease) -> bool| {
            let sequences = leases.iter().filter(|lease| is(lease)).map(|lease| lease.sequence);
            sequences.collect::<std::collections::BTreeSet<_>>().len() as u64
        };
        // A late acknowledgement of a dead letter is answered, too.
        let least = of(&|it| it.acked_ms.is_some_and(|at| at < it.until_ms));
        let most = of(&|it| it.acking_ms.is_some());
        let finished = status["finished"].as_u64().unwrap();
        assert!((least..=most).contains(&finished), "{least} to {most}: {status}");
        assert_eq!(status["lost"], 0, "{status}");
    }

    /// Has all work finished, and compares each event with how it ended.
    async fn finish(&mut self, asker: &Asker) {
        let mut workers = JoinSet::new();
        for worker in self.workers.drain(..) {
            workers.spawn(worker.work(asker.address, self.leases.clone(), Diligence::Full));
        }
        while let Some(worker) = workers.join_next().await {
            worker.unwrap();
        }
        let (jobs, dead) = (jobs(asker).await, dead(asker).await);
        let status = asker.done("GET", WORK, &Value::Null).await;
        let leases = self.leases.lock().unwrap();
        let problems = ledger::violations(&leases, &jobs, &dead);
        assert!(problems.is_empty(), "LEFTOFF_SEED={}: {problems:#?}", self.seed);
        ledger::assert_finished(&status, &leases, &jobs, &dead);
        let resumed = leases.iter().filter(|lease| lease.acked_ms.is_some()).count();
        println!(
            "{} events of work, {} leases, {resumed} acknowledged, {} dead letters",
            jobs.len(),
            leases.len(),
            dead.len()
        );
        assert!(!dead.is_empty() && leases.len() > jobs.len(), "the workers failed at nothing");
        for consumer in &self.consumers {
            let kept = consumer.lock().unwrap();
            let (done, changes) = (kept.acknowledged, kept.changes);
            println!("{} of {}: {done} requests, {changes} changes", kept.name, kept.selection);
            assert!(changes > 5, "{} of {}: nothing happened", kept.name, kept.selection);
        }
    }
}

async fn jobs(asker: &Asker) -> Vec<Job> {
    let job = |event: &Value| Job {
        sequence: event["sequence"].as_u64().unwrap(),
        key: event["key"].as_str().unwrap_or_default().to_owned(),
    };
    checks::raw_events(asker, "jobs").await.iter().map(job).collect()
}

async fn dead(asker: &Asker) -> Vec<DeadLetter> {
    checks::raw_events(asker, "jobs.dead").await.iter().map(DeadLetter::of).collect()
}

/// Starts the broker, away from the tasks of the clients.
async fn serve(directory: &Path) -> Process {
    let directory = directory.to_owned();
    tokio::task::spawn_blocking(move || Process::serve(&directory, &EAGER)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_consumers_have_what_was_acknowledged_and_nothing_else() {
    let kills = match std::env::var_os("LEFTOFF_SOAK_SECONDS") {
        Some(_) => ALL_KILLS,
        None => FEW_KILLS,
    };
    let mut course = Course::new(seed());
    let directory = tempfile::tempdir().unwrap();
    let mut process = serve(directory.path()).await;
    course.prepare(&Asker::new(process.address)).await;
    for _ in 0..kills {
        let alive = Duration::from_millis(course.random.random_range(60..500));
        let kill = async |process: &mut Process| {
            tokio::time::sleep(alive).await; // The kill falls anywhere in the work.
            process.crash();
        };
        course.load(&mut process, kill).await;
        process = serve(directory.path()).await;
        course.check(&Asker::new(process.address)).await;
    }
    course.finish(&Asker::new(process.address)).await;
    process.kill();
    let data = directory.path().to_str().unwrap();
    let checked = run(&["check", "--data-dir", data]).await;
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
}

/// Goal: a loss of power takes nothing of a consumer that was acknowledged, either.
/// Method: the same, on a file system that loses all bytes that were not synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_loss_of_power_takes_no_checkpoint_no_mark_and_no_lease_that_was_acknowledged() {
    const CUTS: usize = 5;
    let mut course = Course::new(seed());
    let Some(disk) = Forgetful::mount() else { return };
    let data = disk.path().join("data");
    let mut process = serve(&data).await;
    course.prepare(&Asker::new(process.address)).await;
    for _ in 0..CUTS {
        let alive = Duration::from_millis(course.random.random_range(100..400));
        let cut = async |process: &mut Process| {
            tokio::time::sleep(alive).await; // The cut falls anywhere in the work.
            disk.cut_power();
            process.crash();
        };
        course.load(&mut process, cut).await;
        disk.restore_power();
        process = serve(&data).await;
        course.check(&Asker::new(process.address)).await;
    }
    course.finish(&Asker::new(process.address)).await;
    process.kill();
}
