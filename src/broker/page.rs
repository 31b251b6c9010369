//! A page of history, and long-polling: a subscription that is read once.

use std::time::Duration;

use tokio::time::Instant;

use super::filter::Filter;
use super::reader::Reader;
use super::subscription::{Delivery, Patience, Waited};
use super::tail::Run;
use crate::cursor::{Cursor, Gap, OnGap, Sequence, StartPoint};
use crate::error::Result;
use crate::log::EventRef;
use crate::topic::TopicName;

/// What to read.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Where to begin.
    pub start: StartPoint,
    /// Only events below this sequence; without a start of its own, the page ends right there.
    pub before: Option<Sequence>,
    /// Most events, 1 at the least.
    pub limit: usize,
    /// How long to wait for a first event where there is none.
    pub wait: Duration,
    /// What to do when the start is gone.
    pub on_gap: OnGap,
    /// Only these events.
    pub filter: Filter,
}

/// Events in order, and where to go on.
#[derive(Debug)]
pub struct Page {
    /// The events.
    pub runs: Vec<Run>,
    /// The gaps before them, where the start was gone and the caller asked to go on: of many topics
    /// one for each that has lost some.
    pub gaps: Vec<Gap>,
    /// What to pass as the next start.
    pub cursor: Cursor,
    /// The first place that can be read: a sequence of the one topic, or a position.
    pub earliest: u64,
    /// The place that is given next.
    pub tail: u64,
    /// Whether nothing was left to read.
    pub caught_up: bool,
}

/// What an event takes in a page besides its stored bytes and its topic's name: places and times,
/// and the names of its fields where they are spelled out.
pub(super) const EVENT_BYTES: usize = 128;

/// How long a page looks for events that its filter picks, where it finds none.
const MAX_SEARCH: Duration = Duration::from_secs(1);

/// Reads a page; `max_bytes` bounds it besides the number of events.
pub(super) async fn read(
    mut reader: Reader,
    request: &PageRequest,
    max_bytes: usize,
) -> Result<Page> {
    let started = Instant::now();
    let mut page = Page {
        runs: Vec::new(),
        gaps: Vec::new(),
        cursor: reader.cursor(),
        earliest: 0,
        tail: 0,
        caught_up: false,
    };
    let mut room = Room { events: request.limit, bytes: max_bytes, is_empty: true };
    let mut is_cut = false;
    while room.events > 0 && !is_cut {
        let wait = if page.runs.is_empty() && request.before.is_none() {
            request.wait.saturating_sub(started.elapsed())
        } else {
            Duration::ZERO
        };
        let run = match reader.next_within(&mut Patience::new(wait)).await {
            Ok(Waited::Delivery(Delivery::Events(run))) => run,
            Ok(Waited::Delivery(Delivery::Gap(gap))) => {
                page.cursor = reader.cursor();
                page.gaps.push(gap);
                continue;
            }
            // What is not stored is no part of history.
            Ok(Waited::Delivery(Delivery::CaughtUp | Delivery::Ephemeral(_))) => continue,
            Ok(Waited::Stopping) => break,
            Ok(Waited::Silence) => {
                // Beyond what has expired since it was read, too: that never comes again.
                page.cursor = reader.cursor();
                let may_go_on = reader.lag() > 0 && started.elapsed() < MAX_SEARCH;
                if may_go_on {
                    continue;
                }
                break;
            }
            Err(_told_by_the_next_page) if !page.runs.is_empty() => break,
            Err(error) => return Err(error),
        };
        let Some(run) = run.below(request.before) else { break };
        let fitting = run.events().take_while(|event| room.takes(run.topic(), event)).count();
        if fitting == 0 {
            break;
        }
        is_cut = run.events().nth(fitting).is_some();
        let run = run.first(fitting);
        if let Some(last) = run.events().last() {
            page.cursor = reader.cursor_after(&last);
        }
        page.runs.push(run);
    }
    (page.earliest, page.tail) = reader.bounds();
    let last = page.cursor.after.number();
    page.caught_up = last + 1 >= page.tail;
    Ok(page)
}

/// What a page has room for.
struct Room {
    events: usize,
    bytes: usize,
    is_empty: bool,
}

impl Room {
    /// Whether an event has its place in the page. The first one has, however large it is.
    fn takes(&mut self, topic: &TopicName, event: &EventRef<'_>) -> bool {
        let size_bytes = EVENT_BYTES + topic.as_str().len() + event.size_bytes();
        let takes = self.events > 0 && (size_bytes <= self.bytes || self.is_empty);
        if takes {
            self.is_empty = false;
            self.events -= 1;
            self.bytes = self.bytes.saturating_sub(size_bytes);
        }
        takes
    }
}
