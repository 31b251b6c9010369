//! The bound on the requests to one host at the same time, whatever number of webhooks it has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::Uri;
use tokio::sync::Semaphore;

/// The bounds of all hosts. A host is a name with a port, as URLs have them; a URL without a port
/// has that of its scheme.
#[derive(Debug, Default)]
pub(super) struct HostLimits(Mutex<HashMap<String, Weak<Semaphore>>>);

impl HostLimits {
    /// Returns the bound of the host of `url`, which is forgotten with the last who has it.
    pub(super) fn of(&self, url: &Uri, max_in_flight: u64) -> Arc<Semaphore> {
        let name = url.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        let own_port = if url.scheme_str() == Some("http") { 80 } else { 443 };
        let host = format!("{name}:{}", url.port_u16().unwrap_or(own_port));
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(&host).and_then(Weak::upgrade) {
            return known;
        }
        hosts.retain(|_, limit| limit.strong_count() > 0);
        let limit = Arc::new(Semaphore::new(max_in_flight as usize));
        hosts.insert(host, Arc::downgrade(&limit));
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_of_one_host_share_its_bound_and_hosts_are_forgotten() {
        let limits = HostLimits::default();
        let of = |url: &str| limits.of(&url.parse().unwrap(), 2);
        let first = of("https://a.example/x");
        for same in ["https://A.example/y?z", "https://a.example:443/", "https://a.example./"] {
            assert!(Arc::ptr_eq(&first, &of(same)), "{same}");
        }
        assert!(!Arc::ptr_eq(&first, &of("https://a.example:8443/x")));
        assert_eq!(first.available_permits(), 2);
        for other in 0..10 {
            of(&format!("https://{other}.example"));
        }
        assert_eq!(limits.0.lock().unwrap().len(), 2, "the first one, and the last");
    }
}
