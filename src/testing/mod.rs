//! Parts for the tests of programs that embed a broker. With the feature `testing` only: name it in
//! the `[dev-dependencies]`.
//!
//! - [`broker`] and [`Builder`] open a broker in memory, with a [`Clock`] in the hand of the test.
//! - [`delivered`], [`settled`] and [`until`] wait for what the broker and the test's tasks do,
//!   without a sleep.
//! - [`FaultyLog`] fails as the test tells it to: a full disk, a failed write, a panic.
//! - [`LogAround`] is for a log of the test's own, which does one thing otherwise.
//!
//! ```
//! use std::time::Duration;
//!
//! use leftoff::cursor::{OnGap, StartPoint};
//! use leftoff::testing::{self, Clock};
//! use leftoff::{Delivery, NewEvent, Publish};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), leftoff::Error> {
//! // The program's own code, of which the test is: it greets with events that live for a minute.
//! async fn greet(broker: &leftoff::Broker) -> Result<(), leftoff::Error> {
//!     let hello = NewEvent { ttl_ms: Some(60_000), ..NewEvent::new("hello") };
//!     broker.publish(Publish::one("greetings".parse()?, hello)).await.map(drop)
//! }
//!
//! let clock = Clock::new(testing::START);
//! let broker = testing::Builder::default().clock(&clock).open()?;
//! greet(&broker).await?;
//!
//! let topic = "greetings".parse()?;
//! let mut reader = broker.subscribe(&topic, StartPoint::Earliest, OnGap::Resume).await?;
//! let deliveries = testing::delivered(&broker, &mut reader).await?;
//! let [Delivery::Events(run), Delivery::CaughtUp] = &deliveries[..] else {
//!     panic!("{deliveries:?}")
//! };
//! assert_eq!(run.to_events()[0].time, testing::START);
//!
//! clock.advance(Duration::from_secs(61));
//! let mut late = broker.subscribe(&topic, StartPoint::Earliest, OnGap::Resume).await?;
//! let deliveries = testing::delivered(&broker, &mut late).await?;
//! assert!(!deliveries.iter().any(|d| matches!(d, Delivery::Events(_))), "it is too old");
//! broker.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # A paused clock
//!
//! A broker of this module keeps a paused clock of tokio from running away. While its threads have
//! anything to do, the clock stands; once they have nothing to do, the next timer of the test is
//! due, as in any other test with a paused clock. Unless the test gives the broker another clock,
//! its events have the time of the paused one. This example is a test of `tests/host` in the
//! repository, because it needs a feature of tokio:
//!
//! ```ignore
//! #[tokio::test(start_paused = true)] // tokio with its feature `test-util`
//! async fn a_greeting_is_gone_after_an_hour() -> Result<(), leftoff::Error> {
//!     let broker = leftoff::testing::broker();
//!     tokio::time::timeout(Duration::from_secs(1), greet(&broker)).await.expect("in time")?;
//!     tokio::time::sleep(Duration::from_secs(3_600)).await; // Takes no time.
//!     assert_eq!(greetings_of(&broker).await?, 0);
//!     broker.close().await;
//!     Ok(())
//! }
//! ```
//!
//! - The clock that is held is that of the runtime in which a piece of work begins. Work that
//!   begins outside of any runtime holds the clock of the runtime in which the broker was opened.
//! - While a [`FaultyLog`] keeps an append waiting, the committer has something to do, and the
//!   clock stands. The test moves it with `tokio::time::advance`.
//! - Some times of the broker are of the real clock all the same: the interval of maintenance (call
//!   [`Broker::maintain`]), the pace at which thousands of followers are told, and the minute for
//!   which a backup may stand still.
//! - A reader that searches for events of a filter for more than a millisecond rests in between,
//!   which moves a paused clock by a millisecond each time.
//!
//! # Why
//!
//! The broker that is tested is the real one, with its threads: what a test finds out about order,
//! gaps and repeats holds in production, too.

mod clock;
#[cfg(all(test, feature = "fleet"))]
pub(crate) mod fleet;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::clock::Clock;
use crate::broker::{Broker, Delivery, OpenConfig, Reader};
use crate::cursor::Place;
use crate::error::Result;
use crate::event::Timestamp;
pub use crate::log::faulty_log::{Fault, FaultyLog, HeldGate};
pub use crate::log::log_around::LogAround;
use crate::log::{Log, MemoryLog};

/// The time at which the clock of a broker begins, unless the test says something else:
/// 2026-01-01T00:00:00Z. A test that shows times shows the same ones each time.
pub const START: Timestamp = Timestamp::from_ms(1_767_225_600_000);

/// A log of any kind, for tests that run over several.
#[cfg(test)]
pub(crate) type AnyLog = Arc<dyn Log>;

/// Opens the log on disk that a broker has.
#[cfg(test)]
pub(crate) fn sled_log(directory: &std::path::Path) -> AnyLog {
    let log = crate::log::SledLog::open(directory, &crate::log::LogConfig::default());
    Arc::new(log.expect("the directory is free"))
}

/// The longest wait of this module, by the real clock.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time between two looks at a condition, by the real clock.
const LOOK_STEP: Duration = Duration::from_millis(1);

/// Opens a broker in memory with the default settings, whose clock follows that of the runtime,
/// from [`START`] on.
///
/// # Panics
///
/// If the system has no thread to give.
pub fn broker() -> Broker {
    Builder::default().open().expect("the default settings are valid, and there are threads")
}

/// The way to open a broker for a test.
#[derive(Default)]
pub struct Builder {
    log: Option<Arc<dyn Log>>,
    clock: Option<Clock>,
    config: OpenConfig,
    /// Whether the broker follows another one.
    #[cfg(all(test, feature = "fleet"))]
    follows: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { clock, config, .. } = self;
        f.debug_struct("Builder")
            .field("clock", clock)
            .field("config", config)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Gives the broker a log: a [`FaultyLog`], or the log of an earlier broker, to test a restart.
    #[must_use]
    pub fn log(self, log: Arc<dyn Log>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Gives the broker a clock.
    #[must_use]
    pub fn clock(self, clock: &Clock) -> Self {
        Self { clock: Some(clock.clone()), ..self }
    }

    /// Gives the broker these settings.
    #[must_use]
    pub fn config(self, config: OpenConfig) -> Self {
        Self { config, ..self }
    }

    /// Has the broker follow another one.
    #[cfg(all(test, feature = "fleet"))]
    pub(crate) fn following(self) -> Self {
        Self { follows: true, ..self }
    }

    /// Opens the broker.
    ///
    /// # Errors
    ///
    /// As [`Broker::with_log`].
    pub fn open(self) -> Result<Broker> {
        let log = self.log.unwrap_or_else(|| Arc::new(MemoryLog::default()));
        let clock = self.clock.unwrap_or_else(|| Clock::following(START));
        let now = Arc::new(move || clock.now());
        #[cfg(all(test, feature = "fleet"))]
        if self.follows {
            return Broker::watched_follower(log, &self.config, now);
        }
        Broker::watched(log, &self.config, now)
    }
}

/// Takes the deliveries of `reader` up to the last event that was published when this was called,
/// and all that is there after it. A paused clock stands meanwhile.
///
/// # Errors
///
/// As [`Reader::next_ready`]; the deliveries before the error are lost.
///
/// # Panics
///
/// If that takes more than 10 seconds.
///
/// # Cancel safety
///
/// Dropped before it returns, the deliveries that it has taken are lost.
pub async fn delivered(broker: &Broker, reader: &mut Reader) -> Result<Vec<Delivery>> {
    settled(broker).await;
    let tail = match reader.is_of_many() {
        true => Place::Position(broker.last_position().next()),
        false => reader.bounds().1,
    };
    let started = Instant::now();
    let mut all = Vec::new();
    loop {
        while let Some(delivery) = reader.next_ready().await? {
            all.push(delivery);
        }
        let next = reader.cursor().after.next();
        let is_behind = next.distance_to(tail).is_some_and(|distance| distance > 0);
        if !is_behind || broker.is_draining() {
            return Ok(all);
        }
        assert!(started.elapsed() < PATIENCE, "the reader is at {next}, and not at {tail}");
        pause().await;
    }
}

/// Waits until the threads of a broker of this module have nothing left to do: everything published
/// is answered, its readers are woken, and readers and members that were dropped are gone. A paused
/// clock stands meanwhile.
///
/// # Panics
///
/// If that takes more than 10 seconds.
///
/// # Cancel safety
///
/// Dropped before it returns, nothing was changed.
pub async fn settled(broker: &Broker) {
    let broker = broker.clone();
    let is_still = tokio::task::spawn_blocking(move || broker.busy().wait(PATIENCE)).await;
    assert!(is_still.unwrap_or(false), "the broker does not come to rest");
}

/// Waits until `holds` returns true, while the tasks of the test go on. A paused clock stands
/// meanwhile. `what` names the condition.
///
/// # Panics
///
/// If the condition does not hold within 10 seconds.
///
/// # Cancel safety
///
/// Dropped before it returns, nothing was changed.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        pause().await;
    }
}

/// Lets other tasks go on for a moment, by the real clock. A blocking task keeps a paused clock
/// from moving.
async fn pause() {
    let slept = tokio::task::spawn_blocking(|| std::thread::sleep(LOOK_STEP)).await;
    slept.expect("a sleep does not panic");
}
