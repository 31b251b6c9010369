//! Wire forms, as numbered slots: the broker keeps bytes in them, and does not know what a form
//! means.
//!
//! # Why
//!
//! A block is encoded once in each form, for all its readers. The broker has room for [`FORMS`]
//! forms of a block. The edges decide which protocol uses which slot.

/// The number of slots: the most wire forms in which a block is kept.
pub(crate) const FORMS: usize = 8;

/// A wire form of blocks, encoded once for all readers: the number of its slot.
///
/// Code that encodes blocks must give each form a slot of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireForm(usize);

impl WireForm {
    /// Returns the form that is kept in the slot with this number, from 0 to 7.
    ///
    /// # Panics
    ///
    /// If there is no slot with this number. For a constant, the compiler finds that.
    pub(crate) const fn in_slot(number: usize) -> Self {
        assert!(number < FORMS, "a form is kept in one of the slots that a block has");
        Self(number)
    }

    pub(crate) fn slot(self) -> usize {
        self.0
    }
}
