//! The query of a URL. The query of a page or a change is parsed strictly: each name once, except
//! for lists; valid UTF-8; no unknown names. The query of a stream is parsed without refusals,
//! except for lists. Names that only make a URL unique (`spare.rs`) are ignored.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::edge::http::ignored::Ignored;
use crate::edge::http::spare::Purpose;
use crate::error::{Error, Result};
use crate::lists;

/// The name of a ticket. Any request may have one: hooks look at it, and nobody else. No answer
/// repeats it.
const TICKET: &str = "ticket";

/// Most names in one query: far more than any resource has.
const MAX_NAMES: usize = 64;

/// The values of each name, decoded, in their order.
#[derive(Debug, Default)]
pub(crate) struct Query {
    values: BTreeMap<String, Vec<String>>,
    /// The ignored names, for a stream.
    ignored: Ignored,
}

impl Query {
    /// Decodes the query of a URL, the part after `?`.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: a part is not UTF-8, or has no name, or a name is given twice.
    /// - [`Error::OverLimit`]: there are too many names.
    pub(crate) fn parse(query: Option<&str>, purpose: Purpose) -> Result<Self> {
        Self::parse_lists(query, purpose, &[])
    }

    /// Decodes a query as [`Self::parse`] does, but allows `names` as often as a list may be long.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub(in crate::edge) fn parse_lists(
        query: Option<&str>,
        purpose: Purpose,
        names: &[&str],
    ) -> Result<Self> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, count) = (decode("query", name)?, values.len());
            if name.is_empty() {
                return Err(Error::invalid("query", "holds a value without a name"));
            }
            if purpose.spares(&name) || name == TICKET {
                continue;
            }
            match values.get_mut(&name) {
                Some(list) if names.contains(&name.as_str()) => {
                    lists::check_room(&name, list.len())?;
                    list.push(decode(&name, value)?);
                }
                Some(_) => return Err(Error::invalid(name, "is given twice")),
                None if count >= MAX_NAMES => {
                    return Err(Error::over("names in the query", count + 1, MAX_NAMES));
                }
                None => {
                    let value = decode(&name, value)?;
                    values.insert(name, vec![value]);
                }
            }
        }
        Ok(Self { values, ignored: Ignored::default() })
    }

    /// Decodes the query of a stream, which is not refused for additions by the client or a proxy.
    /// If a name is given twice, its last value that is not empty counts, unless the name is one of
    /// `lists`. An unknown name is noted as ignored. `known` returns the name under which the value
    /// is kept.
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: a value of a list is not UTF-8.
    /// - [`Error::OverLimit`]: a list is longer than it may be.
    pub(in crate::edge) fn parse_stream(
        query: Option<&str>,
        lists: &[&str],
        known: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<Self> {
        let mut read = Self::default();
        for part in query.unwrap_or_default().split('&') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decode_lossy(name);
            if Purpose::Stream.spares(&name) || name == TICKET {
                continue;
            }
            if lists.contains(&&*name) {
                let value = decode(&name, value)?;
                let list = read.values.entry(name.to_string()).or_default();
                lists::check_room(&name, list.len())?;
                list.push(value);
            } else if let Some(name) = known(&name) {
                let values = read.values.entry(name.to_owned()).or_default();
                let value = decode_lossy(value);
                if values.is_empty() || !value.is_empty() {
                    *values = vec![value.into_owned()];
                }
            } else if !name.is_empty() {
                read.ignored.add(&name);
            }
        }
        Ok(read)
    }

    /// Returns the ignored names, and those whose values were not taken.
    pub(in crate::edge) fn into_ignored(mut self) -> Ignored {
        self.values.keys().for_each(|name| self.ignored.add(name));
        self.ignored
    }

    /// Takes the value of `name` out of the query of a stream as a `T`. An empty value counts as
    /// none. An invalid value is noted as ignored.
    pub(in crate::edge) fn take_lax<T: std::str::FromStr<Err = Error>>(
        &mut self,
        name: &str,
    ) -> Option<T> {
        let value = self.take(name).filter(|value| !value.is_empty())?;
        let read = value.parse();
        read.map_err(|error| self.ignored.add_value(name, &value, &error)).ok()
    }

    /// Takes the value of `name`.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)?.pop()
    }

    /// Takes all values of `name`, in their order.
    pub(in crate::edge) fn take_all(&mut self, name: &str) -> Vec<String> {
        self.values.remove(name).unwrap_or_default()
    }

    /// Takes the value of `name` as a `T`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the value is not a `T`.
    pub(crate) fn take_number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.parse();
        number.map(Some).map_err(|_| Error::invalid(name, format!("{value:?} is not a number")))
    }

    /// Takes the time for which a long poll waits; zero if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], if the value is not like `30s`; [`Error::OverLimit`].
    pub(in crate::edge) fn take_wait(&mut self, max_wait_ms: u64) -> Result<Duration> {
        let Some(wait) = self.take("wait") else { return Ok(Duration::ZERO) };
        let parsed = humantime::parse_duration(&wait);
        let parsed = parsed
            .map_err(|error| Error::invalid("wait", format!("{wait:?}: {error}; write 30s")))?;
        if parsed > Duration::from_millis(max_wait_ms) {
            let wait_ms = usize::try_from(parsed.as_millis()).unwrap_or(usize::MAX);
            return Err(Error::over("wait ms", wait_ms, max_wait_ms as usize));
        }
        Ok(parsed)
    }

    /// Takes the value of `name` as a boolean. A name without a value is true, and a missing name
    /// is false.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the value is neither empty, `true` nor `false`.
    pub(in crate::edge) fn take_flag(&mut self, name: &str) -> Result<bool> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => {
                Err(Error::invalid(name, format!("{other:?} is neither true nor false")))
            }
        }
    }

    /// Takes the value of `name` as a boolean, as [`Self::take_flag`] does; `None` if the name is
    /// missing.
    ///
    /// # Errors
    ///
    /// As [`Self::take_flag`].
    pub(in crate::edge) fn take_choice(&mut self, name: &str) -> Result<Option<bool>> {
        match self.values.contains_key(name) {
            true => self.take_flag(name).map(Some),
            false => Ok(None),
        }
    }

    /// Refuses the names that were not taken.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the first of them, and the `known` names, if there are any.
    pub(crate) fn finish(self, known: &str) -> Result<()> {
        match self.values.into_keys().next() {
            Some(name) if known.is_empty() => {
                Err(Error::invalid(name, "is not known here; this query takes no names"))
            }
            Some(name) => {
                Err(Error::invalid(name, format!("is not known here; known are {known}")))
            }
            None => Ok(()),
        }
    }
}

fn decode_lossy(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned());
    }
    percent_decode_str(text).decode_utf8_lossy()
}

fn decode(name: &str, text: &str) -> Result<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| Error::invalid(name, "is not UTF-8"))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_everything_doubtful_is_refused_by_name() {
        let mut query = Query::parse(Some("a=1%2B1&b=x+y&c&&d=%C3%A9"), Purpose::Page).unwrap();
        let taken = ["a", "b", "c", "d", "e"].map(|name| query.take(name));
        let expected = [Some("1+1"), Some("x y"), Some(""), Some("é"), None];
        assert_eq!(taken, expected.map(|value| value.map(str::to_owned)));
        query.finish("nothing").unwrap();
        let error = |query: &str| Query::parse(Some(query), Purpose::Page).unwrap_err().to_string();
        assert_eq!(error("id=%ff"), "id: is not UTF-8");
        assert_eq!(error("id=1&id=2"), "id: is given twice");
        assert_eq!(error("=%ff"), "query: holds a value without a name");
        let mut query = Query::parse(Some("limit=many&form=earliest"), Purpose::Page).unwrap();
        let number = query.take_number::<u64>("limit").unwrap_err().to_string();
        assert_eq!(number, "limit: \"many\" is not a number");
        let unknown = query.finish("from, limit").unwrap_err().to_string();
        assert_eq!(unknown, "form: is not known here; known are from, limit");
    }

    #[test]
    fn a_name_is_passed_over_only_where_it_cannot_be_a_slip() {
        let refused = |text: &str, purpose| {
            let query = Query::parse(Some(text), purpose);
            query.and_then(|query| query.finish("before")).is_err()
        };
        use Purpose::{Change, Page, Publish};
        let cases = [
            ("_=1&_=2", [true, false, false]),
            ("_dc=%ff", [true, true, false]),
            ("cb=x", [true, true, false]),
            ("nocache", [true, true, false]),
            ("rnd=0.5", [true, true, false]),
            ("ts=5", [true, true, true]),
            ("t=5", [true, true, true]),
            ("timestamp=5", [true, true, true]),
            ("_before=5", [true, true, true]),
            ("_expected_sequence=3", [true, true, true]),
        ];
        for (text, expected) in cases {
            let decided = [Change, Publish, Page].map(|purpose| refused(text, purpose));
            assert_eq!(decided, expected, "{text}");
        }
        let unknown = Query::parse(Some("before=1"), Change).unwrap().finish("").unwrap_err();
        assert!(unknown.to_string().ends_with("this query takes no names"), "{unknown}");
    }

    /// Goal: a ticket is known on every request, whatever it looks like, and is told nowhere.
    #[test]
    fn a_ticket_is_no_unknown_name_and_is_not_told() {
        let text = "ticket=secret&%74icket=%ff&ticket&a=1";
        for purpose in [Purpose::Change, Purpose::Publish, Purpose::Page] {
            let mut query = Query::parse(Some(text), purpose).unwrap();
            assert!(!format!("{query:?}").contains("secret"), "{query:?}");
            assert_eq!(query.take("a").as_deref(), Some("1"));
            query.finish("a").unwrap();
        }
        let query = Query::parse_stream(Some(text), &[], |_name| Some("a")).unwrap();
        assert!(!format!("{query:?}").contains("icket"), "{query:?}");
        let ignored = Query::parse_stream(Some("ticket=secret&x=1"), &[], |_name| None).unwrap();
        let told = ignored.into_ignored().json().unwrap().to_string();
        assert!(told.contains("\"x\"") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn lists_keep_their_order_and_whatever_is_too_many_is_refused_with_the_limit() {
        let parse = |query: &str| Query::parse_lists(Some(query), Purpose::Page, &["type"]);
        let mut query = parse("type=b&from=1&type=a&type=").unwrap();
        assert_eq!(query.take_all("type"), ["b", "a", ""]);
        assert_eq!(query.take("from").as_deref(), Some("1"));
        assert_eq!(query.take_all("type"), [""; 0]);
        query.finish("nothing").unwrap();
        let error = |query: &str| parse(query).unwrap_err().to_string();
        assert_eq!(parse(&"type=x&".repeat(1_024)).unwrap().take_all("type").len(), 1_024);
        assert_eq!(error(&"type=x&".repeat(9_999)), "type: 1025 is over the limit of 1024");
        let named = |count: usize| (0..count).map(|n| format!("n{n}&")).collect::<String>();
        parse(&named(64)).unwrap();
        assert_eq!(error(&named(9_999)), "names in the query: 65 is over the limit of 64");
    }
}
