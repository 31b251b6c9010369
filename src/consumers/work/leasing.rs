//! The dispatcher's decisions on pulls: which waiting pull gets which events.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dispatcher::{Dispatcher, MAX_SEARCH, WaitingPull, WorkAnswers};
use super::fetching::events_of;
use super::lease_id::LeaseId;
use super::requests::{Leased, MAX_PULL, PullRequest};
use super::source::WantedWork;
use super::window_entry::{End, LeaseBounds, WorkTime};
use super::work_commands::GrantedLeases;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::polls;
use crate::topic::TopicName;

impl Dispatcher {
    /// Returns how many events the waiting pulls want.
    pub(super) fn wanted(&self) -> WantedWork {
        let ready = self.waiting.iter().map(|pull| pull.limit).sum::<usize>();
        let max_held_bytes =
            usize::try_from(self.parts.config.max_held_bytes).unwrap_or(usize::MAX);
        let settings = &self.consumer.settings;
        let ready = ready.min(settings.max_in_flight as usize);
        let now = Instant::now();
        let is_late = |pull: &WaitingPull| pull.deadline.is_some_and(|deadline| deadline <= now);
        let is_exact = self.waiting.iter().any(is_late);
        WantedWork { ready, max_ahead: settings.max_ahead as usize, max_held_bytes, is_exact }
    }

    pub(super) fn add_waiting(
        &mut self,
        request: PullRequest,
        reply: oneshot::Sender<Result<GrantedLeases>>,
    ) {
        let limit = self.parts.config.max_waiting;
        // Once in a step: thousands may wait, and a thousand more may come together.
        if self.waiting.len() as u64 >= limit && !self.has_looked {
            self.has_looked = true;
            self.waiting.retain(|pull| !pull.reply.is_closed());
        }
        if self.waiting.len() as u64 >= limit {
            let _gone = reply.send(Err(Error::crowded("events of this consumer", limit)));
            return;
        }
        let came = Instant::now();
        let PullRequest { worker, limit, max_bytes, wait } = request;
        let deadline = came.checked_add(wait);
        let (worker, limit) = (worker.into(), limit.clamp(1, MAX_PULL));
        self.waiting.push_back(WaitingPull { worker, limit, max_bytes, came, deadline, reply });
    }

    /// Leases events to the pulls that wait, in the order in which they came.
    pub(super) async fn lease_to_waiting(
        &mut self,
        time: WorkTime,
        answers: &mut WorkAnswers,
    ) -> Result<()> {
        loop {
            if self.waiting.is_empty() {
                return Ok(());
            }
            let wanted = self.wanted();
            let Self { parts, consumer, window, source, .. } = self;
            if let Some(source) = source {
                source.fill(&parts.broker, consumer, window, wanted).await?;
            }
            let (mut lost, mut kept) = (false, VecDeque::new());
            for _ in 0..self.waiting.len() {
                if self.window.ready_count() == 0 {
                    break; // Thousands may wait for the next event.
                }
                let Some(pull) = self.waiting.pop_front() else { break };
                if pull.reply.is_closed() {
                    continue;
                }
                match self.lease_to(&pull, time).await {
                    Ok((leases, some_lost)) if leases.is_empty() => {
                        lost |= some_lost;
                        kept.push_back(pull);
                    }
                    Ok((leases, _)) => answers.leased.push((pull.reply, leases)),
                    Err(error) => drop(pull.reply.send(Err(error))),
                }
                polls::rest().await;
            }
            kept.append(&mut self.waiting);
            self.waiting = kept;
            if !lost {
                break;
            }
            self.window.pass_finished(); // Where events were gone, there may be room for others.
        }
        self.end_waits();
        Ok(())
    }

    /// Answers the pulls whose wait is over, and forgets those that were given up.
    pub(super) fn end_waits(&mut self) {
        let now = Instant::now();
        let is_full = self.window.len() >= self.consumer.settings.max_ahead as usize;
        let is_searched = is_full || self.source.as_ref().is_some_and(|source| source.is_at_tail);
        let own = &self.parts.own;
        let is_over = |pull: &WaitingPull| {
            let is_late = pull.deadline.is_some_and(|deadline| deadline <= now);
            let is_searched = is_searched || now.duration_since(pull.came) >= MAX_SEARCH;
            is_late && is_searched || pull.reply.is_closed()
        };
        let waiting = std::mem::take(&mut self.waiting);
        let (over, waiting) = waiting.into_iter().partition::<VecDeque<_>, _>(is_over);
        self.waiting = waiting;
        for pull in over {
            let none = GrantedLeases { leases: Vec::new(), commands: own.clone() };
            let _gone = pull.reply.send(Ok(none));
        }
    }

    /// Leases events to one pull. Returns them, and whether some were found to be gone.
    pub(super) async fn lease_to(
        &mut self,
        pull: &WaitingPull,
        time: WorkTime,
    ) -> Result<(Vec<Leased>, bool)> {
        let settings = &self.consumer.settings;
        let bounds = LeaseBounds {
            in_all: settings.max_in_flight,
            per_worker: settings.max_in_flight_per_worker,
        };
        let length_ms = settings.lease_ms;
        let chosen = self.window.choose(&pull.worker, pull.limit, pull.max_bytes, bounds);
        if chosen.is_empty() {
            return Ok((Vec::new(), false));
        }
        let mut events = self.events(&chosen, time).await?;
        let mut leases = Vec::with_capacity(chosen.len());
        let mut lost = false;
        for position in chosen {
            let topic = self.window.entry(position).and_then(|entry| entry.topic.clone());
            let (Some(topic), Some(event)) = (topic, events.remove(&position)) else {
                self.window.finish(position, End::Lost);
                lost = true;
                continue;
            };
            let leased = self.window.lease(position, &pull.worker, length_ms, time);
            let Some((place, tries, until)) = leased else { continue };
            let lease = LeaseId { consumer: self.consumer.number, place, tries };
            leases.push(Leased { lease, topic, event, tries, until });
        }
        Ok((leases, lost))
    }

    /// Returns those of the events at these positions that are still there, by position.
    pub(super) async fn events(
        &mut self,
        positions: &[u64],
        time: WorkTime,
    ) -> Result<HashMap<u64, Arc<Event>>> {
        let mut found = HashMap::with_capacity(positions.len());
        let mut absent: HashMap<TopicName, Vec<(Sequence, u64)>> = HashMap::new();
        let mut earliest: HashMap<TopicName, Option<Sequence>> = HashMap::new();
        for position in positions {
            let held = self.window.take_held(*position);
            let Some(entry) = self.window.entry(*position) else { continue };
            let Some(topic) = &entry.topic else { continue };
            let sequence = entry.place.sequence;
            let first = *earliest.entry(topic.clone()).or_insert_with(|| {
                self.parts.broker.topic(topic).ok().map(|info| info.extent.earliest)
            });
            if first.is_none_or(|first| sequence < first) {
                continue; // It is gone.
            }
            match held.filter(|event| !has_expired(event, time)) {
                Some(event) => drop(found.insert(*position, event)),
                None => absent.entry(topic.clone()).or_default().push((sequence, *position)),
            }
        }
        for (topic, mut wanted) in absent {
            wanted.sort_unstable();
            let sequences: Vec<Sequence> = wanted.iter().map(|(sequence, _)| *sequence).collect();
            let mut events = events_of(&self.parts.broker, &topic, &sequences).await?;
            let places = wanted.into_iter();
            found
                .extend(places.filter_map(|(sequence, position)| {
                    Some((position, events.remove(&sequence)?))
                }));
        }
        Ok(found)
    }
}

fn has_expired(event: &Event, time: WorkTime) -> bool {
    let ttl_ms = event.content.ttl_ms;
    ttl_ms.is_some_and(|ttl_ms| event.time.as_ms().saturating_add(ttl_ms) <= time.wall_ms)
}
