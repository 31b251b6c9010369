//! The certificates by which the broker trusts servers that it connects to, as its client.

use std::path::Path;

use hyper_rustls::ConfigBuilderExt as _;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Returns the settings of TLS for a client. Certificates of servers must be signed by one of those
/// in the file `trusted`, or else by one that the system trusts.
///
/// # Errors
///
/// The problem: with the file, or no provider of cryptography, or a system without certificates.
pub(crate) fn client_config(trusted: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.ok_or(
        "needs a provider of cryptography: the host installs one of rustls (install_default)",
    )?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match trusted {
        Some(file) => builder.with_root_certificates(roots_of(file)?),
        None => builder.with_native_roots().map_err(|error| error.to_string())?,
    };
    Ok(builder.with_no_client_auth())
}

/// Returns the certificates in a file.
///
/// # Errors
///
/// The problem, with the name of the file.
pub(crate) fn roots_of(file: &Path) -> Result<RootCertStore, String> {
    let name = file.display();
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| format!("{name}: {error}"))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(format!("{name} has no certificate in PEM"));
    }
    Ok(roots)
}
