//! What workers say of their leases, done to the window.
//!
//! # Why
//!
//! A lease that ran out can still be settled as long as the event was not leased again: nobody else
//! has begun its work, so nothing is done twice. The number of the try tells the leases of one
//! event apart.

use super::places::WorkPlace;
use super::requests::SettleOutcome;
use super::window::Window;
use super::window_entry::{End, EntryState, Span, WorkTime};
use crate::event::Timestamp;

impl Window {
    /// Takes a lease back that no worker has heard of: as if it had never been.
    pub(super) fn take_back(&mut self, place: WorkPlace, tries: u32) {
        let Some(position) = self.leased_at(place, tries) else { return };
        if let Some(entry) = self.entries.get_mut(&position) {
            entry.tries = tries.saturating_sub(1);
        }
        self.set(position, EntryState::Waiting);
    }

    /// Finishes an event for the worker that has this lease of it, or had it last.
    pub(super) fn ack(&mut self, place: WorkPlace, tries: u32) -> SettleOutcome {
        let Some(position) = self.places.get(&place).copied() else {
            return self.outcome_beyond(place);
        };
        let Some(entry) = self.entries.get(&position) else { return SettleOutcome::Over };
        match entry.state {
            EntryState::Finished => SettleOutcome::Done,
            _ if entry.tries != tries => SettleOutcome::Over,
            EntryState::Leased(..) => self.finish(position, End::Finished),
            // Nobody else had it since, so its work is not done twice.
            _ if entry.ran_out => self.finish(position, End::Finished),
            _ => SettleOutcome::Over,
        }
    }

    /// Returns the outcome of an acknowledgement of an event that is not in the window. A leased
    /// event leaves the window only when it is finished.
    pub(super) fn outcome_beyond(&self, place: WorkPlace) -> SettleOutcome {
        match self.newest.get(&place.topic) {
            Some(newest) if place.sequence > *newest => SettleOutcome::Over,
            _ => SettleOutcome::Done,
        }
    }

    /// Notes that a worker did not finish an event.
    pub(super) fn nack(
        &mut self,
        (place, tries): (WorkPlace, u32),
        (delay_ms, reason): (u64, &str),
        max_tries: u32,
        time: WorkTime,
    ) -> SettleOutcome {
        let Some(position) = self.places.get(&place).copied() else { return SettleOutcome::Over };
        let Some(entry) = self.entries.get_mut(&position) else { return SettleOutcome::Over };
        let is_leased = matches!(entry.state, EntryState::Leased(..));
        if entry.tries != tries || entry.state == EntryState::Finished {
            return SettleOutcome::Over;
        }
        if !is_leased && !entry.ran_out {
            return SettleOutcome::Done; // It was said before.
        }
        if entry.topic.is_none() {
            return self.finish(position, End::Lost);
        }
        entry.ran_out = false;
        entry.reason = reason.into();
        let state = if max_tries > 0 && tries >= max_tries {
            EntryState::Dead(None)
        } else if delay_ms > 0 {
            EntryState::Delayed(Span::from(time, delay_ms))
        } else {
            EntryState::Waiting
        };
        self.set(position, state);
        SettleOutcome::Done
    }

    /// Gives a lease back unused.
    pub(super) fn release(&mut self, place: WorkPlace, tries: u32) -> SettleOutcome {
        let Some(position) = self.places.get(&place).copied() else { return SettleOutcome::Over };
        let Some(entry) = self.entries.get(&position) else { return SettleOutcome::Over };
        match entry.state {
            EntryState::Leased(..) if entry.tries == tries => {
                if entry.topic.is_none() {
                    return self.finish(position, End::Lost);
                }
                self.set(position, EntryState::Waiting);
                SettleOutcome::Done
            }
            EntryState::Waiting if entry.tries == tries => SettleOutcome::Done,
            _ => SettleOutcome::Over,
        }
    }

    /// Ends the delays of all events that failed: they can be leased now.
    pub(super) fn hasten(&mut self) {
        let is_delayed = |position: &u64| {
            let entry = self.entries.get(position);
            entry.is_some_and(|entry| matches!(entry.state, EntryState::Delayed(_)))
        };
        let due = self.due.iter().map(|(_, position)| *position);
        let delayed: Vec<u64> = due.filter(is_delayed).collect();
        delayed.into_iter().for_each(|position| self.set(position, EntryState::Waiting));
    }

    /// Has a lease hold for `length_ms` from now on.
    pub(super) fn extend(
        &mut self,
        place: WorkPlace,
        tries: u32,
        length_ms: u64,
        time: WorkTime,
    ) -> SettleOutcome {
        let Some(position) = self.leased_at(place, tries) else { return SettleOutcome::Over };
        let Some(EntryState::Leased(_, worker)) = self.state(position) else {
            return SettleOutcome::Over;
        };
        let span = Span::from(time, length_ms);
        self.set(position, EntryState::Leased(span, worker));
        SettleOutcome::Extended(Timestamp::from_ms(span.until_ms))
    }

    pub(super) fn state(&self, position: u64) -> Option<EntryState> {
        self.entries.get(&position).map(|entry| entry.state.clone())
    }

    /// Returns the position of an event that is leased for the given try.
    pub(super) fn leased_at(&self, place: WorkPlace, tries: u32) -> Option<u64> {
        let position = *self.places.get(&place)?;
        let entry = self.entries.get(&position)?;
        let is_leased = matches!(entry.state, EntryState::Leased(..)) && entry.tries == tries;
        is_leased.then_some(position)
    }
}
