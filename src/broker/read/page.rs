//! A page of history, and long-polling: a reader that is opened for one page.

use std::time::Duration;

use tokio::time::Instant;

use super::delivery::{Delivery, Patience, Waited};
use super::reader::Reader;
use super::searching::Search;
use crate::broker::filter::Filter;
use crate::broker::shared::Shared;
use crate::broker::tail::run::Run;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::cursor::Place;
use crate::cursor::{Cursor, Gap, OnGap, Requested, Sequence, StartPoint};
use crate::error::Result;
use crate::log::EventRef;
use crate::topic::TopicName;

/// A request for a page.
///
/// ```
/// use leftoff::{PageRequest, StartPoint};
///
/// let request = PageRequest::from(StartPoint::Last(20)).limit(20);
/// assert_eq!(request.before, None);
/// assert_eq!(PageRequest::default().start, StartPoint::Earliest);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageRequest {
    /// The place at which the page begins.
    pub start: StartPoint,
    /// The page has only events below this sequence. With the start [`StartPoint::Latest`], the
    /// page has the last events before it.
    pub before: Option<Sequence>,
    /// The most events; 1 or more.
    pub limit: usize,
    /// The time to wait for a first event when there is none.
    pub wait: Duration,
    /// The way to go on after a gap.
    pub on_gap: OnGap,
    /// The filter that picks the page's events.
    pub filter: Filter,
    /// More filters, all of which must pick them too: that of what the reader is permitted to read,
    /// and that of the consumer as which it reads.
    pub(crate) more_filters: Vec<Filter>,
}

impl Default for PageRequest {
    /// Returns a request for the first 100 events that can be read, without waiting.
    fn default() -> Self {
        Self {
            start: StartPoint::Earliest,
            before: None,
            limit: DEFAULT_PAGE_EVENTS,
            wait: Duration::ZERO,
            on_gap: OnGap::default(),
            filter: Filter::default(),
            more_filters: Vec::new(),
        }
    }
}

impl From<StartPoint> for PageRequest {
    fn from(start: StartPoint) -> Self {
        Self { start, ..Self::default() }
    }
}

impl From<Cursor> for PageRequest {
    /// Returns a request for the page after `cursor`, such as the cursor of the page before.
    fn from(cursor: Cursor) -> Self {
        StartPoint::After(cursor).into()
    }
}

impl PageRequest {
    /// Returns this request with `limit` as the most events; 1 or more.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Returns this request for events below `sequence`. From [`StartPoint::Latest`], the page has
    /// the last events before it.
    #[must_use]
    pub fn before(self, sequence: Sequence) -> Self {
        Self { before: Some(sequence), ..self }
    }

    /// Returns this request with `wait` as the time to wait for a first event when there is none.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Returns this request with `on_gap` as the way to go on after a gap.
    #[must_use]
    pub fn on_gap(self, on_gap: OnGap) -> Self {
        Self { on_gap, ..self }
    }

    /// Returns this request for the events that `filter` picks.
    #[must_use]
    pub fn filter(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }
}

/// Events in order, and the cursor with which to go on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Page {
    /// The events.
    pub runs: Vec<Run>,
    /// The gaps before the first event, where the caller asked to go on after gaps. A page of one
    /// topic has one gap at the most. A page of many topics has one for each topic that lost
    /// events, up to [`MAX_PAGE_GAPS`]. A page ends before a gap that comes after events; the next
    /// page tells it.
    pub gaps: Vec<Gap>,
    /// The place after the gaps and before the events.
    pub begin: Cursor,
    /// The cursor with which the next page begins.
    pub cursor: Cursor,
    /// The first place that can be read: a sequence of the one topic, or a position.
    pub earliest: Place,
    /// The place that the next event gets.
    pub tail: Place,
    /// Whether no event was left to read after the page.
    pub caught_up: bool,
}

/// The bytes that an event takes in a page besides its stored bytes and its topic's name: places
/// and times, and the names of its fields in formats that write them.
pub(crate) const EVENT_BYTES: usize = 128;

/// The bytes that a header takes in a page besides its name and its value: fields and lengths, or
/// quotes.
pub(crate) const HEADER_BYTES: usize = 16;

/// The most gaps of one page. With more, the last gap of the page is one of all topics, and stands
/// for all that had no room.
pub const MAX_PAGE_GAPS: usize = 1_024;

/// The most events of a page whose caller names no limit.
const DEFAULT_PAGE_EVENTS: usize = 100;

/// The longest search of a page for events that its filter picks, when it finds none.
const MAX_SEARCH: Duration =
    if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(1) };

/// A page that is being read, a run of events at a time. It keeps no events.
#[derive(Debug)]
pub struct PageReader {
    reader: Reader,
    request: PageRequest,
    started: Instant,
    room: PageRoom,
    /// The page without its events.
    page: Page,
    has_events: bool,
    is_ended: bool,
    ends_before_gap: bool,
}

impl PageReader {
    /// Begins a page of `reader`. `max_bytes` bounds the page besides the number of events.
    pub(crate) fn new(reader: Reader, request: PageRequest, max_bytes: usize) -> Self {
        let (earliest, tail) = reader.bounds();
        let page = Page {
            runs: Vec::new(),
            gaps: Vec::new(),
            begin: reader.cursor(),
            cursor: reader.cursor(),
            earliest,
            tail,
            caught_up: false,
        };
        let room = PageRoom { events: request.limit, bytes: max_bytes, is_empty: true };
        let (has_events, is_ended, ends_before_gap) = (false, false, false);
        let started = Instant::now();
        Self { reader, request, started, room, page, has_events, is_ended, ends_before_gap }
    }

    /// Returns whether the page begins with a gap that is not told yet.
    pub(crate) fn has_gap(&self) -> bool {
        self.reader.gap().is_some()
    }

    /// Returns whether the page is one of many topics.
    pub(crate) fn is_of_many(&self) -> bool {
        self.reader.is_of_many()
    }

    /// Returns the gaps of the page so far.
    pub(crate) fn gaps(&self) -> &[Gap] {
        &self.page.gaps
    }

    /// Returns this page bounded to `max_bytes` bytes of events, if that is less than its bound.
    pub fn at_most(mut self, max_bytes: usize) -> Self {
        self.room.bytes = self.room.bytes.min(max_bytes);
        self
    }

    /// Returns the next events of the page; `None` at its end.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`], before the first events. An error after events ends the page, and the
    /// next page returns it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was not returned is returned by the next call.
    pub async fn next(&mut self) -> Result<Option<Run>> {
        self.next_with(|_run| Ok(())).await
    }

    /// As [`Self::next`]. Before events belong to the page, `take_room` takes the room that they
    /// need. Without room the page ends before them, and the next page begins with them.
    ///
    /// # Errors
    ///
    /// As [`Self::next`]; the error of `take_room` for the first events.
    pub(crate) async fn next_with(
        &mut self,
        take_room: impl FnOnce(&Run) -> Result<()>,
    ) -> Result<Option<Run>> {
        let mut search = Search::default();
        while !self.is_ended && self.room.events > 0 {
            // With all events in memory this loop never waits, and other tasks would wait for the
            // whole page.
            tokio::task::coop::consume_budget().await;
            let wait = if self.has_events || self.request.before.is_some() {
                Duration::ZERO
            } else {
                self.request.wait.saturating_sub(self.started.elapsed())
            };
            let run = match self.reader.next_within(&mut Patience::new(wait)).await {
                Ok(Waited::Delivery(Delivery::Events(run))) => run,
                // The page's cursor is before the gap: the next page begins with it.
                Ok(Waited::Delivery(Delivery::Gap(_))) if self.has_events => {
                    self.ends_before_gap = true;
                    break;
                }
                Ok(Waited::Delivery(Delivery::Gap(gap))) => {
                    self.page.cursor = self.reader.cursor();
                    self.page.begin = self.page.cursor;
                    self.page.add_gap(gap);
                    continue;
                }
                // Events that are not stored are no part of history.
                Ok(Waited::Delivery(Delivery::CaughtUp | Delivery::Ephemeral(_))) => continue,
                Ok(Waited::Stopping) => break,
                Ok(Waited::Silence) => {
                    // The place may have moved past events of others, and past expired events.
                    self.page.cursor = self.reader.cursor();
                    if self.reader.lag() > 0 && self.started.elapsed() < MAX_SEARCH {
                        search.pause(self.reader.searches(), false).await;
                        continue;
                    }
                    break;
                }
                Err(_told_by_the_next_page) if self.has_events => break,
                Err(error) => {
                    self.is_ended = true;
                    return Err(error);
                }
            };
            let Some(run) = self.fitting(run) else { break };
            match take_room(&run) {
                Ok(()) => self.add(&run),
                Err(_told_by_the_next_page) if self.has_events => break,
                Err(error) => {
                    self.is_ended = true;
                    return Err(error);
                }
            }
            return Ok(Some(run));
        }
        self.is_ended = true;
        Ok(None)
    }

    /// Returns the events of `run` that have room in the page. If some have none, the page ends.
    fn fitting(&mut self, run: Run) -> Option<Run> {
        let run = run.below(self.request.before)?;
        let fitting = run.events().take_while(|event| self.room.takes(run.topic(), event)).count();
        if fitting == 0 {
            return None;
        }
        self.is_ended = run.events().nth(fitting).is_some();
        Some(run.first(fitting))
    }

    /// Adds events to the page.
    fn add(&mut self, run: &Run) {
        if let Some(last) = run.events().last() {
            self.page.cursor = self.reader.cursor_after(&last);
        }
        self.has_events = true;
    }

    /// Returns the page as it is after the events that [`Self::next`] returned, without these
    /// events. Before its end, the page can be read on.
    pub fn page(&self) -> Page {
        let (earliest, tail) = self.reader.bounds();
        let next = self.page.cursor.after.next();
        let caught_up = next.distance_to(tail) == Some(0) && !self.ends_before_gap;
        let Page { gaps, begin, cursor, .. } = &self.page;
        let (gaps, begin, cursor) = (gaps.clone(), *begin, *cursor);
        Page { runs: Vec::new(), gaps, begin, cursor, earliest, tail, caught_up }
    }

    /// Reads to the end, and returns the whole page.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of the page.
    pub async fn whole(mut self) -> Result<Page> {
        let mut runs = Vec::new();
        while let Some(run) = self.next().await? {
            runs.push(run);
        }
        Ok(Page { runs, ..self.page() })
    }
}

impl Page {
    /// Adds a gap that comes before all events of the page.
    fn add_gap(&mut self, gap: Gap) {
        let before = self.gaps.pop_if(|before| before.topic == gap.topic);
        let gap = match before {
            Some(before) => before.joined(gap),
            None if self.gaps.len() >= MAX_PAGE_GAPS => {
                let next = self.cursor.after.next();
                self.gaps.pop();
                Gap {
                    topic: None,
                    requested: Requested::Place(next),
                    earliest: next.first(),
                    tail: next,
                    lost: None,
                    resume: next,
                    ..gap
                }
            }
            None => gap,
        };
        self.gaps.push(gap);
    }
}

/// The room of a page.
#[derive(Debug)]
struct PageRoom {
    events: usize,
    bytes: usize,
    is_empty: bool,
}

impl PageRoom {
    /// Takes room for an event, and returns whether there was enough. The first event has room,
    /// however large it is.
    fn takes(&mut self, topic: &TopicName, event: &EventRef<'_>) -> bool {
        let heads_bytes = EVENT_BYTES + HEADER_BYTES * event.headers().count();
        let size_bytes = heads_bytes + topic.as_str().len() + event.size_bytes();
        let takes = self.events > 0 && (size_bytes <= self.bytes || self.is_empty);
        if takes {
            self.is_empty = false;
            self.events -= 1;
            self.bytes = self.bytes.saturating_sub(size_bytes);
        }
        takes
    }
}

/// Returns the start of a page. For a request that names only the page's end, this is the place
/// that lies the page's limit of events before the end.
pub(crate) async fn page_start(
    shared: &Shared,
    topic: &Topic,
    request: &PageRequest,
) -> Result<StartPoint> {
    let since = Some(shared.drops()); // Counted before the topic is looked at, which shows them.
    let TopicState { id, extent, .. } = topic.state();
    let (Some(before), StartPoint::Latest, Some(id)) = (request.before, request.start, id) else {
        return Ok(request.start);
    };
    let (end, limit) = (before.min(extent.tail).max(extent.earliest), request.limit as u64);
    let first = shared.back(id, extent, end, limit).await?;
    let after = Place::Sequence(first.previous());
    Ok(StartPoint::After(Cursor { after, since, epoch: None }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::broker::*;
    use crate::cursor::{Cursor, Gap, GapReason};
    use crate::event::NewEvent;
    use crate::log::MemoryLog;

    fn name(topic: &str) -> TopicName {
        topic.parse().unwrap()
    }

    /// Returns a broker whose readers read one block at a time from the log, one reader after the
    /// other.
    fn broker() -> Broker {
        let mut config = OpenConfig::default();
        config.broker.max_tail_bytes = 0;
        config.broker.max_read_bytes = 1 << 10;
        config.broker.max_reads = 1;
        config.broker.max_replay_bytes = 0;
        Broker::with_log(Arc::new(MemoryLog::default()), &config).unwrap()
    }

    async fn publish(broker: &Broker, topic: &str, events: u64) {
        for _ in 0..events {
            let events = vec![NewEvent::new(vec![b'x'; 1_000])]; // As much as one read.
            let publish = Publish { topic: name(topic), events, expected_sequence: None };
            broker.publish(publish).await.unwrap();
        }
    }

    async fn purge(broker: &Broker, topic: &str, below: u64) {
        broker.purge(&name(topic), Sequence::new(below)).await.unwrap();
    }

    fn request(start: &str) -> PageRequest {
        PageRequest {
            start: start.parse().unwrap(),
            before: None,
            limit: 100,
            wait: Duration::ZERO,
            on_gap: OnGap::Resume,
            filter: Filter::default(),
            ..PageRequest::default()
        }
    }

    /// The contents of a page. For each gap: its topic, the requested number, the number of lost
    /// events, and the number at which the reader goes on. Then the sequences of the events, the
    /// number of the cursor, and whether the reader has caught up.
    type Told = (Vec<(String, u64, Option<u64>, u64)>, Vec<u64>, u64, bool);

    fn told(page: &Page) -> Told {
        let gap = |gap: &Gap| {
            let topic = gap.topic.as_ref().map(TopicName::to_string).unwrap_or_default();
            (topic, gap.requested.number(), gap.lost, gap.resume.number())
        };
        let sequences = page.runs.iter().flat_map(|run| run.events().map(|e| e.sequence.get()));
        let gaps = page.gaps.iter().map(gap).collect();
        (gaps, sequences.collect(), page.cursor.after.number(), page.caught_up)
    }

    /// Reads a page that waits before its read with the number `reads`, while `topic` is purged.
    async fn page_and_purge(
        broker: &Broker,
        (topics, start): (Vec<&str>, &str),
        reads: usize,
        (topic, below): (&str, u64),
    ) -> Page {
        let mut turn = Some(broker.0.turns.take().await);
        let request = request(start);
        let patterns: Vec<_> = topics.iter().map(|topic| topic.parse().unwrap()).collect();
        let page = async {
            match topics.as_slice() {
                [topic] => broker.read(&name(topic), request).await.unwrap(),
                _ => broker.read_many(patterns, request).await.unwrap(),
            }
        };
        let meanwhile = async {
            for _ in 1..reads {
                // Turns are taken in the order in which they were asked for.
                let next = broker.0.turns.take();
                tokio::pin!(next);
                assert!(futures_util::poll!(next.as_mut()).is_pending());
                drop(turn.take());
                turn = Some(next.await);
            }
            purge(broker, topic, below).await;
            drop(turn);
        };
        let both = async { tokio::join!(biased; page, meanwhile) };
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("it takes too long").0
    }

    /// Goal: a page has no gap between two of its events: it ends before the gap, and the next page
    /// tells the gap.
    #[tokio::test]
    async fn a_page_ends_before_a_gap_that_comes_after_events_and_the_next_page_tells_it() {
        let broker = broker();
        publish(&broker, "a", 9).await;
        purge(&broker, "a", 3).await;
        let page = page_and_purge(&broker, (vec!["a"], "1"), 2, ("a", 6)).await;
        let gap = ("a".to_owned(), 2, Some(1), 3);
        assert_eq!(told(&page), (vec![gap], vec![3], 3, false));
        let page = broker.read(&name("a"), request(&page.cursor.to_string())).await.unwrap();
        let gap = ("a".to_owned(), 4, Some(2), 6);
        assert_eq!(told(&page), (vec![gap], vec![6, 7, 8, 9], 9, true));
        // The same when all events that were left are gone.
        let page = page_and_purge(&broker, (vec!["a"], "5"), 2, ("a", 10)).await;
        assert_eq!(told(&page), (vec![], vec![6], 6, false));
        let page = broker.read(&name("a"), request(&page.cursor.to_string())).await.unwrap();
        assert_eq!(told(&page), (vec![("a".to_owned(), 7, Some(3), 10)], vec![], 9, true));
        // The same with a reader that asked to be refused at a gap.
        publish(&broker, "a", 3).await;
        let refused = PageRequest { on_gap: OnGap::Fail, ..request("8") };
        let error = broker.read(&name("a"), refused).await.unwrap_err();
        assert!(matches!(error, Error::Gap(ref gap) if gap.lost == Some(1)), "{error}");
    }

    /// Goal: a page of one topic has one gap, which stands for all gaps before the first event.
    #[tokio::test]
    async fn gaps_that_follow_each_other_before_the_first_event_are_told_as_one() {
        let broker = broker();
        publish(&broker, "a", 9).await;
        purge(&broker, "a", 3).await;
        let page = page_and_purge(&broker, (vec!["a"], "1"), 1, ("a", 6)).await;
        let gap = ("a".to_owned(), 2, Some(4), 6);
        assert_eq!(told(&page), (vec![gap], vec![6, 7, 8, 9], 9, true));
        // The reason stays the other epoch of the cursor, whatever is dropped then.
        let page = page_and_purge(&broker, (vec!["a"], "1-00000000"), 1, ("a", 8)).await;
        assert_eq!(told(&page), (vec![("a".to_owned(), 2, None, 8)], vec![8, 9], 9, true));
        assert_eq!(page.gaps[0].reason, GapReason::Epoch);
    }

    /// Goal: a page of many topics tells every gap that comes before its first event, and ends
    /// before any other gap, whenever the events are dropped.
    #[tokio::test]
    async fn pages_of_many_topics_tell_every_gap_before_the_first_event_that_follows_it() {
        let all = || vec![">".parse().unwrap()];
        let mut told_later = 0;
        for reads in 1..=5 {
            let broker = broker();
            for _ in 0..3 {
                publish(&broker, "a", 1).await;
                publish(&broker, "b", 1).await;
            }
            purge(&broker, "a", 2).await;
            purge(&broker, "b", 2).await;
            // Positions: a 1 3 5, b 2 4 6.
            let first = page_and_purge(&broker, (vec!["a", "b"], "@0"), reads, ("b", 4)).await;
            let next = request(&first.cursor.to_string());
            let second = broker.read_many(all(), next).await.unwrap();
            let gap = |topic: &str, requested, next| (topic.to_owned(), requested, None, next);
            let (gaps, mut sequences, cursor, is_caught_up) = told(&first);
            let (gaps_later, more, ..) = told(&second);
            assert_eq!(gaps[0], gap("a", 1, 2), "{reads}");
            assert_eq!(gaps[1], gap("b", 1, gaps[1].3), "{reads}");
            match gaps_later.as_slice() {
                [] => {}
                [later] => {
                    told_later += 1;
                    assert_eq!((later, is_caught_up), (&gap("b", cursor + 1, 4), false), "{reads}");
                    assert!(!sequences.is_empty(), "{reads}: the gap was told late");
                }
                more => panic!("{reads}: {more:?}"),
            }
            sequences.extend(more);
            let is_lost = gaps_later.len() == 1 || gaps[1].3 == 4;
            assert!(is_lost || sequences == [2, 2, 3, 3], "{reads}: {sequences:?}");
            assert!(!is_lost || [&[2, 3][..], &[2, 2, 3]].contains(&&*sequences), "{sequences:?}");
            let refused = PageRequest { on_gap: OnGap::Fail, ..request("@0") };
            let error = broker.read_many(all(), refused).await.unwrap_err();
            let Error::Gaps(refused) = error else { panic!("{error}") };
            assert_eq!(refused.iter().map(|gap| gap.resume.number()).collect::<Vec<_>>(), [2, 4]);
        }
        assert!(told_later > 0, "no page ended before a gap");
    }

    /// Goal: the number of gaps in a page is bounded.
    #[tokio::test]
    async fn more_gaps_than_a_page_has_room_for_are_told_as_one_of_all_topics() {
        let broker = broker();
        let topics: Vec<String> = (0..MAX_PAGE_GAPS + 9).map(|n| format!("t.{n:04}")).collect();
        for topic in &topics {
            publish(&broker, topic, 1).await;
            purge(&broker, topic, 2).await;
        }
        let page = broker.read_many(vec![">".parse().unwrap()], request("@0")).await.unwrap();
        assert_eq!(page.gaps.len(), MAX_PAGE_GAPS);
        let (last, others) = page.gaps.split_last().unwrap();
        assert!(others.iter().all(|gap| gap.topic.is_some()));
        assert_eq!((last.topic.clone(), last.requested.number(), last.lost), (None, 1, None));
        assert_eq!(last.reason, GapReason::Purged);
        let after =
            Cursor { epoch: Some(broker.epoch()), ..format!("@{}", topics.len()).parse().unwrap() };
        assert_eq!((page.cursor, page.caught_up), (after, true));
    }
}
