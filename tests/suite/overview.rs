//! The overview of a running broker, the table of its topics, and the console's first pages.

use std::time::{Duration, Instant};

use leftoff::config::Config;
use serde_json::{Value, json};

use crate::common::{Process, Server, Sse, get, post, send, soon, text, to};

/// A request that archives the first event of a topic.
const MARK: &str = r#"{"mark":["archived"],"events":[1]}"#;

async fn overview(server: &Server) -> Value {
    let answer = get(server.address, "/v1/overview").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Goal: the overview tells what is there, and counts the connections that read by their protocol.
#[tokio::test]
async fn the_overview_tells_what_is_there_and_who_reads_it() {
    let server = Server::start().await;
    let before = overview(&server).await;
    for field in ["version", "started", "now", "epoch"] {
        assert!(before[field].is_string(), "{field}: {before}");
    }
    assert_eq!((&before["role"], &before["log"]["writes"]), (&json!("single"), &json!("accepted")));
    assert!(before["log"]["size_bytes"].as_u64() > Some(0), "{before}");
    assert_eq!(before["history"]["step_ms"], 5_000);
    assert_eq!(before["problems"], json!([]), "{before}");
    server.publish("a", "1").await;
    server.publish("a", "2").await;
    let mut stream = Sse::follow(server.address, "a", "?from=earliest").await;
    soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    let now = overview(&server).await;
    let grown = |field: &str| now[field].as_u64().unwrap() - before[field].as_u64().unwrap();
    assert_eq!((grown("topics"), grown("last_position")), (1, 2), "{now}");
    let reading = json!({"sse": 1, "websocket": 0, "grpc": 0, "follow": 0, "poll": 0});
    assert_eq!(now["connections"]["by_protocol"], reading, "{now}");
    assert!(now["connections"]["count"].as_u64() >= Some(1), "{now}");
    drop(stream);
    soon(async {
        while overview(&server).await["connections"]["by_protocol"]["sse"] != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.stop().await;
}

/// Goal: gaps that a reader was told are a problem of the overview, with their number.
#[tokio::test]
async fn what_went_wrong_is_told_in_words_with_its_number() {
    let server = Server::start().await;
    let before = overview(&server).await;
    // The first sample is taken when the server begins.
    soon(async {
        while overview(&server).await["history"]["connections"].is_null() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for data in ["1", "2", "3"] {
        server.publish("a", data).await;
    }
    let purged = send(to(server.address, "DELETE", "/v1/topics/a/events?before=3"), "").await;
    assert_eq!(purged.status, 200, "{purged:?}");
    let mut stream = Sse::follow(server.address, "a", "?from=1").await;
    soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    let problems = overview(&server).await["problems"].clone();
    assert_eq!(problems[0]["kind"], "gaps_told", "{problems}");
    assert_eq!((&problems[0]["severity"], &problems[0]["count"]), (&json!("warning"), &json!(1)));
    let words = problems[0]["text"].as_str().unwrap();
    assert!(words.starts_with("1 gap was told to readers in the last 15 minutes."), "{words}");
    for time in ["since", "last"] {
        assert!(problems[0][time].as_str() > before["now"].as_str(), "{time}: {problems}");
    }
    server.stop().await;
}

/// Has a worker fail at each event of `orders` at once, which makes dead letters of them.
async fn fail_all(server: &Server, dead_letter: &str, events: usize) {
    let consumer = "/v1/consumers/mailers";
    let settings = json!({"shared": {"max_tries": 1, "dead_letter": dead_letter}});
    let path = format!("{consumer}?topic=orders&shared=true");
    let made = send(to(server.address, "PUT", &path), settings.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    for number in 0..events {
        server.publish("orders", number.to_string()).await;
    }
    let pull = json!({"worker": "w", "limit": events, "wait_ms": 1_000}).to_string();
    let path = format!("{consumer}/pull?topic=orders");
    let pulled = post(server.address, &path, pull).await.json();
    let leases = pulled["leases"].as_array().unwrap();
    assert_eq!(leases.len(), events, "{pulled}");
    let nack = |leased: &Value| json!({"lease": leased["lease"], "reason": "no address"});
    let nacks: Vec<Value> = leases.iter().map(nack).collect();
    let path = format!("{consumer}/settle?topic=orders");
    let settled = post(server.address, &path, json!({ "nack": nacks }).to_string()).await;
    assert_eq!(settled.status, 200, "{settled:?}");
}

/// Waits until the overview tells that so many dead letters wait; returns the problem.
async fn until_letters_wait(server: &Server, count: u64) -> Value {
    soon(async {
        loop {
            let problems = overview(server).await["problems"].clone();
            let letters = problems.as_array().unwrap().iter();
            let mut letters = letters.filter(|problem| problem["kind"] == "dead_letters");
            let letters = letters.next().cloned().unwrap_or_default();
            if letters["count"].as_u64().unwrap_or(0) == count {
                return letters;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// Goal: dead letters are a problem until each of them was handled: archived for the operator, or
/// finished by workers of their topic, or dropped with it.
#[tokio::test]
async fn dead_letters_are_a_problem_until_somebody_has_handled_them() {
    let server = Server::start().await;
    let begun = overview(&server).await["now"].clone();
    fail_all(&server, "orders.dead", 4).await;
    let told = until_letters_wait(&server, 4).await;
    assert_eq!((&told["severity"], &told["topic"]), (&json!("warning"), &json!("orders.dead")));
    let words = told["text"].as_str().unwrap();
    assert!(words.starts_with("4 dead letters wait for somebody in orders.dead."), "{words}");
    let first = get(server.address, "/v1/topics/orders.dead/events?limit=1").await.json();
    assert_eq!(told["since"], first["events"][0]["time"], "{told}");
    assert!(told["since"].as_str() >= begun.as_str() && told["last"].is_null(), "{told}");
    // The console marks them so.
    let path = "/v1/consumers/console/marks?owner=&topic=orders.dead";
    let marks = |events: &[u64]| json!({"mark": ["archived"], "events": events}).to_string();
    assert_eq!(post(server.address, path, marks(&[1])).await.status, 200);
    let told = until_letters_wait(&server, 3).await;
    let second = get(server.address, "/v1/topics/orders.dead/events?after=1&limit=1").await.json();
    assert_eq!(told["since"], second["events"][0]["time"], "the oldest that waits: {told}");
    // Workers of the topic finish them all.
    let path = "/v1/consumers/menders?topic=orders.dead&shared=true";
    assert_eq!(send(to(server.address, "PUT", path), r#"{"shared":{}}"#).await.status, 201);
    let pull = json!({"worker": "w", "limit": 4, "wait_ms": 1_000}).to_string();
    let path = "/v1/consumers/menders/pull?topic=orders.dead";
    let pulled = post(server.address, path, pull).await.json();
    let leases = pulled["leases"].as_array().unwrap().iter();
    let leases: Vec<&Value> = leases.map(|leased| &leased["lease"]).take(3).collect();
    let path = "/v1/consumers/menders/settle?topic=orders.dead";
    let settled = post(server.address, path, json!({ "ack": leases }).to_string()).await;
    assert_eq!(settled.status, 200, "{settled:?}");
    until_letters_wait(&server, 1).await;
    // Or nobody wants them.
    let path = "/v1/topics/orders.dead/events?before=5";
    assert_eq!(send(to(server.address, "DELETE", path), "").await.status, 200);
    until_letters_wait(&server, 0).await;
    server.stop().await;
}

/// Goal: the table of topics has what each topic holds, and what its slowest reader lacks; it is
/// searched, sorted and cut by the broker.
#[tokio::test]
async fn the_table_of_topics_is_searched_sorted_and_cut() {
    let server = Server::start().await;
    for topic in ["orders.new", "orders.old", "other"] {
        server.publish(topic, "1").await;
    }
    server.publish("orders.old", "2").await;
    let mut stream = Sse::follow(server.address, "orders.old", "?from=earliest").await;
    soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    let shown = async |query: &str| {
        let answer = get(server.address, &format!("/v1/overview/topics{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let table = shown("?sort=followers&prefix=orders.&limit=1").await;
    assert_eq!((&table["matching"], &table["total"]), (&json!(2), &json!(3)), "{table}");
    let [row] = &table["topics"].as_array().unwrap()[..] else { panic!("{table}") };
    assert_eq!((&row["name"], &row["events"]), (&json!("orders.old"), &json!(2)), "{row}");
    assert_eq!((&row["followers"], &row["lag"], &row["tail"]), (&json!(1), &json!(0), &json!(3)));
    assert_eq!(row["rate"], Value::Null, "{row}");
    let rest = shown("?contains=er&offset=2").await;
    assert_eq!(rest["topics"][0]["name"], "other", "{rest}");
    assert_eq!(rest["matching"], 3, "{rest}");
    for (query, words) in [
        ("?limit=201", "201 is over the limit of 200"),
        ("?sort=age", "name, rate, size, followers, lag, newest"),
        ("?order=name", "sort, prefix, contains, offset, limit"),
    ] {
        let refused = get(server.address, &format!("/v1/overview/topics{query}")).await;
        assert!(refused.status.is_client_error(), "{refused:?}");
        assert!(text(&refused.body).contains(words), "{query}: {refused:?}");
    }
    server.stop().await;
}

/// Goal: a topic's lag is that of its slowest reader, also of a consumer that is not connected; and
/// the consumers of a topic are told whosever they are, the slowest one first.
#[tokio::test]
async fn a_consumer_that_is_behind_is_in_the_lag_of_its_topic() {
    let server = Server::start().await;
    for number in 0..10 {
        server.publish("orders", number.to_string()).await;
    }
    let mut stream = Sse::follow(server.address, "orders", "?from=earliest").await;
    soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    for (query, cursor) in [
        ("/v1/consumers/fast/checkpoint?topic=orders", "9"),
        ("/v1/consumers/slow/checkpoint?topic=orders&owner=ann", "3"),
        ("/v1/consumers/all/checkpoint?topic=%3E", "@1"),
    ] {
        let body = json!({ "cursor": cursor }).to_string();
        let set = post(server.address, query, body).await;
        assert_eq!(set.status, 200, "{query}: {set:?}");
    }
    let marked = post(server.address, "/v1/consumers/new/marks?topic=orders", MARK).await;
    assert_eq!(marked.status, 200, "{marked:?}");
    let lag = async || {
        let rows = get(server.address, "/v1/overview/topics?prefix=orders").await.json();
        rows["topics"][0]["lag"].clone()
    };
    soon(async { while lag().await != 7 {} }).await;
    let readers = async |query: &str| {
        let path = format!("/v1/overview/consumers?topic=orders{query}");
        let answer = get(server.address, &path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.json();
        let all = told["consumers"].as_array().unwrap().iter();
        let all = all.map(|it| (it["consumer"].clone(), it["lag"].clone(), it["owner"].clone()));
        assert_eq!(told["dead_letters"], false, "{told}");
        (told["matching"].clone(), all.collect::<Vec<_>>())
    };
    let null = Value::Null;
    let slow = (json!("slow"), json!(7), json!("ann"));
    let expected = vec![
        slow.clone(),
        (json!("fast"), json!(1), null.clone()),
        (json!("all"), null.clone(), null.clone()),
        (json!("new"), null.clone(), null),
    ];
    assert_eq!(readers("").await, (json!(4), expected));
    assert_eq!(readers("&limit=1").await, (json!(4), vec![slow]));
    assert_eq!(readers("&offset=4").await, (json!(4), vec![]));
    // What is gone cannot be read any more, and is no lag.
    let path = "/v1/topics/orders/events?before=8";
    assert_eq!(send(to(server.address, "DELETE", path), "").await.status, 200);
    soon(async { while lag().await != 3 {} }).await;
    let wrong = [("", "topic: is missing"), ("?topic=a.*", "a.*"), ("?topic=a&x=1", "x")];
    for (query, words) in wrong {
        let refused = get(server.address, &format!("/v1/overview/consumers{query}")).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(text(&refused.body).contains(words), "{query}: {refused:?}");
    }
    server.stop().await;
}

/// Goal: with many topics a look at the table stays small, and holds no worker for long.
#[tokio::test]
async fn a_look_at_many_topics_is_small_and_holds_no_worker() {
    const TOPICS: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    // A process of its own: the polls of others are not counted.
    let mut process = Process::serve(directory.path(), &[]);
    process.until_ready().await;
    let address = process.address;
    for part in (0..TOPICS).collect::<Vec<_>>().chunks(1_000) {
        let topics: Vec<String> = part.iter().map(|number| format!("sensors.s{number}")).collect();
        let body = json!({"topics": topics, "event": {"data": "1"}}).to_string();
        let request = to(address, "POST", "/v1/publish");
        let made = send(request.header("content-type", "application/json"), body).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    let long_polls = async || {
        let metrics = get(address, "/metrics").await;
        let told = text(&metrics.body);
        let lines = told.lines().filter(|line| line.starts_with("leftoff_long_polls_total"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = long_polls().await;
    for query in ["sort=name", "sort=rate", "sort=lag&contains=s19", "sort=newest&offset=19900"] {
        let path = format!("/v1/overview/topics?{query}&limit=100");
        let begun = Instant::now();
        let answer = get(address, &path).await;
        let took = begun.elapsed();
        assert_eq!(answer.status, 200, "{answer:?}");
        let table = answer.json();
        assert!(table["total"].as_u64() >= Some(TOPICS as u64), "{query}");
        assert!(table["topics"].as_array().unwrap().len() <= 100, "{query}");
        assert!(answer.body.len() < 32 << 10, "{query}: {} bytes", answer.body.len());
        println!("{query}: {} bytes, {took:?}", answer.body.len());
    }
    assert_eq!(long_polls().await, before, "a worker was held for over 10 ms");
    process.kill();
}

/// Goal: a browser is led to the console, whose files are all served; without the setting there is
/// neither.
#[tokio::test]
async fn a_browser_is_led_to_the_console_unless_the_setting_says_no() {
    let server = Server::start().await;
    let led = send(to(server.address, "GET", "/").header("accept", "text/html"), "").await;
    assert_eq!((led.status.as_u16(), led.header("location")), (303, "console"));
    let told = get(server.address, "/").await;
    assert!(text(&told.body).starts_with("Leftoff "), "{told:?}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/console");
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let path = match name {
            "index.html" => "/console".to_owned(),
            name => format!("/console/{name}"),
        };
        let answer = get(server.address, &path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.body, std::fs::read(&file).unwrap(), "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'self';"));
    }
    server.stop().await;
    let mut config = Config::default();
    config.server.console = false;
    let server = Server::with(config).await;
    for path in ["/", "/console", "/console/main.js"] {
        assert_eq!(get(server.address, path).await.status, 404, "{path}");
    }
    assert_eq!(post(server.address, "/v1/topics/a/events", "1").await.status, 201);
    server.stop().await;
}

/// Goal: settings are told with what they would drop before they are saved, and change nothing.
#[tokio::test]
async fn settings_that_are_only_tried_tell_what_they_would_drop_and_change_nothing() {
    let server = Server::start().await;
    for number in 0..10 {
        server.publish("a", number.to_string()).await; // Each is a block of its own.
    }
    let before = get(server.address, "/v1/topics/a").await.json();
    let tried = async |method: &str, topic: &str, settings: &str| {
        let path = format!("/v1/topics/{topic}?dry_run=true");
        send(to(server.address, method, &path), settings.to_owned()).await
    };
    for method in ["PUT", "PATCH"] {
        let told = tried(method, "a", r#"{"max_events": 4}"#).await;
        assert_eq!(told.status, 200, "{told:?}");
        let told = told.json();
        assert_eq!(told["would_drop"]["events"], 6, "{told}");
        assert!(told["would_drop"]["bytes"].as_u64() > Some(0), "{told}");
        assert_eq!(told["effective_config"]["max_events"], 4, "{told}");
        assert_eq!(told["compacts"], false, "{told}");
    }
    let told = tried("PATCH", "a", r#"{"compact": true}"#).await.json();
    assert_eq!((&told["would_drop"]["events"], &told["compacts"]), (&json!(0), &json!(true)));
    assert_eq!(get(server.address, "/v1/topics/a").await.json(), before);
    assert_eq!(tried("PUT", "new", "{}").await.status, 200);
    assert_eq!(tried("PATCH", "new", "{}").await.status, 404);
    assert_eq!(get(server.address, "/v1/topics/new").await.status, 404, "nothing is created");
    assert_eq!(tried("PUT", "a", r#"{"max_events_per_key": 0}"#).await.status, 400);
    // What was told is what is dropped.
    let set = send(to(server.address, "PATCH", "/v1/topics/a"), r#"{"max_events": 4}"#).await;
    assert_eq!(set.status, 200, "{set:?}");
    assert_eq!(post(server.address, "/v1/maintenance?topic=a", "").await.status, 200);
    assert_eq!(get(server.address, "/v1/topics/a").await.json()["events"], 4);
    server.stop().await;
}

/// Goal: an administrator ends a connection, which is not listed any more.
#[tokio::test]
async fn a_connection_is_ended_by_its_id() {
    let mut config = Config::default();
    config.follow.list_connections = true;
    let server = Server::with(config).await;
    let mut stream = Sse::follow(server.address, "a", "").await;
    soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    let listed = get(server.address, "/v1/connections").await.json();
    let connections = listed["connections"].as_array().unwrap();
    let reads = |connection: &&Value| connection["streams"] != json!([]);
    let id = connections.iter().find(reads).unwrap()["id"].clone();
    let path = format!("/v1/connections/{id}");
    let ended = send(to(server.address, "DELETE", &path), "").await;
    assert_eq!(ended.status, 204, "{ended:?}");
    soon(async { while stream.next().await.is_some() {} }).await;
    soon(async {
        while send(to(server.address, "DELETE", &path), "").await.status != 404 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let wrong = send(to(server.address, "DELETE", "/v1/connections/x"), "").await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    server.stop().await;
}
