//! The table of all topics as they were a moment ago, and its orders.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicName;

/// The age up to which a table is shown, and the least of it, in multiples of the time that it took
/// to read: a hundred thousand topics and a million consumers take a while, and reading them must
/// not take more than a part of one processor.
const FRESH: Duration = Duration::from_secs(1);
const FRESH_TIMES: u32 = 10;

/// The pause between two tables that rates are told by, and the most of them.
const BETWEEN_TAILS: Duration = Duration::from_secs(5);
const MAX_TAILS: usize = 3;

/// The time after which a table that nobody looks at is dropped.
const UNUSED: Duration = Duration::from_secs(30);

/// The orders of one table that are kept, one for each search and order.
const MAX_ORDERS: usize = 8;

/// A topic in the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::edge) struct TopicRow {
    pub(super) name: TopicName,
    pub(super) events: u64,
    pub(super) size_bytes: u64,
    pub(super) earliest: Sequence,
    pub(super) tail: Sequence,
    pub(super) last_time: Timestamp,
    /// Events a second over the newest seconds; null until they are known.
    pub(super) rate: Option<f64>,
    /// The subscriptions that the topic has.
    pub(super) followers: u64,
    /// The events that the slowest reader of this one topic is behind: of the connections that
    /// follow it, and of the consumers with a checkpoint. Null without one.
    pub(super) lag: Option<u64>,
}

/// The order of topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::edge) enum TopicSort {
    #[default]
    Name,
    Rate,
    Size,
    Followers,
    Lag,
    Newest,
}

impl TopicSort {
    pub(in crate::edge) const ALL: [(&'static str, Self); 6] = [
        ("name", Self::Name),
        ("rate", Self::Rate),
        ("size", Self::Size),
        ("followers", Self::Followers),
        ("lag", Self::Lag),
        ("newest", Self::Newest),
    ];

    /// Returns the order with this name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub(in crate::edge) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        let names = Self::ALL.map(|(known, _)| known).join(", ");
        let unknown = || Error::invalid("sort", format!("is {name:?}; write one of {names}"));
        found.map(|(_, sort)| *sort).ok_or_else(unknown)
    }
}

/// A search and an order of topics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::edge) struct TopicSearch {
    pub(in crate::edge) sort: TopicSort,
    /// The text that names begin with.
    pub(in crate::edge) prefix: String,
    /// The text that is somewhere in names.
    pub(in crate::edge) contains: String,
}

impl TopicSearch {
    /// Returns the rows that are found, in order. Of equal ones, the first name comes first.
    fn order(&self, rows: &[TopicRow]) -> Arc<[u32]> {
        let is_found = |row: &TopicRow| {
            let name = row.name.as_str();
            name.starts_with(&self.prefix) && name.contains(&self.contains)
        };
        let found = (0..).zip(rows).filter(|(_, row)| is_found(row));
        let mut found: Vec<u32> = found.map(|(at, _)| at).collect();
        let number = |at: u32| {
            let row = &rows[at as usize];
            match self.sort {
                TopicSort::Name => 0,
                // A rate has three digits after the point.
                TopicSort::Rate => row.rate.map_or(0, |rate| 1 + (rate * 1_000.0) as u64),
                TopicSort::Size => row.size_bytes,
                TopicSort::Followers => row.followers,
                TopicSort::Lag => row.lag.map_or(0, |lag| lag.saturating_add(1)),
                TopicSort::Newest => row.last_time.as_ms(),
            }
        };
        if self.sort != TopicSort::Name {
            found.sort_unstable_by_key(|at| (u64::MAX - number(*at), *at));
        }
        found.into()
    }
}

/// The rows of all topics at one moment, by their names.
#[derive(Debug)]
struct TopicTable {
    at: Instant,
    /// The time that it took to read.
    took: Duration,
    rows: Vec<TopicRow>,
    orders: VecDeque<(TopicSearch, Arc<[u32]>)>,
}

/// The tails of topics at a moment before, by which rates are told.
#[derive(Debug)]
struct EarlierTails {
    at: Instant,
    tails: BTreeMap<TopicName, Sequence>,
}

/// The newest table, and what is known of those before it.
#[derive(Debug, Default)]
pub(in crate::edge) struct TopicTables {
    table: Option<TopicTable>,
    earlier: VecDeque<EarlierTails>,
    used: Option<Instant>,
}

/// A part of the table.
#[derive(Debug, Serialize)]
pub(in crate::edge) struct TopicRows {
    topics: Vec<TopicRow>,
    /// How many topics are found.
    matching: usize,
    /// How many topics there are.
    total: usize,
}

impl TopicTables {
    /// Returns the rows of a search from the `offset`th one on. Where the table is too old, `read`
    /// returns the rows of now, by their names.
    pub(super) fn rows(
        &mut self,
        search: &TopicSearch,
        (offset, limit): (usize, usize),
        now: Instant,
        read: impl FnOnce() -> Vec<TopicRow>,
    ) -> TopicRows {
        self.used = Some(now);
        let is_fresh = |table: &TopicTable| {
            now.saturating_duration_since(table.at) <= FRESH.max(table.took * FRESH_TIMES)
        };
        let table = match self.table.take().filter(is_fresh) {
            Some(table) => table,
            None => {
                let begun = Instant::now();
                let table = self.read(now, read());
                TopicTable { took: begun.elapsed(), ..table }
            }
        };
        let table = self.table.insert(table);
        let order = table.order(search);
        let shown = order.iter().skip(offset).take(limit);
        TopicRows {
            topics: shown.map(|at| table.rows[*at as usize].clone()).collect(),
            matching: order.len(),
            total: table.rows.len(),
        }
    }

    /// Returns a table of these rows, with their rates.
    fn read(&mut self, now: Instant, mut rows: Vec<TopicRow>) -> TopicTable {
        let since = |then: &EarlierTails| now.saturating_duration_since(then.at);
        while self.earlier.len() > 1 && since(&self.earlier[0]) > BETWEEN_TAILS * MAX_TAILS as u32 {
            self.earlier.pop_front();
        }
        if let Some(then) = self.earlier.front() {
            let seconds = since(then).as_secs_f64().max(0.001);
            for row in &mut rows {
                let before = then.tails.get(&row.name).copied().unwrap_or(Sequence::FIRST);
                let events = row.tail.get().saturating_sub(before.get());
                row.rate = Some((events as f64 / seconds * 1_000.0).round() / 1_000.0);
            }
        }
        let newest = self.earlier.back();
        if newest.is_none_or(|newest| since(newest) >= BETWEEN_TAILS) {
            if self.earlier.len() == MAX_TAILS {
                self.earlier.pop_front();
            }
            let tails = rows.iter().map(|row| (row.name.clone(), row.tail)).collect();
            self.earlier.push_back(EarlierTails { at: now, tails });
        }
        TopicTable { at: now, took: Duration::ZERO, rows, orders: VecDeque::new() }
    }

    /// Drops everything if nobody has looked at the table for a while.
    pub(super) fn forget_unused(&mut self, now: Instant) {
        if self.used.is_some_and(|used| now.saturating_duration_since(used) > UNUSED) {
            *self = Self::default();
        }
    }
}

impl TopicTable {
    fn order(&mut self, search: &TopicSearch) -> Arc<[u32]> {
        if let Some((_, order)) = self.orders.iter().find(|(known, _)| known == search) {
            return order.clone();
        }
        let order = search.order(&self.rows);
        if self.orders.len() == MAX_ORDERS {
            self.orders.pop_front();
        }
        self.orders.push_back((search.clone(), order.clone()));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, tail: u64) -> TopicRow {
        TopicRow {
            name: name.parse().unwrap(),
            events: tail - 1,
            size_bytes: 1_000 - tail,
            earliest: Sequence::FIRST,
            tail: Sequence::new(tail),
            last_time: Timestamp::from_ms(tail),
            rate: None,
            followers: u64::from(name == "b"),
            lag: (name == "c").then_some(0),
        }
    }

    fn search(sort: TopicSort, prefix: &str, contains: &str) -> TopicSearch {
        TopicSearch { sort, prefix: prefix.to_owned(), contains: contains.to_owned() }
    }

    fn names(rows: &TopicRows) -> Vec<&str> {
        rows.topics.iter().map(|row| row.name.as_str()).collect()
    }

    #[test]
    fn topics_are_searched_and_sorted_and_of_equal_ones_the_first_name_is_first() {
        let (mut tables, now) = (TopicTables::default(), Instant::now());
        let all = || vec![row("a", 5), row("b", 9), row("c", 5), row("cab", 1)];
        let mut shown = |sort, prefix, contains, part| {
            let rows = tables.rows(&search(sort, prefix, contains), part, now, all);
            assert_eq!(rows.total, 4);
            (names(&rows).join(" "), rows.matching)
        };
        let expected = [
            (TopicSort::Name, "a b c cab"),
            (TopicSort::Rate, "a b c cab"),
            (TopicSort::Size, "cab a c b"),
            (TopicSort::Followers, "b a c cab"),
            (TopicSort::Lag, "c a b cab"),
            (TopicSort::Newest, "b a c cab"),
        ];
        for (sort, order) in expected {
            assert_eq!(shown(sort, "", "", (0, 9)), (order.to_owned(), 4), "{sort:?}");
        }
        assert_eq!(shown(TopicSort::Name, "c", "", (0, 9)), ("c cab".to_owned(), 2));
        assert_eq!(shown(TopicSort::Newest, "", "a", (0, 9)), ("a cab".to_owned(), 2));
        assert_eq!(shown(TopicSort::Newest, "", "", (1, 2)), ("a c".to_owned(), 4));
        assert_eq!(shown(TopicSort::Newest, "x", "", (7, 2)), (String::new(), 0));
        let many: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        many.iter().for_each(|prefix| drop(shown(TopicSort::Name, prefix, "", (0, 1))));
        assert_eq!(tables.table.unwrap().orders.len(), MAX_ORDERS);
        assert!(TopicSort::named("size").is_ok_and(|sort| sort == TopicSort::Size));
        let error = TopicSort::named("age").unwrap_err().to_string();
        assert!(error.contains("name, rate, size, followers, lag, newest"), "{error}");
    }

    #[test]
    fn a_table_is_shown_for_a_second_and_rates_are_of_the_newest_seconds() {
        let (mut tables, start) = (TopicTables::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let by_rate = search(TopicSort::Rate, "", "");
        let first = tables.rows(&by_rate, (0, 9), at(0), || vec![row("a", 1), row("b", 101)]);
        assert_eq!(first.topics[0].rate, None);
        let again = tables.rows(&by_rate, (0, 9), at(900), || unreachable!());
        assert_eq!(again.topics, first.topics);
        let rows = || vec![row("a", 3), row("b", 601), row("new", 11)];
        let later = tables.rows(&by_rate, (0, 9), at(5_000), rows);
        let rates: Vec<_> = later.topics.iter().map(|row| row.rate.unwrap()).collect();
        assert_eq!((names(&later), rates), (vec!["b", "new", "a"], vec![100.0, 2.0, 0.4]));
        for number in 2..20 {
            tables.rows(&by_rate, (0, 9), at(5_000 * number), || vec![row("b", 601)]);
        }
        let quiet = tables.rows(&by_rate, (0, 9), at(100_000), || vec![row("b", 602)]);
        assert_eq!(quiet.topics[0].rate, Some(0.067), "over 15 seconds");
        assert_eq!(tables.earlier.len(), MAX_TAILS);
        tables.forget_unused(at(120_000));
        assert!(tables.table.is_some());
        tables.forget_unused(at(131_000));
        assert!(tables.table.is_none() && tables.earlier.is_empty());
    }

    #[test]
    fn a_table_that_took_long_to_read_is_shown_for_longer() {
        let (mut tables, start) = (TopicTables::default(), Instant::now());
        let by_name = search(TopicSort::Name, "", "");
        let took = Duration::from_millis(150);
        let slow = || {
            std::thread::sleep(took);
            vec![row("a", 1)]
        };
        let first = tables.rows(&by_name, (0, 9), start, slow);
        let again = tables.rows(&by_name, (0, 9), start + took * FRESH_TIMES, || unreachable!());
        assert_eq!(again.topics, first.topics);
    }
}
