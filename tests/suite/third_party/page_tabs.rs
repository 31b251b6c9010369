//! Tabs of a real browser that share one connection of the client of `src/web/client`, behind
//! nginx: the tab that has the connection is closed, hangs, is frozen, or is left for another page.

use std::time::Duration;

use super::page::{Page, Site, until};
use crate::webdriver::Browser;

const TABS: usize = 10;

/// The longest time within which another tab takes the connection over, and shows what came
/// meanwhile.
const TAKEOVER: Duration = Duration::from_secs(2);

/// The time for which a tab hangs: without a takeover the others would wait until then.
const HANG_MS: u64 = 5_000;

async fn open<'b>(browser: &'b Browser, origin: &str, count: usize) -> Vec<Page<'b>> {
    let mut pages = Vec::new();
    for _ in 0..count {
        pages.push(Page::open_tab(browser, origin).await);
    }
    pages
}

/// Takes the page that has the connection from the list.
async fn take_leader<'b>(pages: &mut Vec<Page<'b>>) -> Page<'b> {
    let mut leader = None;
    until("one tab has the connection", async || {
        for (index, page) in pages.iter().enumerate() {
            if page.is_leader().await {
                leader = Some(index);
            }
        }
        leader.is_some()
    })
    .await;
    pages.remove(leader.unwrap())
}

/// Waits until all subscriptions are on one connection.
async fn share_one_connection(site: &Site, pages: &[Page<'_>]) {
    until("there is one connection", async || site.subscriptions().await == [pages.len()]).await;
}

/// Checks that each page showed each event after the sequence `after` soon enough.
async fn were_in_time(site: &Site, pages: &[Page<'_>], after: u64) {
    site.is_seen_by(pages).await;
    let mut longest = Duration::ZERO;
    for page in pages {
        longest = longest.max(site.longest_delay(page, after).await);
    }
    println!("an event was shown after {longest:?} at the latest");
    assert!(longest < TAKEOVER, "an event was shown after {longest:?}");
}

/// Goal: ten tabs have one connection. When the tab that has it is closed, or hangs, another one
/// takes over within two seconds, and no tab loses an event or shows one twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_tabs_share_a_connection_and_take_it_over_within_two_seconds() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::start();
    let Some(nginx) = site.nginx(&[]).await else { return };
    let mut pages = open(&browser, &format!("http://{}", nginx.address), TABS).await;
    site.is_seen_by(&pages).await;
    share_one_connection(&site, &pages).await;
    for page in &pages {
        page.publish().await;
    }
    let closed = take_leader(&mut pages).await;
    let published = closed.receipts().await;
    site.were_published(&published);
    let newest = site.newest();
    closed.choose().await;
    browser.close_tab().await;
    for page in &pages {
        page.publish().await;
    }
    were_in_time(&site, &pages, newest).await;
    share_one_connection(&site, &pages).await;

    let hanging = take_leader(&mut pages).await;
    let newest = site.newest();
    // This tab is seen. The others are hidden, and seldom ask whether there is a connection.
    pages[0].hang_leader(HANG_MS).await;
    pages[0].publish().await;
    site.publishes(20).await;
    site.is_seen_by(&pages[..1]).await;
    for page in &pages[1..] {
        page.publish().await;
    }
    were_in_time(&site, &pages, newest).await;
    hanging.publish().await; // The browser waits until the tab goes on.
    site.is_seen_by(std::slice::from_ref(&hanging)).await;
    let hung = site.longest_delay(&hanging, newest).await;
    assert!(hung > TAKEOVER, "the tab had to hang, and showed all within {hung:?}");
    pages.push(hanging);
    share_one_connection(&site, &pages).await;
    site.ends_with(&pages).await;
}

/// Goal: when the tab that has the connection is frozen, another one takes over. The frozen one
/// goes on when it is thawed, and misses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_that_is_frozen_gives_its_connection_to_another_one_and_goes_on_when_it_thaws() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::start();
    let Some(nginx) = site.nginx(&[]).await else { return };
    let mut pages = open(&browser, &format!("http://{}", nginx.address), 3).await;
    site.is_seen_by(&pages).await;
    let frozen = take_leader(&mut pages).await;
    let newest = site.newest();
    frozen.publish().await;
    browser.freeze(true).await;
    for page in &pages {
        page.publish().await;
    }
    site.publishes(20).await;
    were_in_time(&site, &pages, newest).await;
    share_one_connection(&site, &pages).await;
    frozen.choose().await;
    browser.freeze(false).await;
    site.is_seen_by(std::slice::from_ref(&frozen)).await;
    let away = site.longest_delay(&frozen, newest).await;
    assert!(away > Duration::from_secs(1), "a frozen tab showed all within {away:?}");
    pages.push(frozen);
    share_one_connection(&site, &pages).await;
    site.ends_with(&pages).await;
}

/// Goal: when the user leaves the tab that has the connection for another page, another tab takes
/// over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_whose_page_is_left_gives_its_connection_to_another_one() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::start();
    let Some(nginx) = site.nginx(&[]).await else { return };
    let origin = format!("http://{}", nginx.address);
    let mut pages = open(&browser, &origin, 3).await;
    site.is_seen_by(&pages).await;
    let left = take_leader(&mut pages).await;
    let newest = site.newest();
    left.choose().await;
    browser.go_to(&format!("{origin}/page?another")).await;
    for page in &pages {
        page.publish().await;
    }
    were_in_time(&site, &pages, newest).await;
    share_one_connection(&site, &pages).await;
    site.ends_with(&pages).await;
}

/// Goal: a page that is left for another page is kept by the browser. When the user comes back, the
/// page goes on with what it had, and misses nothing.
/// Method: the tab is alone. Chromium keeps no page for certain whose locks other tabs wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_comes_back_from_the_browsers_cache_goes_on_where_it_was() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::start();
    let Some(nginx) = site.nginx(&[]).await else { return };
    let origin = format!("http://{}", nginx.address);
    let pages = [Page::open_tab(&browser, &origin).await];
    let [page] = &pages;
    site.is_seen_by(&pages).await;
    page.publish().await;
    browser.go_to(&format!("{origin}/page?another")).await;
    until("the page has no connection", async || site.subscriptions().await.is_empty()).await;
    site.publishes(10).await;
    browser.go_back().await;
    page.until("location.search === ''").await;
    // Where the browser loads the page anew, it has neither the client nor what was shown.
    page.until("window.page?.returns[0] === true").await;
    site.ends_with(&pages).await;
}
