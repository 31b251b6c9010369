//! The number of topics that a feed reads ahead of at a time.

/// Topics that are looked at in one go: at the first time, and at any.
const FIRST_TOPICS: usize = 64;

const MAX_TOPICS: usize = 4_096;

/// The number of topics that are tried in one go.
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
