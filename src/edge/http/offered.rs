//! The codings that are offered for answers, and the client's choice. Source: RFC 9110, 12.5.3.

use http::{HeaderMap, header};

use super::accept::weighted;

/// A coding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Coding {
    #[cfg(feature = "zstd")]
    Zstd,
    Gzip,
}

impl Coding {
    /// Returns the coding with the greatest weight, unless the client prefers none. With equal
    /// weights zstd, which takes less time.
    pub(in crate::edge) fn wanted(headers: &HeaderMap) -> Option<Self> {
        let wanted = weighted(headers.get_all(header::ACCEPT_ENCODING));
        let weight = |names: &[&str]| {
            let named = wanted.iter().find(|(name, _)| names.contains(&name.as_str()));
            let any = || wanted.iter().find(|(name, _)| name == "*");
            named.or_else(any).map_or(0, |(_, weight)| *weight)
        };
        let identity = wanted.iter().find(|(name, _)| name == "identity");
        let identity = identity.map_or(0, |(_, weight)| *weight);
        let offered = [
            #[cfg(feature = "zstd")]
            (Self::Zstd, weight(&["zstd"])),
            (Self::Gzip, weight(&["gzip", "x-gzip"])),
        ];
        // `max_by_key` takes the last of several codings with the same weight.
        let (coding, most) = offered.into_iter().rev().max_by_key(|(_, weight)| *weight)?;
        Some(coding).filter(|_| most > 0 && identity <= most)
    }

    /// Whether the client takes gzip, whatever else it takes. What is compressed once and for all
    /// is in this coding, which everybody knows.
    pub(in crate::edge) fn accepts_gzip(headers: &HeaderMap) -> bool {
        let wanted = weighted(headers.get_all(header::ACCEPT_ENCODING));
        let named = wanted.iter().find(|(name, _)| ["gzip", "x-gzip"].contains(&name.as_str()));
        named.or_else(|| wanted.iter().find(|(name, _)| name == "*")).is_some_and(|(_, w)| *w > 0)
    }

    /// Returns the name in `Content-Encoding`.
    pub(in crate::edge) fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "zstd")]
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn wanted(accept: &str) -> Option<Coding> {
        let value = HeaderValue::try_from(accept).unwrap();
        Coding::wanted(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]))
    }

    #[test]
    fn the_coding_that_a_client_wants_most_is_chosen() {
        assert_eq!(Coding::wanted(&HeaderMap::new()), None);
        for (accept, expected) in [
            ("", None),
            ("identity", None),
            ("br, deflate", None),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip, deflate, br", Some(Coding::Gzip)),
            ("zstd;q=0.1, gzip", Some(Coding::Gzip)),
            ("gzip;q=0, zstd;q=0", None),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("zstd;q=0, *;q=0.5", Some(Coding::Gzip)),
        ] {
            assert_eq!(wanted(accept), expected, "{accept:?}");
        }
    }
}
