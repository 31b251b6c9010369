//! What the dispatcher stores: the records of a step as one publish, and dead letters, each in one
//! publish with the record that finishes its event.

use tracing::warn;

use super::dead_letter::dead_letter;
use super::dispatcher::{Dispatcher, WorkAnswers, lock};
use super::records::{EVENT_TYPE, FloorRecord, floor_key};
use super::source::WorkSource;
use super::window::Window;
use super::window_entry::{End, WorkTime};
use super::work_commands::GrantedLeases;
use crate::broker::Publish;
use crate::error::Result;
use crate::event::NewEvent;

/// The most dead letters of one publish, and the bytes after which it takes no more of them.
const MAX_DEAD: usize = 64;
const MAX_DEAD_BYTES: usize = 1 << 20;

impl Dispatcher {
    /// Stores the records of all that was changed, and these dead letters, as one.
    pub(super) async fn store(&mut self, dead: Vec<Publish>) -> Result<()> {
        let Some(source) = &self.source else { return Ok(()) };
        let number = self.consumer.number;
        let mut events = Vec::new();
        let touched = std::mem::take(&mut self.window.touched);
        {
            let records = lock(&self.parts.records);
            let stored = records.of(number);
            for bucket in touched {
                let mut record = self.window.record(bucket);
                record.add_finished(source.finished_in(bucket));
                let before = stored.and_then(|stored| stored.buckets.get(&bucket));
                let event = match record.is_empty() {
                    true if before.is_none() => continue,
                    true => NewEvent::tombstone(bucket.key(number)),
                    false => NewEvent::json(&record)?.with_key(bucket.key(number)),
                };
                if before.is_none_or(|before| *before != event.payload) {
                    events.push(event.with_type(EVENT_TYPE));
                }
            }
            let floor = floor_of(source, &self.window);
            let before = stored.and_then(|stored| stored.floor.as_ref());
            // The first floor is stored at once: from then on it is known what is lost.
            let is_needed = before.is_none() || !events.is_empty() || !dead.is_empty();
            if before != Some(&floor) && is_needed {
                let event = NewEvent::json(&floor)?.with_key(floor_key(number));
                events.push(event.with_type(EVENT_TYPE));
            }
        }
        self.publish(events, dead).await
    }

    /// Publishes records, and dead letters, all or none; then the records are the stored ones.
    pub(super) async fn publish(
        &mut self,
        events: Vec<NewEvent>,
        dead: Vec<Publish>,
    ) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let written: Vec<_> =
            events.iter().map(|event| (event.key.clone(), event.payload.clone())).collect();
        let mut publishes = vec![Publish::new(self.parts.own_topic.clone(), events)];
        publishes.extend(dead);
        self.parts.broker.publish_within(self.parts.term, publishes).await?;
        let mut records = lock(&self.parts.records);
        for (key, payload) in written {
            records.apply(&key, &payload);
        }
        Ok(())
    }

    /// Sends the answers, now that the outcome of storing them is known.
    pub(super) fn answer(&mut self, answers: WorkAnswers, stored: Result<()>) {
        if let Err(error) = &stored {
            self.forget();
            for (reply, _) in answers.settled {
                let _gone = reply.send(Err(error.clone()));
            }
            for (reply, _) in answers.leased {
                let _gone = reply.send(Err(error.clone()));
            }
            for reply in answers.hastened {
                let _gone = reply.send(Err(error.clone()));
            }
            return;
        }
        for (reply, settled) in answers.settled {
            let _gone = reply.send(Ok(settled));
        }
        for reply in answers.hastened {
            let _gone = reply.send(Ok(()));
        }
        for (reply, leases) in answers.leased {
            // Leases that cannot be sent are taken back when they are dropped.
            let _gone = reply.send(Ok(GrantedLeases { leases, commands: self.parts.own.clone() }));
        }
    }

    /// Makes dead letters of some events that have no try left. The next step goes on with the
    /// others, after what workers have asked meanwhile.
    pub(super) async fn bury(&mut self, time: WorkTime) {
        let dying = self.window.next_dying(MAX_DEAD, MAX_DEAD_BYTES);
        if dying.is_empty() {
            return;
        }
        let Err(error) = self.bury_some(&dying, time).await else {
            self.problem = None;
            return;
        };
        warn!(consumer = %self.consumer.name, %error, "events cannot become dead letters");
        self.problem = Some(error.to_string());
        self.forget();
        if self.load(time).await.is_err() {
            return; // The next step loads it, and comes back to them.
        }
        let retry_ms = time.steady_ms.saturating_add(self.parts.config.dead_retry_ms);
        self.window.run_due(time, self.consumer.settings.max_tries);
        let dying: Vec<u64> = self.window.dying().iter().copied().collect();
        dying.into_iter().for_each(|position| self.window.die_later(position, retry_ms));
    }

    pub(super) async fn bury_some(&mut self, dying: &[u64], time: WorkTime) -> Result<()> {
        let target = self.consumer.settings.dead_letter_of(&self.consumer.selection)?;
        let mut events = self.events(dying, time).await?;
        let mut dead = Vec::new();
        for position in dying {
            let entry = self.window.entry(*position);
            let event = events.remove(position);
            let letter = match (&target, entry, event) {
                (Some(_), Some(entry), Some(event)) => {
                    dead_letter(&self.consumer.name, entry, &event)
                }
                _ => None,
            };
            let end = if letter.is_some() { End::Dead } else { End::Lost };
            self.window.finish(*position, end);
            dead.extend(letter);
        }
        self.window.pass_finished();
        let dead = target.filter(|_| !dead.is_empty()).map(|topic| Publish::new(topic, dead));
        self.store(dead.into_iter().collect()).await
    }

    /// Stores the floor, if it has moved past events that the filter does not pick.
    pub(super) async fn remember_floor(&mut self) {
        let Some(source) = &self.source else { return };
        let floor = floor_of(source, &self.window);
        let stored = lock(&self.parts.records).of(self.consumer.number).cloned();
        let stored = stored.and_then(|stored| stored.floor);
        if stored.is_none_or(|stored| stored == floor) {
            return;
        }
        let Ok(event) = NewEvent::json(&floor) else { return };
        let event = event.with_key(floor_key(self.consumer.number)).with_type(EVENT_TYPE);
        if let Err(error) = self.publish(vec![event], Vec::new()).await {
            warn!(consumer = %self.consumer.name, %error, "the floor is not stored");
        }
    }
}

/// Returns the record of the floor as it is now.
fn floor_of(source: &WorkSource, window: &Window) -> FloorRecord {
    let (cursor, counted) = (source.floor(window), window.counted.clone());
    FloorRecord { cursor, totals: window.totals, counted }
}
