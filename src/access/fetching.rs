//! The fetch of an issuer's keys over HTTPS: no redirects, a bounded answer.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::jwk::MAX_SET_BYTES;
use super::jwks::FetchKeys;
use crate::error::with_causes;
use crate::trust;

type KeyClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Returns the source of the keys at `url`. Its certificate must be signed by one of those in the
/// file `trusted`, or else by one that the system trusts.
///
/// # Errors
///
/// The problem: with the file, or no provider of cryptography.
pub(super) fn keys_at(url: Uri, trusted: Option<&Path>) -> Result<FetchKeys, String> {
    let config = trust::client_config(trusted)?;
    let builder = HttpsConnectorBuilder::new().with_tls_config(config);
    let is_plain = url.scheme_str() == Some("http");
    let builder = if is_plain { builder.https_or_http() } else { builder.https_only() };
    let connector = builder.enable_http1().build();
    let client: KeyClient = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0) // It is asked every few minutes.
        .build(connector);
    let client = Arc::new(client);
    Ok(Box::new(move || {
        let (client, url) = (client.clone(), url.clone());
        Box::pin(async move { fetch(&client, url).await })
    }))
}

/// Fetches the document.
///
/// # Errors
///
/// The problem. An answer that is no 200, a redirect included, is one: the keys come from where the
/// settings say.
async fn fetch(client: &KeyClient, url: Uri) -> Result<Vec<u8>, String> {
    let request = Request::get(url)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let answer = client.request(request).await.map_err(|error| with_causes(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_SET_BYTES).collect().await;
    let body = body.map_err(|error| format!("the answer breaks off or is too large: {error}"))?;
    Ok(body.to_bytes().into())
}
