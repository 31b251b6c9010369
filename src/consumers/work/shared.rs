//! A shared consumer, as its dispatcher needs it.

use crate::broker::Filter;
use crate::cursor::Cursor;
use crate::topic::TopicPattern;

use super::settings::WorkSettings;

/// A shared consumer as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedConsumer {
    /// Its number, which is never used again.
    pub(crate) number: u64,
    /// Its name, for the headers of dead letters.
    pub(crate) name: String,
    pub(crate) selection: TopicPattern,
    pub(crate) filter: Filter,
    pub(crate) settings: WorkSettings,
    /// The place after which it begins if it has no floor yet; `None` is before all events.
    pub(crate) start: Option<Cursor>,
}
