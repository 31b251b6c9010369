//! A failing storage engine is reported: in answers, in the log, and with the remedy.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::common::{Process, get, leftoff, post, soon};

/// The limit on the size of files, in blocks of 512 bytes: 32 MiB.
const MAX_FILE_BLOCKS: u64 = 65_536;

/// The time in which a failure must be reported.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Starts a broker whose files cannot grow beyond [`MAX_FILE_BLOCKS`]. Returns it with the lines of
/// its log, and the time of each.
pub(crate) async fn serve(directory: &Path) -> (Process, mpsc::Receiver<(Instant, String)>) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let broker = leftoff();
    let script = format!("trap '' XFSZ; ulimit -f {MAX_FILE_BLOCKS}; exec \"$0\" \"$@\"");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &script])
        .arg(broker.get_program())
        .envs(broker.get_envs().filter_map(|(name, value)| value.map(|value| (name, value))));
    command.args(["serve", "--listen", &port.to_string(), "--data-dir"]).arg(directory);
    // The reserve of free space is a file of its own, as large as the limit.
    command.args(["--set", "log.min_free_bytes=67108864"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, receiver) = mpsc::sync_channel(1_024);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    let mut process = Process::adopt(child, port);
    process.until_ready().await;
    (process, receiver)
}

async fn readiness(address: SocketAddr) -> (u16, String) {
    let answer = get(address, "/readyz").await;
    (answer.status.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
}

/// Goal: as soon as the storage engine cannot write, readiness and the log report it with the
/// remedy, and acknowledged events can still be read.
/// Method: the system does not let the log's file grow, and the engine's own threads meet the
/// limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_engine_that_gives_up_is_told_within_a_second_and_names_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let (process, lines) = serve(directory.path()).await;
    let address = process.address;
    assert_eq!(readiness(address).await.0, 200);
    let mut acknowledged = 0;
    let failed = soon(async {
        loop {
            let answer = post(address, "/v1/topics/a/events", vec![b'x'; 200_000]).await;
            if !answer.status.is_success() {
                break answer;
            }
            acknowledged += 1;
        }
    })
    .await;
    let since = Instant::now();
    assert!(failed.status.is_server_error(), "{failed:?}");
    let (status, told) = readiness(address).await;
    assert!(status == 503 && told.contains("leftoff check --repair"), "{status}: {told}");
    assert!(since.elapsed() < TOLD_WITHIN, "ready for {:?}", since.elapsed());
    let refused = post(address, "/v1/topics/b/events", "small").await;
    assert_eq!(refused.status.as_u16(), 503, "{refused:?}");
    let (when, line) = loop {
        let (when, line) = lines.recv_timeout(Duration::from_secs(30)).unwrap();
        if line.contains("leftoff check --repair") {
            break (when, line);
        }
    };
    assert!(when < since + TOLD_WITHIN, "{:?} later: {line}", when - since);
    assert!(line.contains("nothing more is stored"), "{line}");
    let page = get(address, "/v1/topics/a/events?after=0&limit=1").await;
    assert!(page.status.is_success() && acknowledged > 0, "{page:?}");
    process.kill();

    // Without the limit, the broker opens the log with all acknowledged events.
    let path = directory.path().to_owned();
    let process = tokio::task::spawn_blocking(move || Process::serve(&path, &[])).await.unwrap();
    assert_eq!(readiness(process.address).await.0, 200);
    let topic = get(process.address, "/v1/topics/a").await.json();
    assert!(topic["tail"].as_u64().unwrap() > acknowledged, "{topic}");
    process.kill();
}
