//! The credential of the client commands: read from a file or from the environment, and sent with
//! each call. It is never an argument, which other users of the machine can see, and never printed.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;

use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::diagnostics::say;
use super::failure::{CliError, CliResult, ExitReason};

/// The variable with a token or a key.
const VARIABLE: &str = "LEFTOFF_TOKEN";

/// The longest credential, in bytes. The server takes no longer head either.
const MAX_BYTES: u64 = 16 << 10;

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

/// A credential, or none: the `authorization` of each call.
#[derive(Debug, Clone, Default)]
pub(super) struct Credential(Option<MetadataValue<Ascii>>);

impl CredentialArgs {
    /// Reads the credential. A file counts before the variable.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or what is there cannot be a credential.
    pub(super) fn read(&self) -> CliResult<Credential> {
        let of_files = [("--token-file", &self.token_file), ("--key-file", &self.key_file)];
        let given = of_files.iter().find_map(|(name, file)| Some((name, file.as_ref()?)));
        let (text, origin) = match given {
            Some((name, file)) => {
                let origin = format!("{name} {}", file.display());
                let refused = |problem: &str| refused(&origin, problem);
                (read(file).map_err(|error| refused(&error.to_string()))?, origin)
            }
            None => match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
                Some(value) => (value.into_encoded_bytes(), VARIABLE.to_owned()),
                None => return Ok(Credential(None)),
            },
        };
        Credential::parse(&text).map_err(|problem| refused(&origin, problem))
    }
}

impl Credential {
    /// Parses a key or a token. White space around it does not count.
    fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err("has no credential in it");
        }
        if text.len() as u64 > MAX_BYTES {
            return Err("is too long for a credential");
        }
        if !text.iter().all(u8::is_ascii_graphic) {
            return Err("must have one line with one credential, of visible characters of ASCII");
        }
        let header = [b"Bearer ", text].concat();
        let mut value = MetadataValue::<Ascii>::try_from(&header[..])
            .map_err(|_| "cannot be sent as a header")?;
        value.set_sensitive(true); // Shown nowhere, and not kept by the compression of HTTP/2.
        Ok(Self(Some(value)))
    }

    /// Returns the lines of the head of a request of HTTP/1.1; none without a credential.
    pub(super) fn head_lines(&self) -> String {
        let value = self.0.as_ref().and_then(|value| value.to_str().ok());
        value.map(|value| format!("authorization: {value}\r\n")).unwrap_or_default()
    }

    /// Warns once if the credential goes to another machine without TLS.
    pub(super) fn warn_if_bare(&self, server: &http::Uri) {
        static ONCE: Once = Once::new();
        if self.0.is_some() && is_bare(server) {
            ONCE.call_once(|| {
                say(format_args!(
                    "warning: the credential goes to {server} without TLS: everybody on the way \
                     can read it and use it; write https://"
                ));
            });
        }
    }
}

/// Whether what is sent to `server` can be read on its way.
fn is_bare(server: &http::Uri) -> bool {
    let host = server.host().unwrap_or_default();
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_local = match address {
        Some(address) => address.to_canonical().is_loopback(),
        None => host.eq_ignore_ascii_case("localhost"),
    };
    server.scheme_str() != Some("https") && !is_local
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(2 * MAX_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn refused(origin: &str, problem: &str) -> CliError {
    CliError::new(ExitReason::Refused, format!("{origin}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_sent_whole_and_never_shown() {
        let mut credential = Credential::parse(b" lok_abc-DEF_1\n").unwrap();
        let request = credential.call(Request::new(())).unwrap();
        let sent = request.metadata().get("authorization").unwrap();
        assert_eq!(sent.as_encoded_bytes(), b"Bearer lok_abc-DEF_1");
        let lines = credential.head_lines();
        assert_eq!(lines, "authorization: Bearer lok_abc-DEF_1\r\n");
        let shown = format!("{credential:?} {request:?}");
        assert!(!shown.contains("lok_"), "{shown}");
        let longest = vec![b'x'; MAX_BYTES as usize];
        assert!(Credential::parse(&longest).is_ok());
        for wrong in [&b""[..], b" \n", b"one two", b"one\ntwo", "\u{e9}".as_bytes(), b"\x01"] {
            assert!(Credential::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Credential::parse(&[&longest[..], b"x"].concat()).is_err());
        assert_eq!(Credential::default().head_lines(), "");
        let request = Credential::default().call(Request::new(())).unwrap();
        assert!(request.metadata().is_empty());
    }

    #[test]
    fn only_what_stays_on_the_machine_or_is_under_tls_is_private() {
        for (url, expected) in [
            ("http://127.0.0.1:4280", false),
            ("http://localhost:4280", false),
            ("http://[::1]:4280", false),
            ("https://broker.example", false),
            ("http://broker.example", true),
            ("http://10.0.0.1:4280", true),
            ("http://localhost.example:4280", true),
        ] {
            assert_eq!(is_bare(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
