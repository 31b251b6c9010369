//! Counts of one consumer by several filters, and their bounds.

use super::asking::Found;
use crate::broker::Filter;
use crate::consumers::{CountFilter, EventCounts, PlacedCounts};
use crate::cursor::Position;
use crate::error::Result;

/// The most consumers of one request for counts.
pub(in crate::edge) const MAX_COUNTED_CONSUMERS: usize = 100;

/// One count, with the places at which it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) struct PlacedCount {
    pub(in crate::edge) count: EventCounts,
    pub(in crate::edge) position: Position,
    pub(in crate::edge) revision: Position,
}

impl PlacedCount {
    /// Returns the counts of one answer, each with its places.
    pub(super) fn each(counts: &PlacedCounts) -> impl Iterator<Item = Self> + '_ {
        let PlacedCounts { position, revision, .. } = *counts;
        counts.counts.iter().map(move |count| Self { count: *count, position, revision })
    }
}

/// Returns the counts of a consumer by each of `filters`, or of all its events if there are none.
/// `permitted` is the filter on all that the caller reads.
///
/// # Errors
///
/// As [`Consumers::counts`](crate::consumers::Consumers::counts).
pub(in crate::edge) async fn of_filters(
    found: &Found,
    mut filters: Vec<Filter>,
    permitted: &Filter,
) -> Result<Vec<PlacedCount>> {
    if filters.is_empty() {
        filters.push(Filter::default());
    }
    let with_permitted = |filter| CountFilter::from(filter).permitted(permitted.clone());
    let filters: Vec<CountFilter> = filters.into_iter().map(with_permitted).collect();
    let counts = found.consumers.counts(&found.id, &filters).await?;
    Ok(PlacedCount::each(&counts).collect())
}
