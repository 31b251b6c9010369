//! The overview of a running broker, the table of its topics, and the console's first pages.

use leftoff::config::Config;
use serde_json::{Value, json};

use crate::common::{Server, Sse, get, post, send, soon, text, to};

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
