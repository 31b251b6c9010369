//! Wire forms, as numbered slots: the broker keeps bytes in them, and knows of no form what it is.
//!
//! # Why
//!
//! A block is encoded once in each form, for all its readers. The broker has room for [`FORMS`]
//! forms of a block; which protocol writes which form there is the matter of the edge that encodes
//! it.

/// The number of slots: wire forms that a block can be kept in.
pub(crate) const FORMS: usize = 8;

/// A wire form in which a block is kept, encoded once for all its readers: the number of its slot.
///
/// Whoever encodes blocks gives each of its forms a slot of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireForm(usize);

impl WireForm {
    /// Returns the form that is kept in the slot with this number, from 0 to 7.
    ///
    /// # Panics
    ///
    /// If there is no slot with this number. A constant is checked when it is compiled.
    pub const fn in_slot(number: usize) -> Self {
        assert!(number < FORMS, "a form is kept in one of the slots that a block has");
        Self(number)
    }

    pub(crate) fn slot(self) -> usize {
        self.0
    }
}
