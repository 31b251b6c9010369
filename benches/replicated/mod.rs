//! The parts of the bench of a fleet: its nodes, the stream that JetStream is measured with, and
//! how far one node is behind another.

pub(crate) mod jetstream;
pub(crate) mod lag;
pub(crate) mod nodes;
