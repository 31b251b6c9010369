//! What a consumer must be: its checkpoint and its marks, as its clients were told, and the
//! requests that were not answered.
//!
//! ```text
//! known ── acknowledged requests ──▶ certain ── requests without an answer, in their order ──▶ ?
//! ```
//!
//! After a kill, the broker has done some of the unanswered requests: any number of the first ones,
//! and none of the rest.

use std::collections::HashMap;

use serde_json::{Value, json};

/// An event that a topic has.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) topic: String,
    pub(super) sequence: u64,
    pub(super) position: u64,
    pub(super) is_even: bool,
}

/// The marks of an event. A snooze has its end, in milliseconds since 1970; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    pub(super) seen: bool,
    pub(super) read: bool,
    pub(super) archived: bool,
    pub(super) snoozed_until: u64,
}

impl State {
    /// Returns the marks as they are told at a time.
    pub(super) fn at(self, now_ms: u64) -> Self {
        let is_over = self.snoozed_until <= now_ms;
        Self { snoozed_until: if is_over { 0 } else { self.snoozed_until }, ..self }
    }
}

/// The events that a request marks.
#[derive(Debug, Clone)]
pub(super) enum Picked {
    Named(Vec<(String, u64)>),
    UpTo { number: u64, only_even: bool, only_unread: bool },
}

/// A request to change one mark.
#[derive(Debug, Clone)]
pub(super) struct Marking {
    pub(super) mark: &'static str,
    pub(super) is_taken_away: bool,
    /// The end of a snooze.
    pub(super) until_ms: u64,
    pub(super) events: Picked,
    /// The time at which it was sent.
    pub(super) sent_ms: u64,
}

impl Marking {
    /// Changes the marks of an event. Returns whether the request is about the event.
    fn apply(&self, event: &Listed, has_positions: bool, state: &mut State) -> bool {
        match &self.events {
            Picked::Named(names) => {
                let is_it = |(topic, sequence): &(String, u64)| {
                    *topic == event.topic && *sequence == event.sequence
                };
                if !names.iter().any(is_it) {
                    return false;
                }
            }
            Picked::UpTo { number, only_even, only_unread } => {
                let place = if has_positions { event.position } else { event.sequence };
                let is_snoozed = state.snoozed_until > self.sent_ms;
                // A list that was shown has no archived events.
                let is_list = *only_even || *only_unread;
                let is_other = is_list && state.archived
                    || *only_even && !event.is_even
                    || *only_unread && state.read;
                if place > *number || is_snoozed || is_other {
                    return false;
                }
            }
        }
        match (self.mark, self.is_taken_away) {
            ("seen", is_taken) => (state.seen, state.read) = (!is_taken, state.read && !is_taken),
            ("read", is_taken) => (state.seen, state.read) = (state.seen || !is_taken, !is_taken),
            ("archived", true) => state.archived = false,
            ("archived", false) => (state.archived, state.snoozed_until) = (true, 0),
            ("snoozed", true) => state.snoozed_until = 0,
            ("snoozed", false) => {
                *state = State { snoozed_until: self.until_ms, ..State::default() };
            }
            other => panic!("{other:?}"),
        }
        true
    }

    /// Returns the request.
    pub(super) fn json(&self, has_positions: bool) -> Value {
        let list = if self.is_taken_away { "unmark" } else { "mark" };
        let mut json = json!({list: [self.mark]});
        match &self.events {
            Picked::Named(names) => {
                let name = |(topic, sequence): &(String, u64)| match has_positions {
                    true => json!({"topic": topic, "sequence": sequence}),
                    false => json!(sequence),
                };
                json["events"] = names.iter().map(name).collect();
            }
            Picked::UpTo { number, only_even, only_unread } => {
                json["up_to"] = cursor(*number, has_positions);
                if *only_even {
                    json["filter"] = json!({"types": ["even"]});
                }
                if *only_unread {
                    json["marks"] = json!({"read": false});
                }
            }
        }
        if self.until_ms > 0 {
            let until = std::time::UNIX_EPOCH + std::time::Duration::from_millis(self.until_ms);
            json["snooze_until"] = json!(humantime::format_rfc3339_millis(until).to_string());
        }
        json
    }
}

/// A request to set the checkpoint; 0 stands for none.
#[derive(Debug, Clone)]
pub(super) struct Moving {
    pub(super) to: u64,
    pub(super) is_forced: bool,
    pub(super) expected: Option<u64>,
}

impl Moving {
    /// Returns the checkpoint after the request, and whether it moved; `None` if another checkpoint
    /// was expected.
    pub(super) fn applied(&self, present: u64) -> Option<(u64, bool)> {
        if self.expected.is_some_and(|expected| expected != present) {
            return None;
        }
        let moves = self.to > present || self.is_forced && self.to != present;
        Some((if moves { self.to } else { present }, moves))
    }

    /// Returns the request.
    pub(super) fn json(&self, has_positions: bool) -> Value {
        let mut json = json!({"cursor": cursor(self.to, has_positions), "force": self.is_forced});
        match self.expected {
            Some(0) => json["expected"] = Value::Null,
            Some(expected) => json["expected"] = cursor(expected, has_positions),
            None => {}
        }
        json
    }
}

fn cursor(number: u64, has_positions: bool) -> Value {
    match has_positions {
        true => json!(format!("@{number}")),
        false => json!(number.to_string()),
    }
}

/// A consumer, as far as its clients know it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) name: &'static str,
    /// The topic, or the pattern.
    pub(super) selection: &'static str,
    /// Whether it has only the events of the type `even`.
    pub(super) is_of_even: bool,
    pub(super) checkpoint: u64,
    /// The requests for checkpoints that are not answered yet.
    pub(super) moving: Vec<Moving>,
    /// The marks at the last check; an event that is not in it has none.
    pub(super) marks: HashMap<(String, u64), State>,
    /// The acknowledged requests for marks since then.
    pub(super) marked: Vec<Marking>,
    /// The requests for marks that are not answered yet.
    pub(super) marking: Vec<Marking>,
    /// The highest revision that was told.
    pub(super) revision: u64,
    /// The number of acknowledged requests, and of those that changed something.
    pub(super) acknowledged: u64,
    pub(super) changes: u64,
}

impl Kept {
    pub(super) fn new(name: &'static str, selection: &'static str, is_of_even: bool) -> Self {
        Self {
            name,
            selection,
            is_of_even,
            checkpoint: 0,
            moving: Vec::new(),
            marks: HashMap::new(),
            marked: Vec::new(),
            marking: Vec::new(),
            revision: 0,
            acknowledged: 0,
            changes: 0,
        }
    }

    pub(super) fn has_positions(&self) -> bool {
        self.selection.contains(['*', '>'])
    }

    /// Returns the path of one of the consumer's resources.
    pub(super) fn path(&self, of: &str) -> String {
        format!("/v1/consumers/{}{of}?topic={}", self.name, self.selection.replace('>', "%3E"))
    }

    /// Whether the consumer has events of a topic.
    pub(super) fn reads(&self, topic: &str) -> bool {
        match self.selection.strip_suffix('>') {
            Some(start) => topic.starts_with(start),
            None => topic == self.selection,
        }
    }

    /// Notes an answer: its revision, and whether it changed something.
    pub(super) fn told(&mut self, revision: u64, is_changed: bool) {
        self.revision = revision.max(self.revision); // Checkpoints and marks overtake each other.
        self.acknowledged += 1;
        self.changes += u64::from(is_changed);
    }

    /// Returns the checkpoints that may be there: after each number of unanswered requests.
    pub(super) fn possible_checkpoints(&self) -> Vec<u64> {
        let mut possible = vec![self.checkpoint];
        for moving in &self.moving {
            let present = *possible.last().unwrap();
            possible.push(moving.applied(present).map_or(present, |(next, _)| next));
        }
        possible
    }

    /// Returns the marks of events that may be there: after each number of unanswered requests.
    pub(super) fn possible_marks(&self, events: &[Listed]) -> Vec<Vec<State>> {
        let has_positions = self.has_positions();
        let of = |event: &Listed| {
            let place = (event.topic.clone(), event.sequence);
            let mut state = self.marks.get(&place).copied().unwrap_or_default();
            for marking in &self.marked {
                marking.apply(event, has_positions, &mut state);
            }
            state
        };
        let mut possible: Vec<Vec<State>> = vec![events.iter().map(of).collect()];
        for marking in &self.marking {
            let mut next = possible.last().unwrap().clone();
            for (event, state) in events.iter().zip(&mut next) {
                marking.apply(event, has_positions, state);
            }
            possible.push(next);
        }
        possible
    }

    /// Returns the acknowledged requests that concern an event, with the event's marks after each.
    pub(super) fn history(&self, event: &Listed) -> Vec<(&Marking, State)> {
        let place = (event.topic.clone(), event.sequence);
        let mut state = self.marks.get(&place).copied().unwrap_or_default();
        let mut history = Vec::new();
        for marking in &self.marked {
            if marking.apply(event, self.has_positions(), &mut state) {
                history.push((marking, state));
            }
        }
        history
    }

    /// Takes what a check has found as known.
    pub(super) fn is_now(&mut self, checkpoint: u64, events: &[Listed], marks: Vec<State>) {
        self.checkpoint = checkpoint;
        let places = events.iter().map(|event| (event.topic.clone(), event.sequence));
        self.marks = places.zip(marks).filter(|(_, state)| *state != State::default()).collect();
        (self.moving, self.marked, self.marking) = Default::default();
    }
}
