//! Pages with the client of `src/web/client`, in a real browser behind nginx, through faults: kills
//! of the broker, networks that go away, proxies that refuse, hold back or cut what passes, tokens
//! that end, and an origin that is not the broker's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::routing::get;
use jsonwebtoken::{EncodingKey, Header};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::page::{EMPTY_PAGE, Page, Site, until};
use super::proxy::Proxy;
use crate::common::{lasting_address, seed};
use crate::webdriver::Browser;

/// The times without a broker after each kill: clients try in vain during the first one.
const AWAY: [Duration; 3] = [Duration::from_millis(500), Duration::ZERO, Duration::ZERO];

/// The number of cuts that pages live through, and the largest number of bytes before one.
const CUTS: usize = 8;
const MAX_BYTES: u64 = 4_000;

const SECRET: &str = "a secret of the tests, long enough for HS256";
const TRANSPORTS: [&str; 3] = ["websocket", "sse", "poll"];

/// An edit of nginx's configuration with which it refuses WebSockets.
const REFUSES: (&str, &str) = ("location / {", "location = /v1/ws { return 400; }\n\nlocation / {");
/// Edits with which nginx asks the broker for no WebSocket, as nginx does by default.
const ASKS_FOR_NONE: [(&str, &str); 2] = [
    ("proxy_set_header Upgrade $http_upgrade;", ""),
    ("proxy_set_header Connection $leftoff_connection;", "proxy_set_header Connection '';"),
];
/// An edit with which nginx holds streams back, also those that ask for the opposite: it speaks
/// HTTP/1.0 to the broker, as nginx does by default, and does not look at what the broker says.
const HOLDS_BACK: (&str, &str) = (
    "proxy_http_version 1.1;",
    "proxy_ignore_headers X-Accel-Buffering;
        proxy_buffer_size 1m;
        proxy_buffers 8 1m;",
);

/// Goal: pages of two origins, over HTTP and over TLS, show what was acknowledged through kills of
/// the broker, and what they publish while there is none is stored once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_what_was_acknowledged_through_kills_of_the_broker() {
    let Some(browser) = Browser::start().await else { return };
    let mut site = Site::start();
    let Some(nginx) = site.nginx(&[]).await else { return };
    let origins =
        [format!("http://{}", nginx.address), format!("https://{}", nginx.secure_address)];
    let mut pages = Vec::new();
    for origin in &origins {
        pages.push(Page::open(&browser, origin, json!({})).await);
    }
    for away in AWAY {
        for page in &pages {
            page.publish().await;
        }
        site.is_seen_by(&pages).await;
        tokio::join!(site.restart(away), async {
            for page in &pages {
                page.publish().await;
            }
        });
    }
    site.ends_with(&pages).await;
}

/// Goal: a page says that it is offline when its network goes away, and soon after the network is
/// back, the page shows what was acknowledged meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_without_a_network_says_so_and_goes_on_when_the_network_is_back() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::start();
    let Some(nginx) = site.nginx(&[]).await else { return };
    let pages = [Page::open(&browser, &format!("http://{}", nginx.address), json!({})).await];
    let [page] = &pages;
    site.is_seen_by(&pages).await;
    page.until("page.leftoff.connection.state === 'connected'").await;
    let paused = nginx.pause();
    browser.take_network(true).await; // Of that the page is told.
    page.publish().await;
    page.until("page.leftoff.connection.state === 'offline'").await;
    assert_eq!(page.ask("page.unsettled").await, 10, "nothing can be acknowledged");
    drop(paused);
    browser.take_network(false).await;
    page.until("page.leftoff.connection.state === 'connected'").await;
    site.ends_with(&pages).await;
}

/// Goal: a page does not say for long that it is connected when nothing arrives any more and nobody
/// tells it, as when a cable is pulled somewhere on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_network_falls_silent_notices_it_by_itself() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::with("follow.heartbeat_ms = 1000\n", None);
    let Some(nginx) = site.nginx(&[]).await else { return };
    let pages = [Page::open(&browser, &format!("http://{}", nginx.address), json!({})).await];
    let [page] = &pages;
    site.is_seen_by(&pages).await;
    let paused = nginx.pause();
    page.publish().await;
    page.until("!['connected', 'polling'].includes(page.leftoff.connection.state)").await;
    drop(paused);
    site.ends_with(&pages).await;
}

/// Goal: behind proxies that let no WebSocket pass, a page follows by a stream; where a proxy holds
/// streams back, it polls. In all cases it shows what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_behind_proxies_that_refuse_or_hold_back_find_a_way() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::start();
    let ways: [(&[(&str, &str)], &str); 3] = [
        (&[REFUSES], "sse"),
        (&ASKS_FOR_NONE, "sse"),
        (&[ASKS_FOR_NONE[0], ASKS_FOR_NONE[1], HOLDS_BACK], "poll"),
    ];
    let (mut proxies, mut pages) = (Vec::new(), Vec::new());
    for (changes, _) in &ways {
        let Some(nginx) = site.nginx(changes).await else { return };
        let origin = format!("http://{}", nginx.address);
        pages.push(Page::open(&browser, &origin, json!({})).await);
        proxies.push(nginx);
    }
    for (page, (_, transport)) in pages.iter().zip(&ways) {
        page.publish().await;
        page.until(&format!("page.leftoff.connection.transport === '{transport}'")).await;
    }
    site.ends_with(&pages).await;
}

/// Passes connections on to the broker at `to`, and cuts each after some bytes of its answers,
/// until there were enough cuts. Connections that are accepted then are not cut.
async fn cut(listener: TcpListener, to: SocketAddr, made: Arc<AtomicUsize>) {
    let mut random = StdRng::seed_from_u64(seed());
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let is_enough = made.load(Ordering::Relaxed) >= CUTS;
        let max_bytes = if is_enough { u64::MAX } else { random.random_range(1..MAX_BYTES) };
        let made = made.clone();
        tokio::spawn(async move {
            if let Ok(true) = pass_on(client, to, max_bytes).await {
                made.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Passes on a connection up to `max_bytes` of its answers, and returns whether that was the end.
async fn pass_on(mut client: TcpStream, to: SocketAddr, max_bytes: u64) -> std::io::Result<bool> {
    let mut broker = TcpStream::connect(to).await?;
    let (mut requests, mut answers) = client.split();
    let (from_broker, mut to_broker) = broker.split();
    let mut from_broker = from_broker.take(max_bytes);
    tokio::select! {
        asked = tokio::io::copy(&mut requests, &mut to_broker) => asked.map(|_| false),
        answered = tokio::io::copy(&mut from_broker, &mut answers) => {
            answered.map(|bytes| bytes == max_bytes)
        }
    }
}

/// Goal: over each transport, a page shows what was acknowledged although its connections are cut
/// at any byte, and an event whose acknowledgement was lost is stored once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_whose_connections_are_cut_show_what_was_acknowledged() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cutter = listener.local_addr().unwrap();
    let made = Arc::<AtomicUsize>::default();
    let cutting = tokio::spawn(cut(listener, site.address, made.clone()));
    // The modules come whole: a page without them has no client.
    let whole =
        format!("location /web/ {{ proxy_pass http://{}; }}\n\nlocation / {{", site.address);
    let changes = [EMPTY_PAGE, ("location / {", &whole)];
    let Some(nginx) = Proxy::nginx_with(cutter, &changes).await else { return };
    let origin = format!("http://{}", nginx.address);
    let mut pages = Vec::new();
    for transport in TRANSPORTS {
        let options = json!({"transports": [transport], "shared": false});
        pages.push(Page::open(&browser, &origin, options).await);
    }
    let mut published = 0;
    until("there are enough cuts", async || {
        let cuts = made.load(Ordering::Relaxed);
        if cuts > published && cuts < CUTS {
            published = cuts;
            for page in &pages {
                page.publish().await;
            }
        }
        cuts >= CUTS
    })
    .await;
    site.ends_with(&pages).await;
    cutting.abort();
}

/// Returns a token that may do everything with topics, and lives for so long. With a negative time,
/// the token is over.
fn token(life_s: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://id.example", "aud": "leftoff", "sub": "user-42",
        "exp": now.saturating_add_signed(life_s),
        "leftoff": {"publish": [">"], "subscribe": [">"]},
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

/// Returns settings with which the broker asks for tokens.
fn with_tokens() -> String {
    format!(
        r#"
        [access]
        mode = "required"

        [[access.issuers]]
        issuer = "https://id.example"
        audience = ["leftoff"]
        algorithms = ["HS256"]
        secret = "{SECRET}"
        leeway_s = 0
        "#
    )
}

/// Serves tokens with these lives, one after the other and the last one again and again.
async fn serve_tokens(lives_s: &[i64]) -> SocketAddr {
    let lives_s = Arc::new(Mutex::new(VecDeque::from(lives_s.to_vec())));
    let next = async move || {
        let mut lives_s = lives_s.lock().unwrap();
        let life_s = if lives_s.len() > 1 { lives_s.pop_front() } else { lives_s.front().copied() };
        token(life_s.unwrap())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Router::new().route("/token", get(next));
    tokio::spawn(async move { axum::serve(listener, served).await });
    address
}

/// Goal: a page asks for another token when the broker refuses the first one, and when the second
/// one ends while it follows. It shows what was acknowledged, over each transport.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_whose_tokens_end_ask_for_others_and_go_on() {
    let Some(browser) = Browser::start().await else { return };
    let site = Site::with(&with_tokens(), Some(token(600)));
    let (mut proxies, mut pages) = (Vec::new(), Vec::new());
    for transport in TRANSPORTS {
        let tokens = serve_tokens(&[-60, 4, 600]).await;
        let place = format!("location = /token {{ proxy_pass http://{tokens}; }}\n\nlocation / {{");
        let Some(nginx) = site.nginx(&[("location / {", &place)]).await else { return };
        let options = json!({"transports": [transport], "shared": false, "token": "/token"});
        let origin = format!("http://{}", nginx.address);
        pages.push(Page::open(&browser, &origin, options).await);
        proxies.push(nginx);
    }
    for page in &pages {
        page.publish().await;
        page.until("page.tokens >= 3").await;
        page.publish().await;
    }
    site.ends_with(&pages).await;
    for page in &pages {
        // A request and the line may both have met the end of the second token.
        let tokens = page.ask("page.tokens").await;
        assert!(tokens.as_u64() <= Some(4), "tokens are asked for when one has ended: {tokens}");
    }
}

/// Goal: a page of another origin that the broker allows imports the client from the broker, and
/// shows what was acknowledged, over each transport. A page of an origin that is not allowed shows
/// nothing, and does not say that it is connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_shows_what_was_acknowledged_if_its_origin_is_allowed() {
    let Some(browser) = Browser::start().await else { return };
    let nobody = lasting_address();
    let Some(others) = Proxy::nginx_with(nobody, &[EMPTY_PAGE]).await else { return };
    let allowed = format!("http://localhost:{}", others.address.port());
    let site = Site::with(&format!("access.allowed_origins = [{allowed:?}]\n"), None);
    let Some(nginx) = site.nginx(&[]).await else { return };
    let module = format!("http://{}/web/leftoff.js", nginx.address);
    let mut pages = Vec::new();
    for transport in TRANSPORTS {
        let options = json!({"transports": [transport]});
        pages.push(Page::open_with(&browser, &allowed, &module, options).await);
    }
    let forbidden = format!("http://{}", others.address);
    let stranger = Page::open_with(&browser, &forbidden, &module, json!({})).await;
    stranger.publish().await;
    for page in &pages {
        page.publish().await;
    }
    stranger.until("page.states.some(({ attempt }) => attempt > 1)").await;
    let has_been_connected = "page.states.some(({ transport }) => transport !== null)";
    assert_eq!(stranger.ask(has_been_connected).await, false);
    assert_eq!(stranger.ask("page.shown").await, json!([]));
    site.ends_with(&pages).await;
}
