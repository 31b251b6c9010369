//! Names in a query that mean nothing, and where they are passed over.
//!
//! Libraries and people append a name to a URL so that no cache answers, and whoever gets the URL
//! is to serve it as if the name was not there. A name of ours that is misspelt must not vanish in
//! the same way: with a purge it would drop more than was asked for. So what is passed over depends
//! on what the request does:
//!
//! | what is asked for | what is passed over |
//! |---|---|
//! | a change: `DELETE`, `PUT`, `PATCH`, maintenance | nothing |
//! | a publish | `_`, which jQuery appends |
//! | a page, or whatever else is read | `_` and the names that are there for caches alone |
//! | a stream | `_` and the names that polyfills of `EventSource` append |
//!
//! A stream says which other names mean nothing to it, and refuses none.

/// What a query is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Purpose {
    Change,
    Publish,
    Page,
    Stream,
}

/// Source: jQuery's `cache: false`.
const EVERYWHERE: &str = "_";

/// Names that cannot be taken for a parameter. Source: Ext JS (`_dc`), and many a hand.
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
    /// Whether a name means nothing here, and is passed over.
    pub(in crate::edge) fn spares(self, name: &str) -> bool {
        match self {
            Self::Change => false,
            Self::Publish => name == EVERYWHERE,
            Self::Page => name == EVERYWHERE || OF_PAGES.contains(&name),
            Self::Stream => name == EVERYWHERE || OF_STREAMS.contains(&name),
        }
    }
}
