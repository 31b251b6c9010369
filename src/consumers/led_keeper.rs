//! What a keeper has besides while another node leads: what it reads, and what it has asked.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::keeper_command::KeeperCommand;
use super::to_leader::ToLeader;
use crate::error::Result;
use crate::own_topics::OwnReader;

/// What a keeper has besides while another node leads.
pub(super) struct LedKeeper {
    pub(super) to_leader: ToLeader,
    /// Reads what comes to the topic. `None` while this node leads.
    pub(super) records: Option<OwnReader>,
    /// Whether all records must be loaded anew.
    pub(super) is_behind: bool,
    /// The batch that the leader has not answered.
    pub(super) asked: Option<AskedBatch>,
    /// The batches that the leader has answered, and that this node has not read.
    pub(super) answered: VecDeque<AnsweredBatch>,
}

/// Commands that the leader was asked to decide on.
pub(super) struct AskedBatch {
    pub(super) commands: Vec<KeeperCommand>,
    pub(super) answer: AbortOnDropHandle<Result<Bytes>>,
}

/// Commands that the leader has decided on.
pub(super) struct AnsweredBatch {
    /// The sequence of the last record on which the answers rest.
    pub(super) reached: u64,
    pub(super) until: Instant,
    pub(super) answers: Vec<(KeeperCommand, Result<bool>)>,
}

impl LedKeeper {
    /// Returns the state of a keeper whose view has the records up to those that `records` reads.
    /// That of a broker alone needs to read none.
    pub(super) fn new(to_leader: ToLeader, records: Option<OwnReader>) -> Self {
        let (asked, answered) = (None, VecDeque::new());
        Self { to_leader, records, is_behind: false, asked, answered }
    }
}
