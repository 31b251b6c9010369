//! The certificate of the configured addresses: read from files, and again when they change.
//!
//! ```text
//! files ─▶ read ─▶ changed? ─▶ right? ─┬▶ used by each handshake from now on
//!  every `tls_reload_ms`, or when asked └▶ a log line says why not; the old one stays in use
//! ```
//!
//! # Why
//!
//! The files are compared by what is in them, and not by their time: two writes within one tick of
//! the clock have the same time. They are a few KiB. Whoever renews a certificate writes two files,
//! one after the other, so a certificate that does not fit the key is common, and over soon.
//!
//! A connection keeps the certificate of its handshake: none is lost when another one is used. A
//! session of an older certificate, or of older issuers of clients, is never resumed.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, RootCertStore};
use tracing::{info, warn};

use super::config::ServerConfig;
use crate::error::{Error, Result};

/// The largest file that is read, in bytes. A certificate has a few KiB; the issuers of a system
/// have a quarter of this.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The most sessions that clients can resume. Each takes a few hundred bytes, and the client's
/// certificates if it has some.
const MAX_SESSIONS: usize = 4_096;

/// The certificate that is in use, and the files that it comes from.
pub(crate) struct Certificates {
    files: TlsFiles,
    pause: Duration,
    used: Mutex<Used>,
    /// Notified when the files are to be read at once.
    asked: Notify,
}

/// The certificate that is in use, with the rules of a handshake.
struct Used {
    all: Arc<rustls::ServerConfig>,
    /// The same for gRPC alone: HTTP/1.1 is not offered.
    grpc: Arc<rustls::ServerConfig>,
    /// The hash of the files.
    hash: [u8; 32],
}

/// The files of TLS.
#[derive(Debug, Clone)]
struct TlsFiles {
    cert: TlsFile,
    key: TlsFile,
    client_ca: Option<TlsFile>,
}

/// A file, and the setting that names it.
#[derive(Debug, Clone)]
struct TlsFile {
    setting: &'static str,
    path: PathBuf,
}

/// Reads the files of the server's certificate again, at any time. Cheap to clone; all clones ask
/// the same server.
#[derive(Debug, Clone)]
pub struct CertificateReload(Arc<Certificates>);

impl CertificateReload {
    pub(super) fn new(certificates: Arc<Certificates>) -> Self {
        Self(certificates)
    }

    /// Asks the server to read the files now, and not at the end of `server.tls_reload_ms`. Returns
    /// at once; a log line tells the outcome. If the files are wrong, the old ones stay in use.
    pub fn start(&self) {
        self.0.asked.notify_one();
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the files that the configuration names; `None` if it names none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the setting and the file, or without a provider of cryptography.
    pub(super) fn open(config: &ServerConfig) -> Result<Option<Arc<Self>>> {
        let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
        let file = |setting, path: &PathBuf| TlsFile { setting, path: path.clone() };
        let client_ca = config.tls_client_ca.as_ref();
        let files = TlsFiles {
            cert: file("server.tls_cert", cert),
            key: file("server.tls_key", key),
            client_ca: client_ca.map(|path| file("server.tls_client_ca", path)),
        };
        let used = Mutex::new(files.read()?.used()?);
        let pause = Duration::from_millis(config.tls_reload_ms);
        Ok(Some(Arc::new(Self { files, pause, used, asked: Notify::new() })))
    }

    /// Returns the rules of the next handshake, of all protocols or of gRPC alone.
    pub(super) fn current(&self, is_grpc: bool) -> Arc<rustls::ServerConfig> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if is_grpc { used.grpc.clone() } else { used.all.clone() }
    }

    /// Reads the files again and again, and uses what is right.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it reads no more.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut told = None;
        loop {
            let is_asked = tokio::select! {
                () = tokio::time::sleep(self.pause) => false,
                () = self.asked.notified() => true,
            };
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || this.look()).await;
            let problem = match looked {
                Ok(Ok(is_changed)) => {
                    told = None;
                    match (is_changed, is_asked) {
                        (true, _) => info!("new connections get the certificate that was read"),
                        (false, true) => info!("the files of the certificate have not changed"),
                        (false, false) => {}
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(panicked) => panicked.to_string(),
            };
            if is_asked || told.as_ref() != Some(&problem) {
                warn!(problem, "the certificate stays as it was");
            }
            told = Some(problem); // A wrong file is told once, and looked at again.
        }
    }

    /// Reads the files, and uses them if they are right and have changed. Returns whether they have
    /// changed.
    fn look(&self) -> Result<bool> {
        let contents = self.files.read()?;
        if self.used.lock().unwrap_or_else(PoisonError::into_inner).hash == contents.hash() {
            return Ok(false);
        }
        let used = contents.used()?; // Takes a while: not under the lock.
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
        Ok(true)
    }
}

impl TlsFile {
    fn read(&self) -> Result<Vec<u8>> {
        let mut contents = Vec::new();
        let read = File::open(&self.path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents));
        read.map_err(|error| self.wrong(format_args!("cannot be read: {error}")))?;
        if contents.len() as u64 > MAX_FILE_BYTES {
            return Err(self.wrong(format_args!("is larger than {MAX_FILE_BYTES} bytes")));
        }
        Ok(contents)
    }

    fn wrong(&self, problem: fmt::Arguments<'_>) -> Error {
        Error::invalid(self.setting, format!("{} {problem}", self.path.display()))
    }

    /// Returns the certificates in the file; there is at least one.
    fn certificates(&self, contents: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(contents).collect();
        let found = found.map_err(|error| self.wrong(format_args!("is not PEM: {error}")))?;
        match found.is_empty() {
            true => Err(self.wrong(format_args!("has no certificate in PEM"))),
            false => Ok(found),
        }
    }

    /// Returns a path for a message about two files.
    fn path(&self) -> std::path::Display<'_> {
        Path::display(&self.path)
    }
}

/// The files of TLS, and what was in them.
struct TlsContents<'a> {
    files: &'a TlsFiles,
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

impl TlsFiles {
    fn read(&self) -> Result<TlsContents<'_>> {
        let client_ca = self.client_ca.as_ref().map(TlsFile::read).transpose()?;
        Ok(TlsContents {
            files: self,
            cert: self.cert.read()?,
            key: self.key.read()?,
            client_ca: client_ca.unwrap_or_default(),
        })
    }
}

impl TlsContents<'_> {
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for contents in [&self.cert, &self.key, &self.client_ca] {
            hash.update((contents.len() as u64).to_be_bytes());
            hash.update(contents);
        }
        hash.finalize().into()
    }

    fn used(&self) -> Result<Used> {
        let mut config = self.config()?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let grpc = Arc::new(config.clone());
        config.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(Used { all: Arc::new(config), grpc, hash: self.hash() })
    }

    /// Returns the rules of a handshake: TLS 1.2 or newer, with this certificate.
    fn config(&self) -> Result<rustls::ServerConfig> {
        let TlsFiles { cert, key, client_ca } = self.files;
        let Some(provider) = CryptoProvider::get_default() else {
            let problem = "needs cryptography: install a `rustls::crypto::CryptoProvider` as the \
                default of the process before a server is bound";
            return Err(Error::invalid(cert.setting, problem));
        };
        let chain = cert.certificates(&self.cert)?;
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| key.wrong(format_args!("has no private key in PEM: {error}")))?;
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| cert.wrong(format_args!("cannot be used: {error}")))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for root in file.certificates(&self.client_ca)? {
                    roots.add(root).map_err(|error| {
                        file.wrong(format_args!("has a certificate that is wrong: {error}"))
                    })?;
                }
                // Who shows no certificate may prove itself in another way.
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
                        .allow_unauthenticated()
                        .build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| file.wrong(format_args!("is wrong: {error}")))?,
                )
            }
        };
        let mut config = builder.with_single_cert(chain, private).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => key.wrong(format_args!(
                "is not the key of the certificate in {}, which server.tls_cert names",
                cert.path()
            )),
            // Its message does not repeat what is in the files.
            other => key.wrong(format_args!("and {}: {other}", cert.path())),
        })?;
        config.session_storage = ServerSessionMemoryCache::new(MAX_SESSIONS);
        config.send_tls13_tickets = 1;
        Ok(config)
    }
}

#[cfg(test)]
#[cfg(feature = "cli")] // The program has cryptography.
mod tests {
    use super::*;

    fn config(directory: &Path) -> ServerConfig {
        ServerConfig::default().with(|it| {
            it.tls_cert = Some(directory.join("cert.pem"));
            it.tls_key = Some(directory.join("key.pem"));
        })
    }

    /// Writes a new certificate, or its key, or both.
    fn write(directory: &Path, has_cert: bool, has_key: bool) {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
        for (name, text, is_written) in [("cert.pem", cert, has_cert), ("key.pem", key, has_key)] {
            if is_written {
                std::fs::write(directory.join(name), text).unwrap();
            }
        }
    }

    fn problem(certificates: &Certificates) -> String {
        certificates.look().unwrap_err().to_string()
    }

    /// Goal: files that are wrong are refused with their names, and the old ones stay in use until
    /// both are right.
    #[test]
    fn what_is_wrong_is_not_used_and_what_is_right_is_used_once_it_is_whole() {
        let _installed_once = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        write(directory, true, true);
        let certificates = Certificates::open(&config(directory)).unwrap().unwrap();
        let first = certificates.current(false);
        assert_eq!(first.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(certificates.current(true).alpn_protocols, [b"h2".to_vec()]);
        assert!(!certificates.look().unwrap(), "nothing has changed");
        write(directory, true, false);
        let key = directory.join("key.pem");
        let problem_of_both = problem(&certificates);
        assert!(problem_of_both.contains("is not the key of"), "{problem_of_both}");
        assert!(problem_of_both.contains(&*key.to_string_lossy()), "{problem_of_both}");
        for (text, expected) in [
            ("", "has no private key in PEM"),
            ("-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n", "has no private key in PEM"),
            (&"x".repeat(MAX_FILE_BYTES as usize + 1), "is larger than 1048576 bytes"),
        ] {
            std::fs::write(&key, text).unwrap();
            let problem = problem(&certificates);
            assert!(problem.contains("server.tls_key"), "{problem}");
            assert!(problem.contains(expected), "{problem}");
        }
        std::fs::remove_file(&key).unwrap();
        assert!(problem(&certificates).contains("cannot be read"));
        std::fs::write(directory.join("cert.pem"), "").unwrap();
        write(directory, false, true);
        assert!(problem(&certificates).contains("server.tls_cert"));
        assert!(Arc::ptr_eq(&first, &certificates.current(false)), "the old one is in use");
        write(directory, true, true);
        assert!(certificates.look().unwrap());
        assert!(!Arc::ptr_eq(&first, &certificates.current(false)));
        let mut with_ca = config(directory);
        with_ca.tls_client_ca = Some(key);
        let problem = Certificates::open(&with_ca).unwrap_err().to_string();
        assert!(problem.contains("server.tls_client_ca"), "{problem}");
    }

    #[test]
    fn settings_that_need_each_other_are_named() {
        let one = |change: fn(&mut ServerConfig)| {
            let config = ServerConfig::default().with(change);
            config.validate(&crate::LimitsConfig::default()).unwrap_err().to_string()
        };
        let problem = one(|it| it.tls_cert = Some("cert.pem".into()));
        assert!(problem.contains("server.tls_cert: needs server.tls_key"), "{problem}");
        let problem = one(|it| it.tls_key = Some("key.pem".into()));
        assert!(problem.contains("server.tls_key: needs server.tls_cert"), "{problem}");
        let problem = one(|it| it.tls_client_ca = Some("ca.pem".into()));
        assert!(problem.contains("server.tls_client_ca: needs server.tls_cert"), "{problem}");
    }
}
