//! The number of topics that a feed reads ahead at a time.

/// The number of topics that the first read tries.
const FIRST_TOPICS: usize = 64;

/// The most topics that any read tries.
const MAX_TOPICS: usize = 4_096;

/// The number of topics that the next read tries.
#[derive(Debug)]
pub(super) struct Stride(pub(super) usize);

impl Default for Stride {
    fn default() -> Self {
        Self(FIRST_TOPICS)
    }
}

impl Stride {
    /// Adapts to a read that tried `tried` topics and had room and time for `done`.
    pub(super) fn learn(&mut self, tried: usize, done: usize) {
        self.0 = match done < tried {
            true => (done + done / 4).clamp(FIRST_TOPICS.min(self.0), MAX_TOPICS),
            false => (self.0.max(2 * tried)).min(MAX_TOPICS),
        };
    }
}
