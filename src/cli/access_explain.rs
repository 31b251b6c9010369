//! `leftoff access explain`: whom a credential proves, what it permits with a topic, and why.

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use leftoff::TopicName;
use leftoff::access::{Presented, explain};

use super::failure::{CliError, CliResult, ExitReason};
use super::settings::load;

/// The longest file with a credential or with claims, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Says whom a credential proves by the broker's settings, what it permits with a topic, and why
///
/// Reads the settings, and asks no broker: revocations are not looked at. Without a credential, it
/// says what callers without one may do.
#[derive(Debug, Args)]
pub(super) struct ExplainCommand {
    /// The topic
    #[arg(long, value_name = "TOPIC")]
    topic: TopicName,
    /// The TOML file with the broker's settings
    #[arg(long, value_name = "FILE", env = "LEFTOFF_CONFIG")]
    config: Option<PathBuf>,
    /// A token (JWT); other users of the machine can see arguments, so prefer a file
    #[arg(long, value_name = "TOKEN", group = "credential")]
    token: Option<String>,
    /// A file with a token
    #[arg(long, value_name = "FILE", group = "credential")]
    token_file: Option<PathBuf>,
    /// A static key; other users of the machine can see arguments, so prefer a file
    #[arg(long, value_name = "KEY", group = "credential")]
    key: Option<String>,
    /// A file with a static key
    #[arg(long, value_name = "FILE", group = "credential")]
    key_file: Option<PathBuf>,
    /// A file with the claims of a token in JSON, as if an issuer had made a token of them
    #[arg(long, value_name = "FILE", group = "credential")]
    claims_file: Option<PathBuf>,
}

impl ExplainCommand {
    pub(super) async fn run(self) -> CliResult {
        let config = load(self.config.as_deref(), &[])?;
        let explained = explain(&config.access, &self.presented()?, &self.topic).await?;
        write!(std::io::stdout(), "{explained}")?;
        match explained.is_refused() {
            true => Err(CliError::new(ExitReason::Refused, "the caller is refused")),
            false => Ok(()),
        }
    }

    fn presented(&self) -> CliResult<Presented> {
        let trimmed = |file: &Path| read(file).map(|text| text.trim().to_owned());
        Ok(match self {
            Self { token: Some(token), .. } => Presented::Token(token.trim().to_owned()),
            Self { token_file: Some(file), .. } => Presented::Token(trimmed(file)?),
            Self { key: Some(key), .. } => Presented::Key(key.trim().to_owned()),
            Self { key_file: Some(file), .. } => Presented::Key(trimmed(file)?),
            Self { claims_file: Some(file), .. } => Presented::Claims(read(file)?),
            _ => Presented::Nothing,
        })
    }
}

/// Reads a file up to the limit.
fn read(file: &Path) -> CliResult<String> {
    let failed = |problem: String| {
        CliError::new(ExitReason::Other, format!("{}: {problem}", file.display()))
    };
    let opened = std::fs::File::open(file).map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    let read = opened.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(failed(format!("is over the limit of {MAX_BYTES} bytes")));
    }
    Ok(text)
}
