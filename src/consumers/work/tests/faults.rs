//! Work sharing where storage fails.

use super::*;
use crate::broker::PageRequest;
use crate::error::Error;
use crate::testing::Fault;

async fn faulty() -> (Arc<FaultyLog>, Bench) {
    let log = Arc::new(FaultyLog::default());
    (log.clone(), Bench::on(log, ConsumersConfig::default()).await)
}

#[tokio::test]
async fn what_is_refused_was_not_done_and_the_next_one_is_as_if_it_had_not_been_asked() {
    let (log, bench) = faulty().await;
    let queue = bench.share("jobs", WorkSettings::default()).await;
    bench.publish("jobs", &["", ""]).await;
    log.fail(log.appends() + 1, Fault::DiskFull);
    let refused = queue.pull(pull("a", 1)).await.unwrap_err();
    assert!(matches!(refused, Error::DiskFull { .. }), "{refused}");
    let leased = queue.pull(pull("a", 1)).await.unwrap();
    assert_eq!((sequences(&leased), leased[0].tries), (vec![1], 1));
    log.fail(log.appends() + 1, Fault::NotWritten);
    let ack = Settlement::ack([leased[0].lease]);
    let refused = queue.settle(ack.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::NotWritten(_)), "{refused}");
    assert_eq!(queue.status().unwrap().in_flight, 1);
    let next = queue.pull(pull("b", 10)).await.unwrap();
    assert_eq!(sequences(&next), [2], "the lease holds as before");
    assert_eq!(queue.settle(ack).await.unwrap().ack, [SettleOutcome::Done]);
    bench.broker.close().await;
}

#[tokio::test]
async fn after_an_unknown_outcome_a_start_finds_what_was_stored() {
    for (fault, is_stored) in [(Fault::SyncFails, true), (Fault::WriteFails, false)] {
        let (log, mut bench) = faulty().await;
        let queue = bench.share("jobs", WorkSettings::default()).await;
        bench.publish("jobs", &["", ""]).await;
        let leased = queue.pull(pull("a", 2)).await.unwrap();
        log.fail(log.appends() + 1, fault);
        let ack = Settlement::ack([leased[0].lease]);
        let unknown = queue.settle(ack.clone()).await.unwrap_err();
        assert!(unknown.outcome_unknown(), "{unknown}");
        let refused = queue.settle(ack.clone()).await.unwrap_err();
        assert!(matches!(refused, Error::ReadOnly(_)), "{refused}");
        log.repair();
        bench.crash().await;
        let queue = bench.queue("jobs");
        let in_flight = queue.status().unwrap().in_flight;
        assert_eq!(in_flight, if is_stored { 1 } else { 2 }, "{fault:?}");
        assert_eq!(queue.settle(ack).await.unwrap().ack, [SettleOutcome::Done], "{fault:?}");
        assert_eq!(queue.status().unwrap().totals.finished, 1);
        bench.broker.close().await;
    }
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_written_waits_and_holds_nothing_up() {
    let mut config = OpenConfig::default();
    config.broker.auto_create = false;
    let log = Arc::new(FaultyLog::default());
    let mut bench = Bench::with(log, ConsumersConfig::default(), config).await;
    bench.broker.create_topic(&name("jobs"), Default::default()).await.unwrap();
    let settings = WorkSettings { max_tries: 1, ..WorkSettings::default() };
    let queue = bench.share("jobs", settings).await;
    bench.publish("jobs", &["k", "k", ""]).await;
    let first = queue.pull(pull("a", 1)).await.unwrap();
    let nack = Settlement::default().and_nack(Nack::new(first[0].lease, "no"));
    assert_eq!(queue.settle(nack).await.unwrap().nack, [SettleOutcome::Done]);
    let told = || queue.status().unwrap().problem.is_some();
    crate::testing::until("the problem is told", told).await;
    let status = queue.status().unwrap();
    assert!(status.problem.unwrap().contains("jobs.dead"));
    assert_eq!((status.dying, status.totals.dead), (1, 0));
    let next = queue.pull(pull("a", 10)).await.unwrap();
    assert_eq!(sequences(&next), [3], "the next event of its key waits");
    queue.settle(Settlement::ack([next[0].lease])).await.unwrap();

    bench.crash().await;
    let queue = bench.queue("jobs");
    assert!(queue.pull(pull("a", 10)).await.unwrap().is_empty());
    assert_eq!(queue.status().unwrap().dying, 1, "also after a restart");
    // The pull is answered before the dead letter is tried.
    let told = || queue.status().unwrap().problem.is_some();
    crate::testing::until("the problem is told again", told).await;
    bench.broker.create_topic(&name("jobs.dead"), Default::default()).await.unwrap();
    bench.clock.advance(ms(30_000));
    assert!(queue.pull(pull("a", 10)).await.unwrap().is_empty());
    crate::testing::until("it is dead", || queue.status().unwrap().totals.dead == 1).await;
    assert_eq!(sequences(&queue.pull(pull("a", 10)).await.unwrap()), [2]);
    let page = bench.broker.read(&name("jobs.dead"), PageRequest::default()).await.unwrap();
    let letters: Vec<_> = page.runs.iter().flat_map(|run| run.to_events()).collect();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].content.headers[DEAD_REASON_HEADER], "no");
    bench.broker.close().await;
}

/// Goal: whoever cannot mend the topic of dead letters can have the events tried again.
#[tokio::test]
async fn an_event_that_cannot_become_a_dead_letter_is_work_again_when_more_tries_are_permitted() {
    for max_tries in [0, 2] {
        let mut config = OpenConfig::default();
        config.broker.auto_create = false;
        let log = Arc::new(FaultyLog::default());
        let mut bench = Bench::with(log, ConsumersConfig::default(), config).await;
        bench.broker.create_topic(&name("jobs"), Default::default()).await.unwrap();
        let settings = WorkSettings { max_tries: 1, ..WorkSettings::default() };
        let queue = bench.share("jobs", settings.clone()).await;
        bench.publish("jobs", &["k"]).await;
        let first = queue.pull(pull("a", 1)).await.unwrap();
        let nack = Settlement::default().and_nack(Nack::new(first[0].lease, "no"));
        queue.settle(nack).await.unwrap();
        let told = || queue.status().unwrap().problem.is_some();
        crate::testing::until("the problem is told", told).await;
        bench.crash().await;
        let queue = bench.share("jobs", WorkSettings { max_tries, ..settings }).await;
        let again = queue.pull(pull("a", 10)).await.unwrap();
        assert_eq!((sequences(&again), again[0].tries), (vec![1], 2), "max_tries {max_tries}");
        let status = queue.status().unwrap();
        assert_eq!((status.dying, status.totals.lost, status.problem), (0, 0, None));
        bench.broker.close().await;
    }
}

/// Goal: events that are as large as they may be become dead letters although one publish has no
/// room for all of them.
#[tokio::test]
async fn many_large_events_become_dead_letters_at_the_same_time() {
    let bench = Bench::new().await;
    let settings = WorkSettings { max_tries: 1, ..WorkSettings::default() };
    let queue = bench.share("jobs", settings).await;
    for _ in 0..64 {
        let event = NewEvent::new(vec![b'x'; 1 << 20]);
        bench.broker.publish(Publish::one(name("jobs"), event)).await.unwrap();
    }
    let leased = queue.pull(pull("a", 64).max_bytes(usize::MAX)).await.unwrap();
    assert_eq!(leased.len(), 64);
    let nack = |leased: &Leased| Nack::new(leased.lease, "no");
    let nacks = leased.iter().map(nack).fold(Settlement::default(), Settlement::and_nack);
    queue.settle(nacks).await.unwrap();
    crate::testing::until("all are dead", || queue.status().unwrap().totals.dead == 64).await;
    bench.broker.close().await;
}

/// Goal: leases that many workers take and settle at the same time are never given twice, and the
/// answers of a broker that ends are those that hold after a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_at_the_same_time_finish_each_event_once_also_over_restarts() {
    const EVENTS: usize = 600;
    let mut bench = Bench::new().await;
    let settings = WorkSettings { max_in_flight_per_worker: 20, ..WorkSettings::default() };
    bench.share("jobs", settings).await;
    let keys: Vec<String> = (0..EVENTS).map(|n| format!("k{}", n % 97)).collect();
    bench.publish("jobs", &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut finished = std::collections::BTreeMap::<u64, u32>::new();
    for round in 0..4 {
        let workers = (0..8).map(|worker| {
            let queue = bench.queue("jobs");
            tokio::spawn(async move {
                let mut finished = Vec::new();
                for _ in 0..if round < 3 { 8 } else { 400 } {
                    let request = pull(&format!("w{worker}"), 5);
                    let Ok(leased) = queue.pull(request).await else { break };
                    let leases: Vec<_> = leased.iter().map(|leased| leased.lease).collect();
                    let Ok(settled) = queue.settle(Settlement::ack(leases)).await else { break };
                    let acked = settled.ack.iter().zip(sequences(&leased));
                    finished.extend(acked.filter(|it| *it.0 == SettleOutcome::Done).map(|it| it.1));
                }
                finished
            })
        });
        let workers: Vec<_> = workers.collect();
        for worker in workers {
            for sequence in worker.await.unwrap() {
                *finished.entry(sequence).or_default() += 1;
            }
        }
        bench.crash().await;
    }
    assert_eq!(finished.len(), EVENTS);
    assert!(finished.values().all(|times| *times == 1), "{finished:?}");
    let status = bench.queue("jobs").status().unwrap();
    assert_eq!((status.totals.finished, status.in_flight), (EVENTS as u64, 0));
    bench.broker.close().await;
}
