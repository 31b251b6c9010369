//! Requests that are a lot of work: whoever sends them, the others are served as before.

use std::time::{Duration, Instant};

use super::bystander::Bystander;
use crate::common::{Process, get};

/// How long an attack goes on.
const ATTACK: Duration = Duration::from_secs(2);

/// Clients that attack at the same time.
const CLIENTS: usize = 8;

/// Does something again and again, for all clients at the same time, until the attack is over.
async fn again_and_again<F: Future<Output = ()>>(mut attack: impl FnMut(usize) -> F) {
    let until = Instant::now() + ATTACK;
    while Instant::now() < until {
        futures_util::future::join_all((0..CLIENTS).map(&mut attack)).await;
    }
}

/// Goal: what is read of a query takes no longer than the query is long.
#[tokio::test]
async fn queries_of_thousands_of_names_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let names: String = (0..9_000).map(|number| format!("n{number}=&")).collect();
    let values = "type=x&".repeat(9_000);
    for (query, limit) in [
        (names, "names in the query: 65 is over the limit of 64"),
        (values, "type: 1025 is over the limit of 1024"),
    ] {
        let path = format!("/v1/topics/a/events?{query}");
        let attack = async |_| {
            let answer = get(process.address, &path).await;
            assert_eq!(answer.status, 413);
            assert!(answer.json()["detail"].as_str().unwrap().contains(limit), "{answer:?}");
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
}
