//! `leftoff cluster check`: what of the engine of a fleet is unsafe.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use leftoff::cluster::nats::{EngineFinding, FindingGrade, NatsStream};

use super::failure::{CliError, CliResult, ExitReason};
use super::fleet::of_stream;
use super::settings::load;

/// Says what of the fleet's engine is unsafe, and what that means for acknowledged events
///
/// Connects to NATS by the settings of the broker, and creates the stream of the fleet if it is not
/// there, as a node does. The exit code is 3 if acknowledged events may be lost when one machine or
/// disk is.
#[derive(Debug, Args)]
pub(super) struct ClusterCheck {
    /// The servers of NATS, like `nats://a:4222,nats://b:4222` [default: those in the settings]
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    fleet: Vec<String>,
    /// The name of the fleet [default: the one in the settings]
    #[arg(long, value_name = "NAME")]
    fleet_name: Option<String>,
    /// The TOML file with the broker's settings
    #[arg(long, value_name = "FILE", env = "LEFTOFF_CONFIG")]
    config: Option<PathBuf>,
}

impl ClusterCheck {
    pub(super) async fn run(self) -> CliResult {
        let mut flags = Vec::new();
        if !self.fleet.is_empty() {
            flags.push(("fleet.servers".to_owned(), format!("{:?}", self.fleet)));
        }
        flags.extend(self.fleet_name.map(|name| ("fleet.name".to_owned(), format!("{name:?}"))));
        let file = self.config.as_deref();
        let config = load(file, &flags).or_else(|_| {
            // The node itself does not matter here, and need not be named.
            let named = [("fleet.node", "\"check\""), ("fleet.advertise", "\"http://localhost\"")];
            flags.extend(named.map(|(name, value)| (name.to_owned(), value.to_owned())));
            load(file, &flags)
        })?;
        if config.fleet.is_alone() {
            let problem = "fleet.servers is empty: name the servers of NATS (--fleet)";
            return Err(CliError::new(ExitReason::Refused, problem));
        }
        let _secret_and_certificates_are_there = config.fleet.node_config()?;
        let stream = NatsStream::open(&config.fleet.nats_config()?, &config.fleet.name).await;
        let stream = stream.map_err(of_stream)?;
        let mut output = std::io::stdout().lock();
        for finding in stream.findings() {
            writeln!(output, "{}: {finding}", word(finding))?;
        }
        let is_unsafe = |finding: &&EngineFinding| finding.grade == FindingGrade::Unsafe;
        match stream.findings().iter().filter(is_unsafe).count() {
            0 => Ok(writeln!(output, "acknowledged events outlive one machine or disk")?),
            count => {
                let message = format!(
                    "acknowledged events may be lost when one machine or disk is: {count} unsafe"
                );
                Err(CliError::new(ExitReason::Damage, message))
            }
        }
    }
}

fn word(finding: &EngineFinding) -> &'static str {
    match finding.grade {
        FindingGrade::Unsafe => "unsafe",
        FindingGrade::Weak => "weak",
        FindingGrade::Note => "note",
    }
}
