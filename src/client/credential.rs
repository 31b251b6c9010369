//! The credential of a client: where it comes from, and how it is sent. It is never shown.

use std::fmt;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::error::ClientError;

/// The longest credential, in bytes. The broker takes no longer head either.
const MAX_CREDENTIAL_BYTES: usize = 16 << 10;

/// A credential, or none: the `authorization` of each call. Its text is shown nowhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl Credential {
    /// Parses a token (JWT) or a static key. White space around it does not count.
    ///
    /// # Errors
    ///
    /// [`ClientError::Credential`]: the text cannot be a credential.
    pub fn parse(text: &[u8]) -> Result<Self, ClientError> {
        let refused = |problem: &str| Err(ClientError::Credential(problem.to_owned()));
        let text = text.trim_ascii();
        if text.is_empty() {
            return refused("has no credential in it");
        }
        if text.len() > MAX_CREDENTIAL_BYTES {
            return refused("is too long for a credential");
        }
        if !text.iter().all(u8::is_ascii_graphic) {
            return refused(
                "must have one line with one credential, of visible characters of ASCII",
            );
        }
        let header = [b"Bearer ", text].concat();
        let Ok(mut value) = MetadataValue::<Ascii>::try_from(&header[..]) else {
            return refused("cannot be sent as a header");
        };
        value.set_sensitive(true); // Shown nowhere, and not kept by the compression of HTTP/2.
        Ok(Self(Some(value)))
    }

    /// Returns the value of the header `authorization`; `None` without a credential.
    pub fn authorization(&self) -> Option<&str> {
        self.0.as_ref().and_then(|value| value.to_str().ok())
    }

    /// Whether there is a credential that others can read on its way to `server`: the way leaves
    /// the machine, and has no TLS.
    pub fn is_exposed(&self, server: &Uri) -> bool {
        self.0.is_some() && is_bare(server)
    }
}

/// Whether what is sent to `server` can be read on its way.
fn is_bare(server: &Uri) -> bool {
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

type CredentialFuture =
    Pin<Box<dyn Future<Output = Result<Credential, ClientError>> + Send + 'static>>;

/// The origin of a client's credential. It is asked before each connection, and again when the
/// broker refuses the credential; a new one is tried, the same one is not.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum CredentialSource {
    /// No credential.
    #[default]
    None,
    /// Always this one.
    Fixed(Credential),
    /// The content of a file, read anew each time.
    File(PathBuf),
    /// The value that a function returns; see [`CredentialSource::from_fn`].
    Function(Arc<dyn Fn() -> CredentialFuture + Send + Sync>),
}

impl CredentialSource {
    /// Returns a source that asks a function, such as one that fetches a token.
    ///
    /// ```
    /// use leftoff::client::{Credential, CredentialSource};
    ///
    /// let source = CredentialSource::from_fn(|| async { Credential::parse(b"lok_abc") });
    /// ```
    pub fn from_fn<F, R>(function: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Credential, ClientError>> + Send + 'static,
    {
        Self::Function(Arc::new(move || Box::pin(function())))
    }

    /// Returns the present credential.
    ///
    /// # Errors
    ///
    /// [`ClientError::Credential`], or the function's own error.
    ///
    /// # Cancel safety
    ///
    /// As the function's; nothing is left behind by the others.
    pub async fn read(&self) -> Result<Credential, ClientError> {
        match self {
            Self::None => Ok(Credential::default()),
            Self::Fixed(credential) => Ok(credential.clone()),
            Self::File(path) => {
                // A small file, but its disk may be a network: not on a worker.
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                let text = read.map_err(std::io::Error::other).and_then(|text| text);
                Credential::parse(
                    &text.map_err(|error| ClientError::Credential(error.to_string()))?,
                )
            }
            Self::Function(function) => function().await,
        }
    }
}

impl From<Credential> for CredentialSource {
    fn from(credential: Credential) -> Self {
        Self::Fixed(credential)
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Fixed(_) => f.write_str("Fixed"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let bound = 2 * MAX_CREDENTIAL_BYTES as u64;
    std::fs::File::open(path)?.take(bound).read_to_end(&mut text)?;
    Ok(text)
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
        assert_eq!(credential.authorization(), Some("Bearer lok_abc-DEF_1"));
        let source = CredentialSource::from(credential.clone());
        let shown = format!("{credential:?} {request:?} {source:?}");
        assert!(!shown.contains("lok_"), "{shown}");
        let longest = vec![b'x'; MAX_CREDENTIAL_BYTES];
        assert!(Credential::parse(&longest).is_ok());
        for wrong in [&b""[..], b" \n", b"one two", b"one\ntwo", "\u{e9}".as_bytes(), b"\x01"] {
            assert!(Credential::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Credential::parse(&[&longest[..], b"x"].concat()).is_err());
        assert_eq!(Credential::default().authorization(), None);
        let request = Credential::default().call(Request::new(())).unwrap();
        assert!(request.metadata().is_empty());
    }

    #[test]
    fn only_what_stays_on_the_machine_or_is_under_tls_is_private() {
        let credential = Credential::parse(b"lok_abc").unwrap();
        for (url, expected) in [
            ("http://127.0.0.1:4280", false),
            ("http://localhost:4280", false),
            ("http://[::1]:4280", false),
            ("https://broker.example", false),
            ("http://broker.example", true),
            ("http://10.0.0.1:4280", true),
            ("http://localhost.example:4280", true),
        ] {
            assert_eq!(credential.is_exposed(&url.parse().unwrap()), expected, "{url}");
            assert!(!Credential::default().is_exposed(&url.parse().unwrap()), "{url}");
        }
    }
}
