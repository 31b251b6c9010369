//! The queue of shared work that a client names, and whether the client may work for it.

use crate::consumers::WorkQueue;
use crate::edge::consumers::asking::{ConsumerUse, Found, Named};
use crate::edge::mounting::EdgeConsumers;
use crate::edge::permit::Permit;
use crate::error::{Error, Result};
use crate::topic::TopicPattern;

/// Returns the queue of the shared consumer with this name, if the caller may work for it: the
/// caller may subscribe to its whole selection.
///
/// # Errors
///
/// As [`Named::find`]. [`Error::Denied`]: the caller may read a part of the events only, and a
/// worker is given any of them.
pub(in crate::edge) async fn queue(
    name: &str,
    selection: TopicPattern,
    permit: &Permit,
    kept: Option<&EdgeConsumers>,
) -> Result<WorkQueue> {
    let found = Named::shared(name)?.find(selection, ConsumerUse::Read, permit, kept).await?;
    if !permit.filter().is_empty() {
        let reason = "work is for callers who may read all events of its topics".to_owned();
        return Err(Error::Denied { reason });
    }
    let Found { consumers, id, .. } = found;
    Ok(consumers.work(&id))
}
