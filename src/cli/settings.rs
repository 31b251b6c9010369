//! The settings of the broker, as commands that open it read them.

use std::path::Path;

use leftoff::config::Config;

use super::failure::{CliError, CliResult, ExitReason};

/// The settings of the broker, from a file, the environment and `flags`.
pub(super) fn load(file: Option<&Path>, flags: &[(String, String)]) -> CliResult<Config> {
    Config::load(file, flags)
        .map_err(|problem| CliError::new(ExitReason::Refused, format!("configuration: {problem}")))
}
