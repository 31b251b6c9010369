//! One consumer as the view holds it: compact, and never changed. A change makes a new one.

use std::sync::{Arc, LazyLock};

use super::id::{ConsumerId, ConsumerSettings};
use super::marks::Marks;
use super::name::ConsumerName;
use super::requests::{ConsumerInfo, ConsumerState, Reach};
use crate::cursor::{Cursor, Epoch, Place, Position, Sequence};
use crate::event::Timestamp;
use crate::topic::TopicPattern;

/// What parts owner, selection and name in the text of an identity. None of them has it, so texts
/// sort as the three do.
const PART: char = '\0';

/// One consumer.
#[derive(Debug, Clone)]
pub(super) struct ConsumerEntry {
    /// Owner, selection and name, with a [`PART`] between them: one text, because there may be a
    /// million.
    text: Arc<str>,
    /// The lengths of owner and selection in the text, in bytes.
    owner_bytes: u16,
    selection_bytes: u16,
    /// The number of the consumer, which is in the keys of its records.
    pub(super) number: u64,
    /// The number of the checkpoint's place.
    place: u64,
    /// The position of the newest of its records; 0 before the first.
    pub(super) revision: u64,
    created_ms: u64,
    updated_ms: u64,
    /// What most consumers do not have.
    rest: Option<Box<EntryRest>>,
}

/// What most consumers do not have.
#[derive(Debug, Clone, Default)]
pub(super) struct EntryRest {
    pub(super) settings: Arc<ConsumerSettings>,
    /// The number of a drop in the checkpoint: see [`Cursor::since`].
    pub(super) since: Option<u64>,
    pub(super) reach: Reach,
    pub(super) marks: Option<Arc<Marks>>,
}

static DEFAULT_SETTINGS: LazyLock<Arc<ConsumerSettings>> = LazyLock::new(Arc::default);

impl ConsumerEntry {
    /// Returns a consumer with nothing finished and nothing marked.
    pub(super) fn new(id: &ConsumerId, number: u64) -> Self {
        let ConsumerId { owner, selection, name } = id;
        Self {
            text: text_of(owner, selection.as_str(), name.as_str()),
            owner_bytes: length(owner),
            selection_bytes: length(selection.as_str()),
            number,
            place: 0,
            revision: 0,
            created_ms: 0,
            updated_ms: 0,
            rest: None,
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn owner(&self) -> &str {
        &self.text[..usize::from(self.owner_bytes)]
    }

    pub(super) fn selection(&self) -> &str {
        let start = usize::from(self.owner_bytes) + 1;
        &self.text[start..start + usize::from(self.selection_bytes)]
    }

    pub(super) fn name(&self) -> &str {
        &self.text[usize::from(self.owner_bytes) + usize::from(self.selection_bytes) + 2..]
    }

    /// Returns the identity.
    ///
    /// # Panics
    ///
    /// Never: the identity was checked when the entry was made.
    pub(super) fn id(&self) -> ConsumerId {
        let selection = TopicPattern::new(self.selection()).expect("it was checked before");
        let name = ConsumerName::new(self.name()).expect("it was checked before");
        ConsumerId { owner: self.owner().to_owned(), selection, name }
    }

    /// Whether the places of the consumer are positions.
    pub(super) fn has_positions(&self) -> bool {
        self.selection().contains(['*', '>'])
    }

    /// Returns the checkpoint without its epoch; `None` if nothing is finished.
    pub(super) fn checkpoint(&self) -> Option<Cursor> {
        let since = self.rest.as_ref().and_then(|rest| rest.since);
        let after = match self.has_positions() {
            true => Place::Position(Position::new(self.place)),
            false => Place::Sequence(Sequence::new(self.place)),
        };
        (self.place > 0 || since.is_some()).then_some(Cursor { after, since, epoch: None })
    }

    pub(super) fn created(&self) -> Timestamp {
        Timestamp::from_ms(self.created_ms)
    }

    pub(super) fn updated(&self) -> Timestamp {
        Timestamp::from_ms(self.updated_ms)
    }

    pub(super) fn settings(&self) -> &Arc<ConsumerSettings> {
        self.rest.as_ref().map_or(&DEFAULT_SETTINGS, |rest| &rest.settings)
    }

    pub(super) fn reach(&self) -> Reach {
        self.rest.as_ref().and_then(|rest| rest.reach.clone())
    }

    pub(super) fn marks(&self) -> Arc<Marks> {
        let marks = self.rest.as_ref().and_then(|rest| rest.marks.clone());
        marks.unwrap_or_else(|| Arc::new(Marks::none(self.has_positions())))
    }

    /// Returns this entry with another checkpoint.
    pub(super) fn with_checkpoint(mut self, to: Option<Cursor>, reach: Reach) -> Self {
        self.place = to.map_or(0, |cursor| cursor.after.number());
        let since = to.and_then(|cursor| cursor.since);
        self.with_rest(|rest| (rest.since, rest.reach) = (since, reach))
    }

    /// Returns this entry with other settings.
    pub(super) fn with_settings(self, settings: ConsumerSettings) -> Self {
        self.with_rest(|rest| rest.settings = Arc::new(settings))
    }

    /// Returns this entry with other marks.
    pub(super) fn with_marks(self, marks: Arc<Marks>) -> Self {
        self.with_rest(|rest| rest.marks = (!marks.is_empty()).then_some(marks))
    }

    /// Returns this entry with these times of its creation and its last change.
    pub(super) fn with_times(self, created: Timestamp, updated: Timestamp) -> Self {
        Self { created_ms: created.as_ms(), updated_ms: updated.as_ms(), ..self }
    }

    /// Returns this entry with the position of its newest record.
    pub(super) fn with_revision(self, revision: Position) -> Self {
        Self { revision: revision.get(), ..self }
    }

    /// Changes the rest, and drops it where it is as most consumers have it.
    fn with_rest(self, change: impl FnOnce(&mut EntryRest)) -> Self {
        let mut rest = self.rest.unwrap_or_default();
        change(&mut rest);
        let is_needed = !rest.settings.is_default()
            || rest.since.is_some()
            || rest.reach.is_some()
            || rest.marks.is_some();
        Self { rest: is_needed.then_some(rest), ..self }
    }

    /// Describes the consumer.
    pub(super) fn info(&self, epoch: Epoch) -> ConsumerInfo {
        ConsumerInfo {
            id: self.id(),
            settings: ConsumerSettings::clone(self.settings()),
            checkpoint: self.checkpoint().map(|cursor| Cursor { epoch: Some(epoch), ..cursor }),
            revision: Position::new(self.revision),
            created: self.created(),
            updated: self.updated(),
        }
    }

    /// Describes the consumer with its marks.
    pub(super) fn state(&self, epoch: Epoch) -> ConsumerState {
        let info = Arc::new(self.info(epoch));
        ConsumerState { info, marks: self.marks(), reach: self.reach() }
    }
}

/// Returns the text of an identity.
pub(super) fn text_of(owner: &str, selection: &str, name: &str) -> Arc<str> {
    let mut text = String::with_capacity(owner.len() + selection.len() + name.len() + 2);
    text.push_str(owner);
    text.push(PART);
    text.push_str(selection);
    text.push(PART);
    text.push_str(name);
    text.into()
}

/// Returns the length of a part. The rules of names, patterns and owners keep it far below 65,536.
fn length(part: &str) -> u16 {
    u16::try_from(part.len()).expect("the parts of an identity are short")
}
