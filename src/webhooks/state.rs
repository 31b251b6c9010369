//! How a webhook stands: its counts and last requests. It begins anew with the broker.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::event::Timestamp;

/// The requests that are kept for whoever looks.
const MAX_KEPT_ATTEMPTS: usize = 10;

/// One request to a receiver, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WebhookAttempt {
    /// When the request was sent.
    pub time: Timestamp,
    /// The id that the receiver was told: `webhook-id`.
    pub webhook_id: String,
    /// The number of events.
    pub events: u32,
    /// The deliveries of its first event, with this one.
    pub tries: u32,
    /// The time until the answer, in milliseconds.
    pub duration_ms: u64,
    /// The status of the answer; absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The beginning of the answer, up to 512 bytes, or the reason why there was none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub answer: String,
}

impl WebhookAttempt {
    /// Returns whether the receiver has taken the events: the status is from 200 to 299.
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// The counts of a webhook since the broker was started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WebhookCounts {
    /// The events that receivers have taken.
    pub delivered: u64,
    /// The requests that failed.
    pub failed: u64,
    /// The requests that are under way.
    pub in_flight: u64,
    /// The failures since the last success.
    pub failures_in_a_row: u32,
    /// The time of the last success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// The time before which no request is sent, after a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// The last requests, the newest first; 10 at the most.
    pub attempts: VecDeque<WebhookAttempt>,
}

/// The state that a webhook's task and those who look at it share.
#[derive(Debug)]
pub(super) struct HookState {
    parts: Mutex<StateParts>,
    /// Wakes the task when a pause after a failure is taken back.
    woken: Notify,
}

#[derive(Debug)]
struct StateParts {
    counts: WebhookCounts,
    hold_until: Option<Instant>,
    /// The time before which the receiver wants no request. A success of one that was under way
    /// does not end it.
    asked_until: Option<Instant>,
    /// The last success, or the start.
    well_at: Instant,
}

impl HookState {
    pub(super) fn new(now: Instant) -> Self {
        let counts = WebhookCounts::default();
        let parts = StateParts { counts, hold_until: None, asked_until: None, well_at: now };
        Self { parts: Mutex::new(parts), woken: Notify::new() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut StateParts) -> T) -> T {
        act(&mut self.parts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the counts.
    pub(super) fn counts(&self) -> WebhookCounts {
        self.with(|it| it.counts.clone())
    }

    /// Counts a request that is under way, until the value is dropped.
    pub(super) fn under_way(&self) -> UnderWay<'_> {
        self.with(|it| it.counts.in_flight += 1);
        UnderWay(self)
    }

    /// Notes a request that ended `now`, how long none is sent after it if it failed, and for how
    /// long the receiver wants none.
    pub(super) fn note(
        &self,
        attempt: WebhookAttempt,
        (pause, asked): (Duration, Option<Duration>),
        now: Instant,
    ) {
        self.with(|it| {
            let counts = &mut it.counts;
            if attempt.is_success() {
                counts.delivered += u64::from(attempt.events);
                counts.failures_in_a_row = 0;
                counts.last_success = Some(attempt.time);
                (it.hold_until, it.well_at) = (None, now);
            } else {
                counts.failed += 1;
                counts.failures_in_a_row = counts.failures_in_a_row.saturating_add(1);
                it.hold_until = it.hold_until.max(Some(now + pause));
                it.asked_until = it.asked_until.max(asked.map(|asked| now + asked));
            }
            it.counts.next_try = it.held_until(now).map(|until| {
                let left_ms = u64::try_from((until - now).as_millis()).unwrap_or(u64::MAX);
                Timestamp::now().plus_ms(left_ms)
            });
            it.keep(attempt);
        });
    }

    /// Keeps a request that was sent by hand, which counts for nothing.
    pub(super) fn keep(&self, attempt: WebhookAttempt) {
        self.with(|it| it.keep(attempt));
    }

    /// Returns the failures since the last success.
    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.with(|it| it.counts.failures_in_a_row)
    }

    /// Returns the time since the last success, or since the start.
    pub(super) fn ailing_for(&self, now: Instant) -> Duration {
        self.with(|it| now.saturating_duration_since(it.well_at))
    }

    /// Returns the time before which the receiver wants no request.
    pub(super) fn asked_until(&self) -> Option<Instant> {
        self.with(|it| it.asked_until)
    }

    /// Returns the time before which no request is sent.
    pub(super) fn hold_until(&self, now: Instant) -> Option<Instant> {
        self.with(|it| it.held_until(now))
    }

    /// Takes it that the receiver is well: what has failed before counts no more.
    pub(super) fn forgive(&self, now: Instant) {
        self.with(|it| {
            (it.counts.failures_in_a_row, it.counts.next_try) = (0, None);
            (it.hold_until, it.asked_until, it.well_at) = (None, None, now);
        });
        self.woken.notify_one();
    }

    /// Waits until a pause is taken back.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl StateParts {
    fn held_until(&self, now: Instant) -> Option<Instant> {
        self.hold_until.max(self.asked_until).filter(|until| *until > now)
    }

    fn keep(&mut self, attempt: WebhookAttempt) {
        let attempts = &mut self.counts.attempts;
        attempts.truncate(MAX_KEPT_ATTEMPTS - 1);
        attempts.push_front(attempt);
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct UnderWay<'a>(&'a HookState);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.with(|it| it.counts.in_flight -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(status: u16, number: u32) -> WebhookAttempt {
        let (time, answer) = (Timestamp::from_ms(1), String::new());
        let (webhook_id, status) = (format!("evt_{number}"), Some(status));
        let (events, tries, duration_ms) = (2, 1, 3);
        WebhookAttempt { time, webhook_id, events, tries, duration_ms, status, answer }
    }

    #[tokio::test]
    async fn failures_count_until_a_success_and_few_requests_are_kept() {
        let (second, mut now) = (Duration::from_secs(1), Instant::now());
        let state = HookState::new(now);
        for number in 0..20 {
            now += second;
            state.note(attempt(500, number), (second, None), now);
        }
        assert_eq!(state.failures_in_a_row(), 20);
        assert_eq!(state.ailing_for(now), 20 * second);
        assert_eq!(state.hold_until(now), Some(now + second));
        assert_eq!(state.hold_until(now + second), None);
        let counts = state.counts();
        assert_eq!(counts.attempts.len(), MAX_KEPT_ATTEMPTS);
        assert_eq!(counts.attempts[0].webhook_id, "evt_19");
        assert!(counts.next_try.is_some());
        state.note(attempt(204, 20), (Duration::ZERO, None), now);
        let counts = state.counts();
        assert_eq!((counts.delivered, counts.failed, counts.failures_in_a_row), (2, 20, 0));
        assert_eq!((state.hold_until(now), counts.next_try), (None, None));
        assert_eq!(state.ailing_for(now), Duration::ZERO);
        state.note(attempt(302, 21), (second, None), now);
        state.forgive(now);
        state.woken().await;
        assert_eq!((state.failures_in_a_row(), state.hold_until(now)), (0, None));
    }

    /// Goal: what a receiver asks for holds, whatever other requests come to that were under way.
    #[test]
    fn the_longest_time_that_a_receiver_asks_for_holds_until_somebody_forgives() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let state = HookState::new(now);
        state.note(attempt(429, 1), (second, Some(60 * second)), now);
        state.note(attempt(500, 2), (second, None), now);
        assert_eq!(state.hold_until(now), Some(now + 60 * second));
        state.note(attempt(200, 3), (Duration::ZERO, None), now);
        assert_eq!(state.hold_until(now), Some(now + 60 * second));
        assert!(state.counts().next_try.is_some());
        state.note(attempt(500, 4), (5 * second, None), now);
        state.note(attempt(500, 5), (second, None), now);
        assert_eq!(state.hold_until(now + 60 * second), None);
        state.forgive(now);
        assert_eq!(state.hold_until(now), None);
    }

    #[test]
    fn what_is_under_way_is_counted_until_it_ends() {
        let state = HookState::new(Instant::now());
        let (one, two) = (state.under_way(), state.under_way());
        assert_eq!(state.counts().in_flight, 2);
        drop((one, two));
        assert_eq!(state.counts().in_flight, 0);
    }
}
