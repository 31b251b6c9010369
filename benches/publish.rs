//! How many events per second does the broker acknowledge durably, with clients and broker on the
//! same machine? The real binary is measured with its own `bench publish`, in the shapes that
//! matter: few streams with large requests, many streams with one event in flight, and calls with
//! one event.
//! `cargo bench --bench publish` measures, and `cargo test --benches` runs it tiny.
//!
//! A machine's speed changes from minute to minute, so the shapes take turns, and medians are
//! reported.

mod served;

use std::process::Command;

use serde_json::Value;
use served::Served;

struct Shape {
    name: &'static str,
    arguments: &'static [&'static str],
    /// The target, in events per second.
    target: f64,
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "8 streams x 100 events",
        arguments: &["--clients", "8", "--batch", "100"],
        target: 250_000.0,
    },
    Shape {
        name: "8 streams x 100 events, 1 in flight",
        arguments: &["--clients", "8", "--batch", "100", "--in-flight", "1"],
        target: 250_000.0,
    },
    Shape {
        name: "64 streams x 1 event, 1 in flight",
        arguments: &["--clients", "64", "--batch", "1", "--in-flight", "1"],
        target: 20_000.0,
    },
    Shape {
        name: "unary, 64 clients, 64 connections",
        arguments: &["--clients", "64", "--batch", "1", "--unary"],
        target: 8_000.0,
    },
    Shape {
        name: "unary, 64 clients, 4 connections",
        arguments: &["--clients", "64", "--batch", "1", "--unary", "--connections", "4"],
        target: 11_000.0,
    },
];

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let (rounds, seconds, shapes) = if measuring { (5, "4", 5) } else { (1, "1", 1) };
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let served = Served::start(&directory.path().join("data"));
    let mut measured: Vec<Vec<Value>> = SHAPES.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (shape, results) in SHAPES.iter().zip(&mut measured).take(shapes) {
            results.push(measure(&served, shape, seconds));
        }
    }
    for (shape, results) in SHAPES.iter().zip(&measured).take(shapes) {
        let median = |key: &str| median(results.iter().map(|run| run[key].as_f64()));
        println!(
            "publish {:<36} {:>9.0} events/s (target {:>7.0}), {:>6.1} MB/s, \
             p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, of a plain file {:.2}",
            shape.name,
            median("events_per_second"),
            shape.target,
            median("megabytes_per_second"),
            median("p50_ms"),
            median("p99_ms"),
            median("p99_9_ms"),
            median("ratio_to_plain_file"),
        );
    }
    println!("publish peak memory {:.0} MB (target 400)", served.peak_memory_mb());
}

fn measure(served: &Served, shape: &Shape, seconds: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_leftoff"))
        .args(["bench", "publish", "--size", "256", "--json", "--seconds", seconds])
        .args(["--server", &format!("http://{}", served.address)])
        .args(shape.arguments)
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Value = serde_json::from_slice(&output.stdout).expect("one object of JSON");
    assert!(measured["events"].as_u64() > Some(0), "no event was published");
    measured
}

fn median(values: impl Iterator<Item = Option<f64>>) -> f64 {
    let mut values: Vec<f64> = values.flatten().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
