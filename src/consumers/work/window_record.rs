//! The record of a bucket of the window.

use super::places::{Bucket, base36};
use super::records::{BucketRecord, FailedRecord, LeasedRecord, ranges};
use super::window::Window;
use super::window_entry::{EntryState, WindowEntry};

impl Window {
    /// Returns the record of a bucket as it is now.
    pub(super) fn record(&self, bucket: Bucket) -> BucketRecord {
        let (first, last) = bucket.places();
        let of_bucket = self.places.range(first..=last);
        let entries: Vec<_> = of_bucket
            .filter_map(|(_, position)| Some((*position, self.entries.get(position)?)))
            .collect();
        let is_finished = |(_, entry): &&(u64, &WindowEntry)| entry.state == EntryState::Finished;
        let finished = entries.iter().filter(is_finished);
        let mut record = BucketRecord {
            finished: ranges(finished.map(|(_, entry)| entry.place.sequence.get())),
            ..BucketRecord::default()
        };
        for (position, entry) in entries {
            let key = if entry.key == 0 { String::new() } else { base36(entry.key) };
            let (from, length, dead) = match &entry.state {
                EntryState::Finished => continue,
                EntryState::Leased(span, worker) => {
                    record.leased.push(LeasedRecord {
                        sequence: entry.place.sequence.get(),
                        position,
                        tries: entry.tries,
                        until: span.until_ms,
                        length: span.length_ms,
                        worker: worker.to_string(),
                        key,
                    });
                    continue;
                }
                EntryState::Waiting if entry.tries == 0 => continue,
                EntryState::Waiting => (0, 0, false),
                EntryState::Delayed(span) => (span.until_ms, span.length_ms, false),
                EntryState::Dead(_) => (0, 0, true),
            };
            record.failed.push(FailedRecord {
                sequence: entry.place.sequence.get(),
                position,
                tries: entry.tries,
                from,
                length,
                key,
                reason: entry.reason.to_string(),
                ran_out: entry.ran_out,
                dead,
            });
        }
        record
    }
}
