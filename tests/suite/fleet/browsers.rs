//! A browser's page behind nginx, in front of two nodes of a fleet.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::small_fleet::{SmallFleet, patiently};
use crate::common::soon;
use crate::third_party::proxy::Proxy;
use crate::webdriver::Browser;

/// A page of the nodes' own origin.
const PAGE: &str = "/healthz";

/// The script of a page that follows, and keeps all that it is told.
const FOLLOW: &str = r#"
    window.seen = [];
    const source = new EventSource("/v1/topics/a/events?from=earliest");
    for (const type of ["message", "leftoff.gap", "leftoff.error"]) {
        source.addEventListener(type, (event) => seen.push([event.type, event.data]));
    }
"#;

/// Publishes events with these numbers over the proxy.
async fn publish(proxy: SocketAddr, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let path = format!("/v1/topics/a/events?id={number}");
        let told = patiently(proxy, "POST", &path, &json!(number), "").await;
        assert_eq!(told["sequence"], number, "{told}");
    }
}

/// Waits until the page has seen an event with this number.
async fn sees(browser: &Browser, number: u64) {
    soon(async {
        let wanted = json!(["message", number.to_string()]);
        loop {
            let seen = browser.run("return seen", json!([])).await;
            if seen.as_array().unwrap().contains(&wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Goal: a page with an `EventSource` behind nginx follows through the `kill -9` of whichever of
/// the two nodes it is at, the leader among them: it gets each event once, in order, and is told of
/// no gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_behind_nginx_with_two_nodes_follows_through_the_death_of_a_leader() {
    let settings = ["--set", "follow.retry_ms=200"];
    let Some(mut fleet) = SmallFleet::start(&settings).await else { return };
    let (leader, followers) = fleet.roles().await;
    let other = followers[0];
    let list = format!("server {};", fleet.addresses[leader]);
    let both = format!("{list} server {};", fleet.addresses[other]);
    let Some(proxy) = Proxy::nginx_with(fleet.addresses[leader], &[(&list, &both)]).await else {
        return;
    };
    let Some(browser) = Browser::start().await else { return };
    browser.go_to(&format!("http://{}{PAGE}", proxy.address)).await;
    browser.run(FOLLOW, json!([])).await;
    publish(proxy.address, 1..=10).await;
    sees(&browser, 10).await;
    fleet.kill(leader);
    publish(proxy.address, 11..=20).await;
    sees(&browser, 20).await;
    // The page is at the other node by now, if it was not before.
    fleet.start_node(leader);
    fleet.until_ready(leader).await;
    fleet.kill(other);
    publish(proxy.address, 21..=30).await;
    sees(&browser, 30).await;
    let seen = browser.run("return seen", json!([])).await;
    let expected: Vec<Value> =
        (1..=30).map(|number: u64| json!(["message", number.to_string()])).collect();
    assert_eq!(seen, json!(expected));
}
