//! The wire forms in which blocks are kept, each encoded once for all its readers.
//!
//! The broker keeps bytes in numbered slots, and knows no protocol. Each form has a slot of its own
//! here, so that no edge gets what another one has encoded.

use crate::broker::WireForm;

/// Frames of a server-sent event stream, with sequences for ids, and payloads as they are.
pub(crate) const SSE_DATA: WireForm = WireForm::in_slot(0);

/// As [`SSE_DATA`], with envelopes around the payloads.
pub(crate) const SSE_ENVELOPE: WireForm = WireForm::in_slot(1);

/// As [`SSE_DATA`], with CloudEvents around the payloads.
pub(crate) const SSE_CLOUD_EVENTS: WireForm = WireForm::in_slot(2);

/// As [`SSE_DATA`], with positions for ids.
pub(crate) const SSE_DATA_OF_MANY: WireForm = WireForm::in_slot(3);

/// As [`SSE_ENVELOPE`], with positions for ids.
pub(crate) const SSE_ENVELOPE_OF_MANY: WireForm = WireForm::in_slot(4);

/// As [`SSE_CLOUD_EVENTS`], with positions for ids.
pub(crate) const SSE_CLOUD_EVENTS_OF_MANY: WireForm = WireForm::in_slot(5);

/// Messages of a WebSocket, without the part that each begins with.
pub(crate) const MESSAGE: WireForm = WireForm::in_slot(6);

/// As [`MESSAGE`], with positions for cursors.
pub(crate) const MESSAGE_OF_MANY: WireForm = WireForm::in_slot(7);
