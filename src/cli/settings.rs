//! The loading of the broker's settings, for the commands that read them: `serve` and `check`.
//!
//! No setting is defined here. `src/config.rs` nests the settings of all layers, loads and
//! validates them, and says in its header where a new one goes.

use std::path::Path;

use leftoff::config::Config;

use super::failure::{CliError, CliResult, ExitReason};

/// Loads the broker's settings from `file`, the environment and `flags`; the later wins.
pub(super) fn load(file: Option<&Path>, flags: &[(String, String)]) -> CliResult<Config> {
    Config::load(file, flags)
        .map_err(|problem| CliError::new(ExitReason::Refused, format!("configuration: {problem}")))
}
