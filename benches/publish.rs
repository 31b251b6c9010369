//! How many events per second does the broker acknowledge durably, with clients and broker on the
//! same machine? The real binary is measured with its own `bench publish`, in the shapes that
//! matter: few streams with large requests, many streams with one event in flight, and calls with
//! one event. Then the same with access control, by a key and by a token.
//! `cargo bench --bench publish` measures, and `cargo test --benches` runs it tiny.
//!
//! A machine's speed changes from minute to minute, so the shapes take turns, and medians are
//! reported.

mod controlled;
mod served;

use std::path::Path;
use std::process::Command;

use controlled::Controlled;
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

/// The least part of the open broker's rate that is left with access control.
const LEAST_RATIO: f64 = 0.95;

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let (rounds, seconds, shapes) = if measuring { (5, "4", 5) } else { (1, "1", 1) };
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let served = Served::start(&directory.path().join("data"));
    let controlled = directory.path().join("controlled");
    std::fs::create_dir(&controlled).expect("a directory");
    let controlled = Controlled::start(&controlled);
    let file = |path: &Path| Some(path.to_str().expect("a path in UTF-8").to_owned());
    let callers = [
        ("open", &served, None),
        ("by a key", &controlled.served, file(&controlled.key_file)),
        ("by a token", &controlled.served, file(&controlled.token_file)),
    ];
    let mut measured = vec![vec![Vec::<Value>::new(); callers.len()]; SHAPES.len()];
    for _ in 0..rounds {
        for (shape, of_shape) in SHAPES.iter().zip(&mut measured).take(shapes) {
            for ((_, served, credential), results) in callers.iter().zip(of_shape) {
                results.push(measure(served, shape, seconds, credential.as_deref()));
            }
        }
    }
    for (shape, of_shape) in SHAPES.iter().zip(&measured).take(shapes) {
        let results = &of_shape[0];
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
        for ((caller, ..), controlled) in callers.iter().zip(of_shape).skip(1) {
            // Each run has a partner at almost the same time.
            let rate = |run: &Value| run["events_per_second"].as_f64();
            let pairs = controlled.iter().zip(results);
            let ratio = self::median(pairs.map(|(one, open)| Some(rate(one)? / rate(open)?)));
            println!(
                "publish {:<36} {ratio:.3} of the open broker's rate {caller} (target {})",
                shape.name, LEAST_RATIO
            );
        }
    }
    println!("publish peak memory {:.0} MB (target 400)", served.peak_memory_mb());
}

fn measure(served: &Served, shape: &Shape, seconds: &str, credential: Option<&str>) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_leftoff"))
        .args(["bench", "publish", "--size", "256", "--json", "--seconds", seconds])
        .args(["--server", &format!("http://{}", served.address)])
        .args(shape.arguments)
        .args(credential.iter().flat_map(|file| ["--token-file", file]))
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
