//! How much work a client makes the broker do, and where it is done: a little at once, where it
//! comes up; much of it away from the workers.
//!
//! ```text
//! worker   ──[ a small request ]──[ another ]──[ … ]──▶
//!                     │ a large one              ▲ its outcome
//!                     └─▶ waits for a place ─▶ a thread of its own
//! ```
//!
//! # Why
//!
//! Ten thousand events are 20 ms of decoding and encoding, and ten times that with many headers.
//! A worker that does it in one go serves nobody else meanwhile. To hand a request to another
//! thread costs some 20 µs, which is more than most of them take. So the work is judged before it
//! is done, by what it is made of.
//!
//! Nor is it the turn alone that counts. On a busy machine the system puts a thread that works
//! aside for several milliseconds, and with a worker go all who wait for it; a thread that has
//! slept goes first. Beside 40 clients that sent 280 MB of patterns, a request that needs nothing
//! but its worker waited for up to 2.3 s where work of a millisecond was done here, and for 20 to
//! 100 ms where it is a quarter of that (two cores that compile at the same time).
//!
//! There are as many places for large work as the machine has cores, in the whole process: what is
//! large waits for other large work, and not what is small.

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

/// Work up to which it is done at once, in nanoseconds: as long as a task's turn is. Another thread
/// costs at the most a tenth of what is more.
const MAX_LITTLE_NS: u64 = polls::MAX_TURN.as_nanos() as u64;

/// What an event takes from its message into a record, each header of it, any other field, each
/// byte of its payload, and any other byte, in nanoseconds. A payload is copied, and has a
/// checksum; other bytes may be fields of what is in a header. Source:
/// `hostile::fairness_of_bodies`, with a release build.
const EVENT_NS: u64 = 1_000;
const HEADER_NS: u64 = 400;
const FIELD_NS: u64 = 20;
const PAYLOAD_BYTE_NS: u64 = 1;
const BYTE_NS: u64 = 4;

/// What a byte of CloudEvents in protobuf takes, in nanoseconds: an attribute is a dozen bytes.
const CLOUDEVENT_BYTE_NS: u64 = 50;

/// What JSON takes for each value that a comma parts from the next, and for each byte, in
/// nanoseconds: it is read several times over, and what is in brackets or escaped is slow.
const JSON_VALUE_NS: u64 = 400;
const JSON_BYTE_NS: u64 = 10;

/// What a byte of JSON takes that is written, in nanoseconds.
const WRITTEN_JSON_BYTE_NS: u64 = 1;

/// What a byte takes that is compressed as fast as it goes, in nanoseconds.
const ENCODED_BYTE_NS: u64 = 15;

/// Places for large work, of all brokers of this process: they share its cores.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
});

/// About how long some work takes on the processor, in nanoseconds; where it is much, only that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effort(u64);

impl Effort {
    /// Going through so many bytes, as for a digest.
    pub(super) fn of_bytes(size_bytes: usize) -> Self {
        Self(size_bytes as u64 * BYTE_NS)
    }

    /// Encoding an event of such a payload.
    pub(super) fn of_payload(size_bytes: usize) -> Self {
        Self(EVENT_NS + size_bytes as u64 * PAYLOAD_BYTE_NS)
    }

    /// Decoding events of gRPC, and encoding them as they are stored.
    pub(super) fn of_events(events: &[Bytes]) -> Self {
        let mut effort = Self(0);
        for event in events {
            effort.0 += EVENT_NS;
            // Counting takes a hundredth of it, and ends where it is known to be much.
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

    /// How much work it is to read a body that carries CloudEvents, and to encode its events.
    pub(super) fn of_request(mode: Mode, body: &[u8]) -> Self {
        match mode {
            Mode::Binary => Self::of_payload(body.len()),
            Mode::Structured | Mode::Batched => Self::of_json(body),
            Mode::Protobuf | Mode::ProtobufBatch => Self::of_cloudevents(body),
        }
    }

    /// Decoding CloudEvents in protobuf, one or a batch, and encoding them as they are stored: as
    /// many as there may be in so many bytes.
    pub(super) fn of_cloudevents(message: &[u8]) -> Self {
        Self(message.len() as u64 * CLOUDEVENT_BYTE_NS)
    }

    /// Reading the CloudEvent in the payload of `event`, if this content type says that it is one.
    fn of_carried(content_type: &[u8], event: &[u8]) -> Self {
        let content_type = String::from_utf8_lossy(content_type);
        let mode = Mode::of(&content_type, &HeaderMap::new());
        mode.map_or(Self(FIELD_NS), |mode| Self::of_request(mode, event))
    }

    /// Reading JSON, and encoding the events that it has.
    pub(super) fn of_json(json: &[u8]) -> Self {
        let bytes = Self(json.len() as u64 * JSON_BYTE_NS);
        if bytes.is_much() {
            return bytes;
        }
        let values = 1 + json.iter().filter(|byte| **byte == b',').count() as u64;
        Self(bytes.0 + values * JSON_VALUE_NS)
    }

    /// Writing events as JSON, which takes so many bytes.
    pub(super) fn of_written_json(size_bytes: usize) -> Self {
        Self(size_bytes as u64 * WRITTEN_JSON_BYTE_NS)
    }

    /// Compressing so many bytes.
    pub(super) fn of_encoded(size_bytes: usize) -> Self {
        Self((size_bytes as u64).saturating_mul(ENCODED_BYTE_NS))
    }

    /// As [`Self::of_json`], of so many texts.
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

    /// The same work, done two times.
    pub(super) fn twice(self) -> Self {
        Self(self.0.saturating_mul(2))
    }

    fn is_much(self) -> bool {
        self.0 > MAX_LITTLE_NS
    }

    /// Does `work`, which is as much as this says: here, or on another thread while this waits.
    ///
    /// # Panics
    ///
    /// As `work` does.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for a place, nothing is done. Work that was begun goes on to its end,
    /// and what comes of it is dropped.
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

/// All places, as soon as none has any work.
#[cfg(test)]
pub(super) async fn all_places() -> tokio::sync::OwnedSemaphorePermit {
    let cores = available_parallelism().map_or(1, usize::from);
    PLACES.clone().acquire_many_owned(cores as u32).await.unwrap()
}

/// Does `work` on another thread, when one of `places` is free.
///
/// A task of its own waits for the place: the caller may be one of several futures of a task that
/// waits for its client, and would keep a place that it was given meanwhile.
async fn away<T: Send + 'static>(
    places: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let done = AbortOnDropHandle::new(tokio::spawn(async move {
        let place = places.acquire_owned().await.expect("it is never closed");
        let work = move || {
            let _place = place; // Also when the work panics.
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
