//! The space that a log takes and has on its disk.

/// The space of a log on its disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogSpace {
    /// The bytes that the log's files take.
    pub size_bytes: u64,
    /// The bytes that may still be written; `None` if the file system does not say.
    pub free_bytes: Option<u64>,
    /// The free bytes below which events are refused.
    pub min_free_bytes: u64,
}

impl LogSpace {
    /// Returns the space of a log with these values.
    pub fn new(size_bytes: u64, free_bytes: Option<u64>, min_free_bytes: u64) -> Self {
        Self { size_bytes, free_bytes, min_free_bytes }
    }
}
