//! Questions between the nodes of a fleet: to the one that leads, for parts of the program that
//! work only there, such as leases of shared work, and to any one about itself. A broker alone
//! answers them itself.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use crate::error::{Error, Result};

/// The answer to a question, once it is there.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// Answers the questions of one kind.
pub(crate) type Answerer = Arc<dyn Fn(Bytes) -> Answering + Send + Sync>;

/// Asks the node that leads.
pub(crate) type LeaderAsker = Arc<dyn Fn(&'static str, Bytes) -> Answering + Send + Sync>;

/// Which nodes answer the questions of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnsweredBy {
    /// The one that leads.
    Leader,
    /// Each one, of itself.
    EachNode,
}

/// Who answers questions.
#[derive(Default)]
pub(super) struct Questions {
    answerers: RwLock<HashMap<&'static str, (AnsweredBy, Answerer)>>,
    leader: OnceLock<LeaderAsker>,
}

impl fmt::Debug for Questions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Questions").finish_non_exhaustive()
    }
}

impl Questions {
    /// Has `answerer` answer all questions of a kind, in the place of a former one.
    pub(super) fn set_answerer(&self, kind: &'static str, by: AnsweredBy, answerer: Answerer) {
        let mut answerers = self.answerers.write().unwrap_or_else(PoisonError::into_inner);
        answerers.insert(kind, (by, answerer));
    }

    /// Whether a node that does not lead answers questions of a kind, too.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "the nodes of a fleet use it"))]
    pub(super) fn are_for_each_node(&self, kind: &str) -> bool {
        let answerers = self.answerers.read().unwrap_or_else(PoisonError::into_inner);
        answerers.get(kind).is_some_and(|(by, _)| *by == AnsweredBy::EachNode)
    }

    /// Has another node be asked with `asker`.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "the nodes of a fleet use it"))]
    pub(super) fn set_leader(&self, asker: LeaderAsker) {
        let _it_is_set_once = self.leader.set(asker);
    }

    /// Answers a question here.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: nobody answers questions of this kind. As the answerer.
    pub(super) async fn answer(&self, kind: &str, question: Bytes) -> Result<Bytes> {
        let answerer = {
            let answerers = self.answerers.read().unwrap_or_else(PoisonError::into_inner);
            answerers.get(kind).cloned()
        };
        match answerer {
            Some((_, answerer)) => answerer(question).await,
            None => Err(Error::invalid("kind", format!("{kind:?} is not known on this node"))),
        }
    }

    /// Asks another node, which leads.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeading`]: nobody is known to lead; [`Error::LeaderLost`]: the leader was
    /// lost. As the answerer there.
    pub(super) async fn ask_leader(&self, kind: &'static str, question: Bytes) -> Result<Bytes> {
        match self.leader.get() {
            Some(asker) => asker(kind, question).await,
            None => Err(Error::NotLeading),
        }
    }
}
