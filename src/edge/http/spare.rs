//! Names in a query that have no meaning, and the requests on which they are ignored.
//!
//! Libraries and people append a name to a URL so that no cache answers it, and expect that the
//! server ignores the name. A misspelt parameter must not be ignored in the same way: a purge would
//! drop more than was requested. So the ignored names depend on the request:
//!
//! | request | ignored names |
//! |---|---|
//! | a change: `DELETE`, `PUT`, `PATCH`, maintenance | nothing |
//! | a publish | `_`, which jQuery appends |
//! | a page, or any other read | `_` and the names that only avoid caches |
//! | a stream | `_` and the names that polyfills of `EventSource` append |
//!
//! A stream reports its other unknown names, and refuses none.

/// The purpose of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Change,
    Publish,
    Page,
    Stream,
}

/// Source: jQuery's `cache: false`.
const EVERYWHERE: &str = "_";

/// Names that cannot be taken for a parameter. Source: Ext JS (`_dc`), and common practice.
const OF_PAGES: [&str; 10] = [
    "_dc",
    "cachebust",
    "cachebuster",
    "cache_buster",
    "cb",
    "nocache",
    "no_cache",
    "rand",
    "random",
    "rnd",
];

/// Source: the `EventSource` polyfills of Yaffle and amvtek.
const OF_STREAMS: [&str; 3] = ["r", "padding", "evs_preamble"];

impl Purpose {
    /// Whether a name is ignored on such a request.
    pub(in crate::edge) fn spares(self, name: &str) -> bool {
        match self {
            Self::Change => false,
            Self::Publish => name == EVERYWHERE,
            Self::Page => name == EVERYWHERE || OF_PAGES.contains(&name),
            Self::Stream => name == EVERYWHERE || OF_STREAMS.contains(&name),
        }
    }
}
