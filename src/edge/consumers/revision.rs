//! Revisions, the cursors of consumers' states, as they travel: cursors by position, such as
//! `@1042-9f3c2a1b`.

use crate::cursor::{Cursor, Epoch, Place, Position};

/// Returns the text of a revision.
pub(in crate::edge) fn text(revision: Position, epoch: Epoch) -> String {
    let after = Place::Position(revision);
    Cursor { after, since: None, epoch: Some(epoch) }.to_string()
}

/// Returns the revision that a client names, if it is one of this epoch.
pub(super) fn known(cursor: Cursor, epoch: Epoch) -> Option<Position> {
    match cursor.after {
        Place::Position(position) if cursor.epoch == Some(epoch) => Some(position),
        _ => None,
    }
}
