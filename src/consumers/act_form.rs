//! What a command asks for, in the form in which it travels to the leader: JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::deciding::Act;
use super::id::{ConsumerChange, ConsumerSettings};
use super::marking::{MarkedPlaces, Marking};
use super::marks::{Exceptions, Mark};
use super::ranges::{set_of, text_of};
use super::requests::{Checkpoint, Reach};
use super::work::WorkSettings;
use crate::broker::Filter;
use crate::cursor::{Cursor, Sequence};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicName;

/// The form of an [`Act`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActForm {
    Put {
        settings: ConsumerSettings,
        from: Option<Cursor>,
        reach: ReachForm,
    },
    Update {
        filter: Option<Filter>,
        shared: Option<WorkSettings>,
    },
    Delete,
    Checkpoint {
        to: Cursor,
        force: bool,
        /// An empty list for a checkpoint that is expected to be none.
        expected: Option<Vec<Cursor>>,
        reach: ReachForm,
    },
    Mark {
        mark: BTreeSet<Mark>,
        unmark: BTreeSet<Mark>,
        snooze_until: Option<Timestamp>,
        by: String,
        events: PlacesForm,
        gone: BTreeMap<TopicName, String>,
    },
}

/// The form of [`MarkedPlaces`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PlacesForm {
    These(BTreeMap<TopicName, String>),
    UpTo { cursor: Cursor, ends: Vec<(TopicName, u64)> },
}

type ReachForm = Option<Vec<(TopicName, Option<Sequence>)>>;

impl From<&Act> for ActForm {
    fn from(act: &Act) -> Self {
        let form_of = |reach: &Reach| reach.as_ref().map(|reach| reach.to_vec());
        match act {
            Act::Put { settings, from, reach } => {
                Self::Put { settings: settings.clone(), from: *from, reach: form_of(reach) }
            }
            Act::Update(ConsumerChange { filter, shared }) => {
                Self::Update { filter: filter.clone(), shared: shared.clone() }
            }
            Act::Delete => Self::Delete,
            Act::Checkpoint { to: Checkpoint { to, force, expected }, reach } => {
                let expected = expected.map(|expected| expected.into_iter().collect());
                Self::Checkpoint { to: *to, force: *force, expected, reach: form_of(reach) }
            }
            Act::Mark(marking) => {
                let Marking { mark, unmark, snooze_until, by, events, gone } = &**marking;
                let events = match events {
                    MarkedPlaces::These(events) => PlacesForm::These(texts(events)),
                    MarkedPlaces::UpTo { cursor, ends } => {
                        PlacesForm::UpTo { cursor: *cursor, ends: ends.clone() }
                    }
                };
                let (mark, unmark, by) = (mark.clone(), unmark.clone(), by.to_string());
                let (snooze_until, gone) = (*snooze_until, texts(gone));
                Self::Mark { mark, unmark, snooze_until, by, events, gone }
            }
        }
    }
}

impl TryFrom<ActForm> for Act {
    type Error = Error;

    fn try_from(form: ActForm) -> Result<Self> {
        let reach_of = |form: ReachForm| form.map(Into::into);
        Ok(match form {
            ActForm::Put { settings, from, reach } => {
                Self::Put { settings, from, reach: reach_of(reach) }
            }
            ActForm::Update { filter, shared } => Self::Update(ConsumerChange { filter, shared }),
            ActForm::Delete => Self::Delete,
            ActForm::Checkpoint { to, force, expected, reach } => {
                let expected = expected.map(|expected| expected.first().copied());
                Self::Checkpoint { to: Checkpoint { to, force, expected }, reach: reach_of(reach) }
            }
            ActForm::Mark { mark, unmark, snooze_until, by, events, gone } => {
                let events = match events {
                    PlacesForm::These(events) => MarkedPlaces::These(sets(events)?),
                    PlacesForm::UpTo { cursor, ends } => MarkedPlaces::UpTo { cursor, ends },
                };
                let (by, gone) = (by.into(), sets(gone)?);
                Self::Mark(Box::new(Marking { mark, unmark, snooze_until, by, events, gone }))
            }
        })
    }
}

fn texts(sets: &Exceptions) -> BTreeMap<TopicName, String> {
    sets.iter().map(|(topic, set)| (topic.clone(), text_of(set))).collect()
}

fn sets(texts: BTreeMap<TopicName, String>) -> Result<Exceptions> {
    texts.into_iter().map(|(topic, text)| Ok((topic, set_of(&text)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::{Epoch, Place, Position};

    /// Goal: the leader decides on exactly what was asked for on another node.
    #[test]
    fn an_act_reads_back_as_it_was_written() {
        let name = |text: &str| -> TopicName { text.parse().unwrap() };
        let epoch = Some("9f3c2a1b".parse::<Epoch>().unwrap());
        let after = Place::Position(Position::new(7));
        let cursor = Cursor { after, since: Some(3), epoch };
        let reach: Reach =
            Some(vec![(name("a"), Some(Sequence::new(4))), (name("b"), None)].into());
        let filter = Filter::default().of_type("mention");
        let shared = WorkSettings { lease_ms: 5_000, ..WorkSettings::default() };
        let settings = ConsumerSettings::default().filter(filter.clone()).shared(shared.clone());
        let checkpoint = |expected| Act::Checkpoint {
            to: Checkpoint { to: cursor, force: true, expected },
            reach: reach.clone(),
        };
        let set = |text: &str| -> Exceptions {
            [(name("a"), set_of(text).unwrap())].into_iter().collect()
        };
        let mark = |events, snooze_until| {
            let (mark, unmark) = ([Mark::Archived].into(), [Mark::Seen, Mark::Read].into());
            let (by, gone) = ("me".into(), set("1"));
            Act::Mark(Box::new(Marking { mark, unmark, snooze_until, by, events, gone }))
        };
        let up_to = MarkedPlaces::UpTo { cursor, ends: vec![(name("a"), 9)] };
        let acts = [
            Act::Put { settings, from: Some(cursor), reach: reach.clone() },
            Act::Put { settings: ConsumerSettings::default(), from: None, reach: None },
            Act::Update(ConsumerChange { filter: Some(filter), shared: None }),
            Act::Update(ConsumerChange { filter: None, shared: Some(shared) }),
            Act::Delete,
            checkpoint(None),
            checkpoint(Some(None)),
            checkpoint(Some(Some(cursor))),
            mark(MarkedPlaces::These(set("1-3,9")), Some(Timestamp::from_ms(1_800_000_000_123))),
            mark(up_to, None),
        ];
        for act in acts {
            let text = serde_json::to_string(&ActForm::from(&act)).unwrap();
            let read = Act::try_from(serde_json::from_str::<ActForm>(&text).unwrap()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{act:?}"), "{text}");
        }
    }
}
