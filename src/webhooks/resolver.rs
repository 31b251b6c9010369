//! The addresses of names, by the resolver of the system.
//!
//! # Why
//!
//! The system has no call that can be given up: a thread waits for each name, for as long as the
//! servers of names do not answer. These threads are those of the runtime, with which events are
//! read, too. So the number of lookups is bounded, and counts each until its thread is free, also
//! if nobody waits for it any more. Otherwise hundreds of webhooks would stop all readers while
//! the servers of names are down.

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// The most lookups at the same time.
const MAX_LOOKUPS: usize = 32;

/// What comes of a lookup.
pub(super) type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// What finds the addresses of a name.
pub(super) trait Resolve: Send + Sync + 'static {
    /// Returns the addresses of a name, in the order in which they are to be tried.
    fn resolve(&self, name: String) -> Resolving;
}

type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// The resolver of the system.
pub(super) struct SystemResolver {
    lookup: Lookup,
    room: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new(Arc::new(addresses), MAX_LOOKUPS)
    }
}

impl SystemResolver {
    fn new(lookup: Lookup, max_lookups: usize) -> Self {
        Self { lookup, room: Arc::new(Semaphore::new(max_lookups)) }
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: String) -> Resolving {
        let (lookup, room) = (self.lookup.clone(), self.room.clone());
        Box::pin(async move {
            let room = room.acquire_owned().await.map_err(io::Error::other)?;
            let looking = spawn_blocking(move || {
                let _until_the_thread_is_free = room;
                lookup(&name)
            });
            looking.await.map_err(io::Error::other)?
        })
    }
}

fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_resolver_of_the_system_knows_this_machine() {
        let found = SystemResolver::default().resolve("localhost".to_owned()).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    /// Goal: a lookup that nobody waits for any more has its room until it ends.
    #[tokio::test]
    async fn so_many_lookups_are_under_way_whoever_waits_for_them() {
        let (begun, begins) = mpsc::sync_channel(64);
        let (go_on, may_go_on) = mpsc::sync_channel::<()>(64);
        let (begun, may_go_on) = (Mutex::new(begun), Mutex::new(may_go_on));
        let lookup = move |name: &str| {
            begun.lock().unwrap().send(name.to_owned()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
            Ok(Vec::new())
        };
        let resolver = SystemResolver::new(Arc::new(lookup), 1);
        let short = Duration::from_millis(50);
        timeout(short, resolver.resolve("slow".to_owned())).await.unwrap_err();
        assert_eq!(begins.recv().unwrap(), "slow");
        timeout(short, resolver.resolve("next".to_owned())).await.unwrap_err();
        assert!(begins.try_recv().is_err(), "the first one has the room");
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(resolver.resolve("last".to_owned()).await.unwrap(), Vec::<IpAddr>::new());
        assert_eq!(begins.recv().unwrap(), "last");
    }
}
