//! Promises of tickets.

use std::sync::Barrier;

use futures_util::future::join_all;

use super::*;
use crate::broker::OpenConfig;
use crate::edge::hooks::Grant;

const HOUR: Duration = Duration::from_secs(3_600);

fn patterns(texts: &[&str]) -> Vec<TopicPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A caller with a key, which was issued at `issued` and ends in a day.
fn caller(issued: SystemTime) -> CallerIdentity {
    let permission = Permission::default()
        .with(Action::Subscribe, ["orders.*", "news", "$audit"])
        .and_then(|it| it.with(Action::Presence, ["orders.*"]))
        .and_then(|it| it.with(Action::Publish, ["orders.new"]))
        .unwrap()
        .permitting(Action::Manage, Permitted::All)
        .administering();
    let grant = Grant::new("u", permission);
    let expires = Some(issued + 24 * HOUR);
    CallerIdentity { id: "u".into(), proof: Proof::Key, issued: Some(issued), expires, grant }
}

fn request(kind: TicketKind, subscribe: Option<&[&str]>) -> TicketRequest {
    let subscribe = subscribe.map(patterns);
    TicketRequest { kind, subscribe, publish: None, expires_s: None }
}

fn broker() -> Broker {
    Broker::in_memory(&OpenConfig::default()).unwrap()
}

async fn open(broker: &Broker) -> (Tickets, Revocations) {
    open_with(broker, &TicketsConfig::default()).await
}

async fn open_with(broker: &Broker, config: &TicketsConfig) -> (Tickets, Revocations) {
    let revocations = Revocations::open(broker).await.unwrap();
    let tickets = Tickets::open(config, broker, &revocations).await.unwrap();
    (tickets, revocations)
}

/// Goal: a ticket for one use opens one WebSocket, within its seconds, whatever else was tried.
#[tokio::test]
async fn a_ticket_for_one_use_opens_one_web_socket() {
    let (broker, now) = (broker(), SystemTime::now());
    let (tickets, _revocations) = open(&broker).await;
    let issued = tickets.issue(&caller(now), &request(TicketKind::Once, None), now).await.unwrap();
    assert_eq!(issued.expires, (now + Duration::from_secs(30)).into());
    assert_eq!(issued.subscribe, patterns(&["orders.*", "news", "$audit"]));
    assert_eq!(issued.publish, patterns(&["orders.new"]));
    let text = &issued.ticket;
    let unknown = tickets.redeem("lot_x", TicketUse::WebSocket, now).unwrap_err();
    for purpose in [TicketUse::Read, TicketUse::Other] {
        assert_eq!(tickets.redeem(text, purpose, now).unwrap_err(), unknown, "{purpose:?}");
    }
    let proved = tickets.redeem(text, TicketUse::WebSocket, now).unwrap();
    assert_eq!((&*proved.id, proved.proof), ("u", Proof::Ticket));
    assert_eq!(proved.expires, Some(now + 24 * HOUR), "the WebSocket lives as the credential");
    let permission = proved.permission;
    assert!(!permission.administers() && *permission.of(Action::Manage) == Permitted::None);
    assert_eq!(permission.of(Action::Presence), &Permitted::Patterns(patterns(&["orders.*"])));
    assert_eq!(tickets.redeem(text, TicketUse::WebSocket, now).unwrap_err(), unknown);
    let late = tickets.issue(&caller(now), &request(TicketKind::Once, None), now).await.unwrap();
    let over = now + Duration::from_secs(30);
    assert_eq!(tickets.redeem(&late.ticket, TicketUse::WebSocket, over).unwrap_err(), unknown);
    broker.close().await;
}

/// Goal: of many who come with one ticket at once, one is let in.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_for_one_use_is_used_once_by_many_threads() {
    let (broker, now) = (broker(), SystemTime::now());
    let (tickets, _revocations) = open(&broker).await;
    for _ in 0..100 {
        let once = request(TicketKind::Once, None);
        let text = tickets.issue(&caller(now), &once, now).await.unwrap().ticket;
        let barrier = Barrier::new(8);
        let redeem = || {
            barrier.wait();
            tickets.redeem(&text, TicketUse::WebSocket, now).is_ok()
        };
        let used = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(redeem)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).filter(|used| *used).count()
        });
        assert_eq!(used, 1);
    }
    broker.close().await;
}

/// Goal: a ticket for streams reads its topics until it is over, and does nothing else.
#[tokio::test]
async fn a_ticket_for_streams_is_bound_to_its_topics_and_its_end() {
    let (broker, now) = (broker(), SystemTime::now());
    let (tickets, _revocations) = open(&broker).await;
    let wanted = request(TicketKind::Stream, Some(&["orders.>", "secret", "news"]));
    let issued = tickets.issue(&caller(now), &wanted, now).await.unwrap();
    assert_eq!(issued.subscribe, patterns(&["orders.*", "news"]), "it is cut down");
    assert!(issued.publish.is_empty());
    let end = now + HOUR;
    assert_eq!(issued.expires, end.into());
    for purpose in [TicketUse::WebSocket, TicketUse::Other] {
        assert!(tickets.redeem(&issued.ticket, purpose, now).is_err(), "{purpose:?}");
    }
    let last = end - Duration::from_millis(1);
    for at in [now, now, last] {
        let proved = tickets.redeem(&issued.ticket, TicketUse::Read, at).unwrap();
        assert_eq!(proved.expires, Some(end), "the stream ends with its ticket");
        assert_eq!(proved.permission.of(Action::Publish), &Permitted::Patterns(Vec::new()));
    }
    assert!(tickets.redeem(&issued.ticket, TicketUse::Read, end).is_err());
    let mut short_lived = caller(now);
    short_lived.expires = Some(now + Duration::from_secs(5));
    let long = TicketRequest { expires_s: Some(u64::MAX), ..wanted };
    let issued = tickets.issue(&short_lived, &long, now).await.unwrap();
    assert_eq!(issued.expires, (now + Duration::from_secs(5)).into(), "as the credential");
    broker.close().await;
}

#[tokio::test]
async fn who_may_have_no_ticket_is_told_why() {
    let (broker, now) = (broker(), SystemTime::now());
    let config = TicketsConfig { max_tickets_per_caller: 2, ..TicketsConfig::default() };
    let (tickets, _revocations) = open_with(&broker, &config).await;
    let stream = |subscribe| request(TicketKind::Stream, subscribe);
    let whole = request(TicketKind::Once, None);
    let mut anonymous = caller(now);
    anonymous.proof = Proof::Anonymous;
    let mut of_ticket = caller(now);
    of_ticket.proof = Proof::Ticket;
    let publishing =
        TicketRequest { publish: Some(patterns(&["orders.new"])), ..stream(Some(&["news"])) };
    let at_once = TicketRequest { expires_s: Some(0), ..whole.clone() };
    let foreign = TicketRequest { publish: Some(patterns(&["news"])), ..whole.clone() };
    let refusals = [
        (&anonymous, whole.clone(), "a ticket is for callers with a credential"),
        (&of_ticket, whole.clone(), "a ticket makes no other ticket"),
        (&caller(now), stream(None), "subscribe: is missing"),
        (&caller(now), stream(Some(&[])), "subscribe: is missing"),
        (&caller(now), stream(Some(&["secret.>"])), "u may not subscribe to \"secret.>\""),
        (&caller(now), publishing, "publish: is not for a ticket of kind stream"),
        (&caller(now), at_once, "expires_s: is 0"),
        (&caller(now), foreign, "u may not publish to \"news\""),
    ];
    for (caller, request, reason) in refusals {
        let error = tickets.issue(caller, &request, now).await.unwrap_err().to_string();
        assert!(error.starts_with(reason), "{error}");
    }
    let publishes = TicketRequest { publish: Some(patterns(&["orders.*"])), ..whole.clone() };
    let issued = tickets.issue(&caller(now), &publishes, now).await.unwrap();
    assert_eq!((issued.subscribe.len(), issued.publish), (0, patterns(&["orders.new"])));
    tickets.issue(&caller(now), &stream(Some(&["news"])), now).await.unwrap();
    let full = tickets.issue(&caller(now), &whole, now).await.unwrap_err();
    assert!(matches!(full, Error::Full { limit: 2, .. }), "{full}");
    broker.close().await;
}

/// Goal: a thousand patterns, cut down by as many, are refused before they are a million parts.
#[tokio::test]
async fn the_parts_of_patterns_are_bounded_while_they_are_made() {
    let (broker, now) = (broker(), SystemTime::now());
    let (tickets, _revocations) = open(&broker).await;
    let texts = |text: fn(usize) -> String| (0..1_000).map(text).collect::<Vec<_>>();
    let (permitted, asked) = (texts(|n| format!("*.p{n}")), texts(|n| format!("a{n}.*")));
    let permission = Permission::default()
        .with(Action::Subscribe, permitted.iter().map(String::as_str))
        .and_then(|it| it.with(Action::Presence, [">"]))
        .unwrap();
    let many = CallerIdentity { grant: Grant::new("u", permission), ..caller(now) };
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let refused = tickets.issue(&many, &request(TicketKind::Stream, Some(&asked)), now).await;
    let refused = refused.map(|it| it.subscribe.len()).unwrap_err().to_string();
    assert!(refused.starts_with("patterns of a ticket: 2000 is over"), "{refused}");
    let one = request(TicketKind::Stream, Some(&asked[..1]));
    assert_eq!(tickets.issue(&many, &one, now).await.unwrap().subscribe.len(), 1_000);
    broker.close().await;
}

/// Goal: a ticket of a credential that is revoked is refused when it is used, and forgotten.
#[tokio::test]
async fn a_ticket_is_refused_once_its_credential_is_revoked() {
    let (broker, now) = (broker(), SystemTime::now());
    let (tickets, revocations) = open(&broker).await;
    let (once, stream) = (request(TicketKind::Once, None), Some(["news"].as_slice()));
    let stream = request(TicketKind::Stream, stream);
    let once = tickets.issue(&caller(now), &once, now).await.unwrap().ticket;
    let newer = caller(now + Duration::from_secs(2));
    let (old, new) = (
        tickets.issue(&caller(now), &stream, now).await.unwrap().ticket,
        tickets.issue(&newer, &stream, now).await.unwrap().ticket,
    );
    revocations.revoke("u", None, now.into()).await.unwrap();
    assert!(tickets.redeem(&once, TicketUse::WebSocket, now).is_err());
    assert!(tickets.redeem(&old, TicketUse::Read, now).is_err());
    assert!(tickets.redeem(&new, TicketUse::Read, now).is_ok(), "it is of a newer credential");
    let issued = tickets.issue(&caller(now), &stream, now).await.unwrap().ticket;
    tickets.forget_revoked("u");
    assert!(tickets.0.table().take(&hash_of(&issued), now, |_| true).is_none());
    assert!(tickets.redeem(&new, TicketUse::Read, now).is_ok());
    broker.close().await;
}

/// Goal: after a restart a ticket for streams is good, one for one use is not, and a revocation
/// from before it holds; and the text of a ticket is in no file.
#[tokio::test]
async fn a_ticket_for_streams_outlives_a_restart_and_its_text_is_not_stored() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let broker = Broker::open(directory.path(), &OpenConfig::default()).unwrap();
    let (tickets, revocations) = open(&broker).await;
    let stream = request(TicketKind::Stream, Some(&["orders.>"]));
    let other = CallerIdentity { id: "v".into(), ..caller(now) };
    let short = TicketRequest { expires_s: Some(1), ..stream.clone() };
    let kept = tickets.issue(&caller(now), &stream, now).await.unwrap().ticket;
    let revoked = tickets.issue(&other, &stream, now).await.unwrap().ticket;
    let over = tickets.issue(&caller(now), &short, now - HOUR).await.unwrap().ticket;
    let once = request(TicketKind::Once, None);
    let once = tickets.issue(&caller(now), &once, now).await.unwrap().ticket;
    revocations.revoke("v", None, now.into()).await.unwrap();
    drop((tickets, revocations));
    broker.close().await;

    let broker = Broker::open(directory.path(), &OpenConfig::default()).unwrap();
    let (tickets, _revocations) = open(&broker).await;
    let proved = tickets.redeem(&kept, TicketUse::Read, now).unwrap();
    let permitted = Permitted::Patterns(patterns(&["orders.*"]));
    assert_eq!(proved.permission.of(Action::Subscribe), &permitted);
    assert_eq!(proved.expires, Some(Timestamp::from(now + HOUR).into()));
    for (gone, purpose) in
        [(&revoked, TicketUse::Read), (&over, TicketUse::Read), (&once, TicketUse::WebSocket)]
    {
        assert!(tickets.redeem(gone, purpose, now).is_err());
    }
    broker.close().await;
    let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut searched = 0;
    for file in files.filter(|path| path.is_file()) {
        let bytes = std::fs::read(&file).unwrap();
        searched += bytes.len();
        let holds = |text: &str| bytes.windows(text.len()).any(|it| it == text.as_bytes());
        assert!(!holds(TICKET_PREFIX), "{}", file.display());
    }
    assert!(searched > 0);
}

/// Goal: each node of a fleet knows the tickets for streams and the revocations, and a ticket for
/// one use, which any node has made, is used once, by whichever of two nodes is the first.
#[cfg(feature = "fleet")]
#[tokio::test]
async fn all_nodes_of_a_fleet_have_the_same_tickets() {
    use crate::testing::{START, until};

    let fleet = crate::testing::fleet::TestFleet::new(2, &crate::testing::Clock::following(START));
    fleet.connect();
    let nodes = [open(fleet.broker(0)).await, open(fleet.broker(1)).await];
    let now = SystemTime::now();
    for leader in [0, 1] {
        fleet.lead(leader).await;
        // A caller with a newer credential than those that are revoked.
        let now = now + Duration::from_secs(10 * leader as u64);
        let stream = request(TicketKind::Stream, Some(&["news"]));
        let stream = nodes[leader].0.issue(&caller(now), &stream, now).await.unwrap().ticket;
        for (tickets, _) in &nodes {
            let is_known = || tickets.redeem(&stream, TicketUse::Read, now).is_ok();
            until("each node knows it", is_known).await;
        }
        for (round, made_by) in [0, 1, 0, 1].into_iter().enumerate() {
            let once = request(TicketKind::Once, None);
            let once = nodes[made_by].0.issue(&caller(now), &once, now).await.unwrap().ticket;
            let redeem = async |node: usize| {
                let tickets = &nodes[node].0;
                tickets.fetch(&once, TicketUse::WebSocket, now).await;
                tickets.redeem(&once, TicketUse::WebSocket, now).is_ok()
            };
            let first = round % 2;
            let used = tokio::join!(redeem(first), redeem(1 - first));
            assert!(used.0 ^ used.1, "it is used once: {used:?}");
            assert!(!redeem(0).await && !redeem(1).await);
        }
        let later = now + Duration::from_secs(1);
        nodes[leader].1.revoke("u", None, later.into()).await.unwrap();
        for (tickets, revocations) in &nodes {
            let is_revoked = || revocations.is_revoked("u", Some(now));
            until("each node knows that the caller is revoked", is_revoked).await;
            assert!(tickets.redeem(&stream, TicketUse::Read, now).is_err());
        }
    }
    fleet.close().await;
}

/// Goal: a ticket for one use lives as long as it may, and no longer, whatever the clocks of the
/// node that made it and of the leader say; and it is used once.
#[cfg(feature = "fleet")]
#[tokio::test]
async fn a_ticket_for_one_use_lives_as_long_on_nodes_whose_clocks_are_an_hour_apart() {
    use crate::testing::START;

    let fleet = crate::testing::fleet::TestFleet::new(2, &crate::testing::Clock::following(START));
    fleet.connect();
    let nodes = [open(fleet.broker(0)).await, open(fleet.broker(1)).await];
    fleet.lead(0).await;
    let now = SystemTime::now();
    for there in [now - HOUR, now + HOUR] {
        let once = request(TicketKind::Once, None);
        let made = async || nodes[1].0.issue(&caller(there), &once, there).await.unwrap().ticket;
        let ticket = made().await;
        for is_good in [true, false] {
            nodes[1].0.fetch(&ticket, TicketUse::WebSocket, there).await;
            let redeemed = nodes[1].0.redeem(&ticket, TicketUse::WebSocket, there);
            assert_eq!(redeemed.is_ok(), is_good);
        }
        let ticket = hash_of(&made().await);
        let over = SystemTime::now() + Duration::from_secs(31);
        assert!(nodes[0].0.0.table().take(&ticket, over, |_| true).is_none());
    }
    fleet.close().await;
}

/// Goal: a ticket for streams is good on a node that has not applied it yet, however many bring
/// tickets at the same time that nobody has made; and questions to the leader have their turns in
/// order, for a bounded time.
#[cfg(feature = "fleet")]
#[tokio::test]
async fn a_node_that_is_behind_waits_for_the_tickets_that_are_stored() {
    use crate::testing::fleet::TestFleet;
    use crate::testing::{Clock, START};

    let fleet = TestFleet::new(2, &Clock::following(START));
    fleet.connect();
    let nodes = [open(fleet.broker(0)).await, open(fleet.broker(1)).await];
    fleet.lead(0).await;
    let now = SystemTime::now();
    fleet.hold(1, true);
    let stream = request(TicketKind::Stream, Some(&["news"]));
    let ticket = nodes[0].0.issue(&caller(now), &stream, now).await.unwrap().ticket;
    let tickets = &nodes[1].0;
    assert!(tickets.redeem(&ticket, TicketUse::Read, now).is_err(), "it is not there yet");
    let going_on = async {
        tokio::task::yield_now().await;
        fleet.hold(1, false);
    };
    let unknown: Vec<String> = (0..4 * MAX_QUESTIONS).map(|it| format!("lot_{it}")).collect();
    let all_unknown =
        |purpose| join_all(unknown.iter().map(move |it| tickets.fetch(it, purpose, now)));
    let known = tickets.fetch(&ticket, TicketUse::Read, now);
    tokio::join!(all_unknown(TicketUse::Read), known, going_on);
    assert!(tickets.redeem(&ticket, TicketUse::Read, now).is_ok());

    let once = request(TicketKind::Once, None);
    let once = nodes[0].0.issue(&caller(now), &once, now).await.unwrap().ticket;
    let known = tickets.fetch(&once, TicketUse::WebSocket, now);
    tokio::join!(all_unknown(TicketUse::WebSocket), known);
    assert!(tickets.redeem(&once, TicketUse::WebSocket, now).is_ok());

    let busy = tickets.0.taking.try_acquire_many(MAX_QUESTIONS as u32).unwrap();
    let kept = request(TicketKind::Once, None);
    tickets.issue(&caller(now), &kept, now).await.expect("tickets are made all the same");
    let question = TicketQuestion::take(&hash_of("x"));
    let asking = async || tickets.0.ask_leader(&question).await;
    timeout(Duration::from_millis(100), asking()).await.expect_err("it waits for its turn");
    let release = async {
        tokio::task::yield_now().await;
        drop(busy);
    };
    let (answered, ()) = tokio::join!(asking(), release);
    answered.unwrap();
    fleet.close().await;
}
