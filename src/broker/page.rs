//! A page of history, and long-polling: a subscription that is read once.

use std::time::Duration;

use tokio::time::Instant;

use super::subscription::{Delivery, Patience, Subscription, Waited};
use super::tail::Run;
use crate::cursor::{Cursor, Gap, OnGap, Sequence, StartPoint};
use crate::error::Result;
use crate::log::EventRef;
use crate::topic::TopicName;

/// What to read.
#[derive(Debug, Clone, Copy)]
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
}

/// Events in order, and where to go on.
#[derive(Debug)]
pub struct Page {
    /// The events.
    pub runs: Vec<Run>,
    /// The gap before them, when the start was gone and the caller asked to go on.
    pub gap: Option<Gap>,
    /// What to pass as the next start.
    pub cursor: Cursor,
    /// The first sequence that can be read.
    pub earliest: Sequence,
    /// The sequence that is given next.
    pub tail: Sequence,
    /// Whether nothing was left to read.
    pub caught_up: bool,
}

/// What an event takes in a page besides its stored bytes and its topic's name: places and times,
/// and the names of its fields where they are spelled out.
pub(super) const EVENT_BYTES: usize = 128;

/// Reads a page; `max_bytes` bounds it besides the number of events.
pub(super) async fn read(
    mut subscription: Subscription,
    request: &PageRequest,
    max_bytes: usize,
) -> Result<Page> {
    let started = Instant::now();
    let epoch = subscription.epoch();
    let mut page = Page {
        runs: Vec::new(),
        gap: None,
        cursor: subscription.cursor(),
        earliest: Sequence::FIRST,
        tail: Sequence::FIRST,
        caught_up: false,
    };
    let mut room = Room { events: request.limit, bytes: max_bytes, is_empty: true };
    while room.events > 0 {
        let wait = if page.runs.is_empty() && request.before.is_none() {
            request.wait.saturating_sub(started.elapsed())
        } else {
            Duration::ZERO
        };
        let run = match subscription.next_within(&mut Patience::new(wait)).await {
            Ok(Waited::Delivery(Delivery::Events(run))) => run,
            Ok(Waited::Delivery(Delivery::Gap(gap))) => {
                page.cursor = Cursor::after(gap.resume.previous(), epoch);
                page.gap = Some(gap);
                continue;
            }
            Ok(Waited::Delivery(Delivery::CaughtUp)) => continue,
            Ok(Waited::Silence | Waited::Stopping) => {
                // Beyond what has expired since it was read, too: that never comes again.
                page.cursor = subscription.cursor();
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
        let is_cut = run.events().nth(fitting).is_some();
        let run = run.first(fitting);
        page.cursor = Cursor::after(run.last_sequence(), epoch);
        page.runs.push(run);
        if is_cut {
            break;
        }
    }
    (page.earliest, page.tail) = subscription.bounds();
    let crate::cursor::Place::Sequence(last) = page.cursor.after else { return Ok(page) };
    page.caught_up = last.next() >= page.tail;
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
