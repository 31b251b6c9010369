//! The amount of work that a request causes, and the place where it is done: small work on the
//! worker at once, large work on another thread.
//!
//! ```text
//! worker   ──[ a small request ]──[ another ]──[ … ]──▶
//!                     │ a large one              ▲ its outcome
//!                     └─▶ waits for a place ─▶ a thread of its own
//! ```
//!
//! # Why
//!
//! Decoding and encoding ten thousand events takes 20 ms, and ten times that with many headers. A
//! worker that does this in one go serves nobody else meanwhile. Moving a request to another thread
//! costs about 20 µs, more than most requests take. So the work is estimated before it is done,
//! from the parts of the request.
//!
//! The turn is not the only reason. On a busy machine the system suspends a thread that works for
//! several milliseconds, and all tasks of a worker wait with it; a thread that has slept runs
//! first. While 40 clients sent 280 MB of patterns, a request that needed only its worker waited up
//! to 2.3 s if work of a millisecond was done on the worker, and 20 to 100 ms if at most a quarter
//! of that was (two cores that compile at the same time).
//!
//! The whole process has as many places for large work as the machine has cores. So large work
//! waits for other large work, and small work does not wait for it.

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::cloudevents::mode::Mode;
use super::wire;
use super::wire::EventField;
use crate::polls;

/// The most work that is done at once, in nanoseconds: as long as a task's turn. Another thread
/// adds at most a tenth to work above this bound.
const MAX_LITTLE_NS: u64 = polls::MAX_TURN.as_nanos() as u64;

/// The time to turn an event's message into a record, in nanoseconds: per event, per header, per
/// other field, per byte of the payload, and per other byte. A payload is copied, and gets a
/// checksum. Other bytes may contain the fields of a header. Source: `hostile::fairness_of_bodies`,
/// with a release build.
const EVENT_NS: u64 = 1_000;
const HEADER_NS: u64 = 400;
const FIELD_NS: u64 = 20;
const PAYLOAD_BYTE_NS: u64 = 1;
const BYTE_NS: u64 = 4;

/// The time per byte of CloudEvents in protobuf, in nanoseconds. An attribute takes a dozen bytes.
const CLOUDEVENT_BYTE_NS: u64 = 50;

/// The time to read JSON, per value that ends with a comma and per byte, in nanoseconds. JSON is
/// read several times, and brackets and escapes are slow.
const JSON_VALUE_NS: u64 = 400;
const JSON_BYTE_NS: u64 = 10;

/// The time to write a byte of JSON, in nanoseconds.
const WRITTEN_JSON_BYTE_NS: u64 = 1;

/// The time to compress a byte at the fastest level, in nanoseconds.
const ENCODED_BYTE_NS: u64 = 15;

/// Places for large work, shared by all brokers of this process, because they share its cores.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
});

/// The estimated processor time of some work, in nanoseconds. For large work, only a lower
/// estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effort(u64);

impl Effort {
    /// Returns the effort of reading `size_bytes` once, as for a digest.
    pub(super) fn of_bytes(size_bytes: usize) -> Self {
        Self(size_bytes as u64 * BYTE_NS)
    }

    /// Returns the effort of encoding one event with a payload of `size_bytes`.
    pub(super) fn of_payload(size_bytes: usize) -> Self {
        Self(EVENT_NS + size_bytes as u64 * PAYLOAD_BYTE_NS)
    }

    /// Returns the effort of decoding gRPC events, and of encoding them as they are stored.
    pub(super) fn of_events(events: &[Bytes]) -> Self {
        let mut effort = Self(0);
        for event in events {
            effort.0 += EVENT_NS;
            // Counting takes a hundredth of the work, and ends once the work is known to be large.
            let mut fields = wire::fields(event);
            while !effort.is_much()
                && let Some(field) = fields.next()
            {
                effort.0 += match field {
                    EventField::Header(pair) => HEADER_NS + pair.len() as u64 * BYTE_NS,
                    EventField::Payload(payload) => payload.len() as u64 * PAYLOAD_BYTE_NS,
                    EventField::ContentType(name) => Self::of_carried(name, event).0,
                    EventField::Other(bytes) => FIELD_NS + bytes.len() as u64 * BYTE_NS,
                };
            }
            if effort.is_much() {
                break;
            }
        }
        effort
    }

    /// Returns the effort of reading a body that carries CloudEvents, and of encoding its events.
    pub(super) fn of_request(mode: Mode, body: &[u8]) -> Self {
        match mode {
            Mode::Binary => Self::of_payload(body.len()),
            Mode::Structured | Mode::Batched => Self::of_json(body),
            Mode::Protobuf | Mode::ProtobufBatch => Self::of_cloudevents(body),
        }
    }

    /// Returns the effort of decoding CloudEvents in protobuf, one or a batch, and of encoding them
    /// as they are stored. Assumes as many attributes as the bytes may have.
    pub(super) fn of_cloudevents(message: &[u8]) -> Self {
        Self(message.len() as u64 * CLOUDEVENT_BYTE_NS)
    }

    /// Returns the effort of reading the CloudEvent in the payload of `event`, if the content type
    /// says that the payload is one.
    fn of_carried(content_type: &[u8], event: &[u8]) -> Self {
        let content_type = String::from_utf8_lossy(content_type);
        let mode = Mode::of(&content_type, &HeaderMap::new());
        mode.map_or(Self(FIELD_NS), |mode| Self::of_request(mode, event))
    }

    /// Returns the effort of reading JSON, and of encoding its events.
    pub(super) fn of_json(json: &[u8]) -> Self {
        let bytes = Self(json.len() as u64 * JSON_BYTE_NS);
        if bytes.is_much() {
            return bytes;
        }
        let values = 1 + json.iter().filter(|byte| **byte == b',').count() as u64;
        Self(bytes.0 + values * JSON_VALUE_NS)
    }

    /// Returns the effort of writing `size_bytes` of events as JSON.
    pub(super) fn of_written_json(size_bytes: usize) -> Self {
        Self(size_bytes as u64 * WRITTEN_JSON_BYTE_NS)
    }

    /// Returns the effort of compressing `size_bytes`.
    pub(super) fn of_encoded(size_bytes: usize) -> Self {
        Self((size_bytes as u64).saturating_mul(ENCODED_BYTE_NS))
    }

    /// Returns the effort of all lines, each as [`Self::of_json`].
    pub(super) fn of_lines(lines: &[Bytes]) -> Self {
        let mut effort = Self(0);
        for line in lines {
            effort.0 += Self::of_json(line).0 + EVENT_NS;
            if effort.is_much() {
                break;
            }
        }
        effort
    }

    /// Returns the effort of doing the same work twice.
    pub(super) fn twice(self) -> Self {
        self.times(2)
    }

    /// Returns the effort of doing the same work `count` times.
    pub(super) fn times(self, count: usize) -> Self {
        Self(self.0.saturating_mul(count as u64))
    }

    fn is_much(self) -> bool {
        self.0 > MAX_LITTLE_NS
    }

    /// Does `work`, whose estimate is `self`: at once, or on another thread while this waits.
    ///
    /// # Panics
    ///
    /// As `work` does.
    ///
    /// # Cancel safety
    ///
    /// If this is dropped while it waits for a place, nothing is done. Work that has begun
    /// continues to its end, and its outcome is dropped.
    pub(super) async fn spend<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        match self.is_much() {
            true => away(PLACES.clone(), work).await,
            false => work(),
        }
    }
}

/// Waits until no large work is running, and takes all places.
#[cfg(test)]
pub(super) async fn all_places() -> tokio::sync::OwnedSemaphorePermit {
    let cores = available_parallelism().map_or(1, usize::from);
    PLACES.clone().acquire_many_owned(cores as u32).await.unwrap()
}

/// Does `work` on another thread, once one of `places` is free.
///
/// A separate task waits for the place. The caller may be one of several futures of a task that
/// waits for its client, and would hold a place without using it.
async fn away<T: Send + 'static>(
    places: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let done = AbortOnDropHandle::new(tokio::spawn(async move {
        let place = places.acquire_owned().await.expect("the semaphore is never closed");
        let work = move || {
            let _place = place; // Given back also when the work panics.
            work()
        };
        tokio::task::spawn_blocking(work).await
    }));
    polls::joined(async { done.await? }).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use prost::Message;

    use super::super::proto;
    use super::*;

    fn events(count: usize, headers: usize, payload_bytes: usize) -> Vec<Bytes> {
        let event = proto::NewEvent {
            headers: (0..headers).map(|number| (number.to_string(), "v".to_owned())).collect(),
            payload: vec![0; payload_bytes].into(),
            ..proto::NewEvent::default()
        };
        vec![event.encode_to_vec().into(); count]
    }

    #[test]
    fn work_is_judged_by_its_events_their_headers_and_its_bytes() {
        let is_much = |events: &[Bytes]| Effort::of_events(events).is_much();
        assert!(!is_much(&events(1, 100, 100 << 10)));
        assert!(!is_much(&events(20, 3, 1_000)));
        assert!(is_much(&events(10_000, 0, 0)), "many events");
        assert!(is_much(&events(100, 100, 0)), "many headers");
        assert!(is_much(&events(4, 0, 1_000_000)), "many bytes");
        let carrying = |content_type: &str| {
            let event = proto::NewEvent {
                content_type: content_type.to_owned(),
                payload: vec![b','; 10_000].into(),
                ..proto::NewEvent::default()
            };
            is_much(&[event.encode_to_vec().into()])
        };
        assert!(!carrying("text/csv"));
        assert!(carrying("application/cloudevents+json; charset=utf-8"), "a CloudEvent in JSON");
        assert!(carrying("application/cloudevents+protobuf"), "a CloudEvent in protobuf");
        let is_much = |json: &str| Effort::of_json(json.as_bytes()).is_much();
        assert!(!is_much(&format!("[\"{}\"]", "x".repeat(10_000))));
        assert!(!is_much(&format!("[{}0]", "0,".repeat(400))));
        assert!(is_much(&format!("[{}0]", "0,".repeat(4_000))), "many values");
        assert!(is_much(&format!("[\"{}\"]", "x".repeat(200_000))), "many bytes");
    }

    #[tokio::test]
    async fn little_work_stays_where_it_is_and_much_of_it_goes_to_another_thread() {
        let work = || thread::current().id();
        let here = work();
        assert_eq!(Effort::of_payload(10).spend(work).await, here);
        assert_ne!(Effort::of_payload(1 << 30).spend(work).await, here);
    }

    #[tokio::test]
    async fn no_more_large_work_is_done_at_a_time_than_there_are_places() {
        let places = Arc::new(Semaphore::new(2));
        let [running, most] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (running, most) = (running.clone(), most.clone());
            away(places.clone(), move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        futures_util::future::join_all((0..50).map(|_| work())).await;
        assert!(most.load(Ordering::SeqCst) <= 2, "{most:?} at the same time");
        assert_eq!(places.available_permits(), 2, "a place is kept");
    }

    #[tokio::test]
    async fn a_panic_of_large_work_is_one_of_its_caller_and_its_place_is_free_again() {
        let places = Arc::new(Semaphore::new(1));
        let work = tokio::spawn(away(places.clone(), || panic!("as if something were wrong")));
        assert!(work.await.unwrap_err().is_panic());
        assert_eq!(places.available_permits(), 1);
    }
}
