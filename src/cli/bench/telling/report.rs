//! The printing of figures, each with its unit, and with its target if it has one.

use std::fmt;
use std::io::Write;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::cli::failure::CliResult;

/// The target of a figure.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli::bench) enum Goal {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::Below(limit) => value < limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<= {limit}"),
            Self::Below(limit) => write!(f, "< {limit}"),
            Self::AtLeast(limit) => write!(f, ">= {limit}"),
        }
    }
}

/// One measured value, or the reason for which there is none.
struct Figure {
    key: &'static str,
    label: &'static str,
    value: Result<f64, &'static str>,
    unit: &'static str,
    target: Option<Goal>,
}

/// All figures of a run, in the order in which they are printed.
#[derive(Default)]
pub(in crate::cli::bench) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure with its name in JSON and its label for people.
    pub(in crate::cli::bench) fn add(
        &mut self,
        key: &'static str,
        label: &'static str,
        value: Result<f64, &'static str>,
        unit: &'static str,
    ) {
        self.figures.push(Figure { key, label, value, unit, target: None });
    }

    /// Adds a figure as [`Self::add`] does, with a target.
    pub(in crate::cli::bench) fn add_with(
        &mut self,
        (key, label): (&'static str, &'static str),
        value: Result<f64, &'static str>,
        unit: &'static str,
        target: Option<Goal>,
    ) {
        self.figures.push(Figure { key, label, value, unit, target });
    }

    /// Prints the report: as one JSON object, or as one line for each figure.
    pub(in crate::cli::bench) fn print(&self, as_json: bool, settings: Value) -> CliResult {
        let mut output = std::io::stdout().lock();
        if as_json {
            writeln!(output, "{}", self.json(settings))?;
            return Ok(());
        }
        for Figure { label, value, unit, target, .. } in &self.figures {
            let line = match (value, target) {
                (Err(why), _) => format!("{label:<26} {:>12} ({why})", "not known"),
                (Ok(value), None) => format!("{label:<26} {:>12} {unit}", text(*value)),
                (Ok(value), Some(target)) => {
                    let verdict = if target.is_met(*value) { "met" } else { "MISSED" };
                    format!(
                        "{label:<26} {:>12} {unit:<12} target {target}, {verdict}",
                        text(*value)
                    )
                }
            };
            writeln!(output, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn json(&self, settings: Value) -> Value {
        let mut line = Map::new();
        let mut targets = Map::new();
        for Figure { key, value, target, .. } in &self.figures {
            line.insert((*key).to_owned(), json!(value.ok().map(number)));
            if let Some(target) = target {
                targets.insert((*key).to_owned(), json!(target.to_string()));
            }
        }
        line.insert("targets".to_owned(), Value::Object(targets));
        line.insert("settings".to_owned(), settings);
        Value::Object(line)
    }
}

/// Returns a whole number as an integer, any other with three decimals.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as i64) } else { json!((value * 1e3).round() / 1e3) }
}

/// Returns a whole or large number without decimals, any other with two.
fn text(value: f64) -> String {
    let decimals = if value.fract() == 0.0 || value.abs() >= 1_000.0 { 0 } else { 2 };
    format!("{value:.decimals$}")
}

/// Returns a quantile, in milliseconds, of latencies in microseconds; the reason if none were
/// measured.
pub(in crate::cli::bench) fn quantile_ms(
    latency_us: &Histogram<u64>,
    quantile: f64,
) -> Result<f64, &'static str> {
    match latency_us.len() {
        0 => Err("nothing was delivered"),
        _ => Ok(latency_us.value_at_quantile(quantile) as f64 / 1e3),
    }
}
