//! Walks and counts give what a reader that goes forwards gets, whatever was published, trimmed,
//! compacted, expired and deleted before.
