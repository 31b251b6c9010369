//! The credential of the client commands: read from a file or from the environment. It is never an
//! argument, which other users of the machine can see, and never printed.

use std::path::{Path, PathBuf};
use std::sync::Once;

use clap::Args;
use leftoff::client::{ClientError, Credential, CredentialSource};

use super::diagnostics::say;
use super::failure::{CliError, CliResult, ExitReason};

/// The variable with a token or a key.
const VARIABLE: &str = "LEFTOFF_TOKEN";

/// The options that name the credential of a client command.
#[derive(Debug, Clone, Args)]
pub(super) struct CredentialArgs {
    /// A file with a token (JWT), which is sent with each call [default: the variable
    /// LEFTOFF_TOKEN]
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    token_file: Option<PathBuf>,
    /// A file with a static key, which is sent with each call
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl CredentialArgs {
    /// Returns the origin of the credential. A file counts before the variable, and is read anew
    /// with each connection.
    ///
    /// # Errors
    ///
    /// The value of the variable `LEFTOFF_TOKEN` cannot be a credential.
    pub(super) fn source(&self) -> CliResult<CredentialSource> {
        if let Some((_, file)) = self.file() {
            return Ok(CredentialSource::File(file.to_owned()));
        }
        match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            Some(value) => {
                let credential = Credential::parse(value.as_encoded_bytes());
                Ok(credential.map_err(|error| self.in_words(error))?.into())
            }
            None => Ok(CredentialSource::None),
        }
    }

    /// Reads the credential.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or what is there cannot be a credential.
    pub(super) async fn read(&self) -> CliResult<Credential> {
        self.source()?.read().await.map_err(|error| self.in_words(error))
    }

    /// Returns the failure for a credential with this problem.
    pub(super) fn refused(&self, problem: &str) -> CliError {
        let origin = match self.file() {
            Some((option, file)) => format!("{option} {}", file.display()),
            None => VARIABLE.to_owned(),
        };
        CliError::new(ExitReason::Refused, format!("{origin}: {problem}"))
    }

    fn in_words(&self, error: ClientError) -> CliError {
        match error {
            ClientError::Credential(problem) => self.refused(&problem),
            error => self.refused(&error.to_string()),
        }
    }

    fn file(&self) -> Option<(&'static str, &Path)> {
        let of_files = [("--token-file", &self.token_file), ("--key-file", &self.key_file)];
        of_files.into_iter().find_map(|(option, file)| Some((option, file.as_deref()?)))
    }
}

/// Returns the lines of the head of a request of HTTP/1.1; none without a credential.
pub(super) fn head_lines(credential: &Credential) -> String {
    let value = credential.authorization();
    value.map(|value| format!("authorization: {value}\r\n")).unwrap_or_default()
}

/// Warns once if the credential goes to another machine without TLS.
pub(super) fn warn_if_exposed(credential: &Credential, server: &str) {
    static ONCE: Once = Once::new();
    if server.parse::<http::Uri>().is_ok_and(|server| credential.is_exposed(&server)) {
        ONCE.call_once(|| {
            say(format_args!(
                "warning: the credential goes to {server} without TLS: everybody on the way can \
                 read it and use it; write https://"
            ));
        });
    }
}
