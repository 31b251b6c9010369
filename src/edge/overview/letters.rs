//! The dead letters that nobody has handled, in all topics of dead letters.

use std::time::{Duration, Instant};

use super::known_letters::{KnownLetters, WaitingLetters};
use crate::consumers::UnhandledLetters;
use crate::edge::mounting::Edge;
use crate::event::Timestamp;
use crate::polls;

/// The age up to which they are told as they were found, and the least of it, in multiples of the
/// time that it took to find them: so many consoles together take little of a processor.
const FRESH: Duration = Duration::from_secs(1);
const FRESH_TIMES: u32 = 20;

/// Returns the dead letters that wait, as of at most a second ago.
///
/// # Cancel safety
///
/// Nothing is left behind.
pub(super) async fn waiting(
    edge: &Edge,
    known: &tokio::sync::Mutex<KnownLetters>,
) -> Option<WaitingLetters> {
    let mut known = known.lock().await;
    let begun = Instant::now();
    if known.fresh_until.is_none_or(|until| begun >= until) {
        let found = find(edge).await;
        let fresh = FRESH.max(begun.elapsed() * FRESH_TIMES);
        *known = KnownLetters { waiting: together(found), fresh_until: Some(begun + fresh) };
    }
    known.waiting.clone()
}

/// Returns the dead letters of each topic. Topics that cannot be counted are left out: their
/// readers are told why.
async fn find(edge: &Edge) -> Vec<UnhandledLetters> {
    let Some(kept) = edge.consumers_if_any() else { return Vec::new() };
    let mut found = Vec::new();
    for topic in kept.consumers.letter_topics() {
        found.extend(kept.consumers.unhandled_letters(&topic).await.ok().flatten());
        polls::rest().await;
    }
    found
}

fn together(found: Vec<UnhandledLetters>) -> Option<WaitingLetters> {
    // Where the oldest one cannot be read, it is not known.
    let first = found.iter().min_by_key(|it| it.oldest.unwrap_or(Timestamp::MAX))?;
    Some(WaitingLetters {
        count: found.iter().map(|it| it.count).sum(),
        more_than: found.iter().any(|it| it.more_than),
        topics: found.len() as u64,
        topic: first.topic.clone(),
        oldest: first.oldest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_of_all_topics_are_told_together_with_the_oldest_first() {
        let of = |topic: &str, count, more_than, oldest: Option<u64>| UnhandledLetters {
            topic: topic.parse().unwrap(),
            count,
            more_than,
            oldest: oldest.map(Timestamp::from_ms),
        };
        assert_eq!(together(Vec::new()), None);
        let first = [of("a", 2, false, None), of("b", 3, true, Some(7))];
        let told = together([&first[..], &[of("c", 1, false, Some(9))]].concat()).unwrap();
        assert_eq!((told.count, told.more_than, told.topics), (6, true, 3));
        assert_eq!((told.topic.as_str(), told.oldest), ("b", Some(Timestamp::from_ms(7))));
        let unknown = together(vec![of("a", 2, false, None)]).unwrap();
        assert_eq!((unknown.topic.as_str(), unknown.oldest), ("a", None));
    }
}
