//! The failure of a command: an exit code for scripts, and a message for people.

/// The reason for a failure. Its number is the exit code, as in `leftoff --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitReason {
    /// Anything else.
    Other = 1,
    /// A check found damage, or an engine of a fleet that is unsafe.
    Damage = 3,
    /// The server cannot be reached, or ended the connection.
    Unreachable = 4,
    /// The server or a rule refused the input.
    Refused = 5,
    /// The reader of the output is gone, such as `head`; nobody is left to tell. The code is a
    /// shell's number for SIGPIPE.
    OutputClosed = 141,
    /// SIGINT ended the command. The code is a shell's number for the signal, as is the next one.
    Interrupted = 130,
    /// SIGTERM ended the command.
    Terminated = 143,
}

/// A failed command: its exit code and its message.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) failure: ExitReason,
    pub(super) message: String,
    /// Whether the message already names the lines of the input that it is about.
    pub(super) names_lines: bool,
}

impl CliError {
    pub(super) fn new(failure: ExitReason, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), names_lines: false }
    }
}

impl From<leftoff::Error> for CliError {
    fn from(error: leftoff::Error) -> Self {
        let failure = match &error {
            leftoff::Error::Damaged { .. } | leftoff::Error::DamagedLog { .. } => {
                ExitReason::Damage
            }
            leftoff::Error::Invalid { .. } | leftoff::Error::OverLimit { .. } => {
                ExitReason::Refused
            }
            _ => ExitReason::Other,
        };
        Self::new(failure, leftoff::error::with_causes(&error))
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        let failure = match error.kind() {
            std::io::ErrorKind::BrokenPipe => ExitReason::OutputClosed,
            _ => ExitReason::Other,
        };
        Self::new(failure, error.to_string())
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(ExitReason::Other, error.to_string())
    }
}

pub(super) type CliResult<T = ()> = Result<T, CliError>;
