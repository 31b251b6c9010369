//! The query part of a URL, strictly: every name once, valid UTF-8, and none that is not known.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// Names and values, decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes the query of a URL, the part after `?`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a part is not UTF-8, or a name comes twice.
    pub(super) fn parse(query: Option<&str>) -> Result<Self> {
        Self::parse_lists(query, &[])
    }

    /// As [`Self::parse`], but these names may come more than once.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub(super) fn parse_lists(query: Option<&str>, lists: &[&str]) -> Result<Self> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (decode("query", name)?, decode(name, value)?);
            let may_repeat = lists.contains(&name.as_str());
            if !may_repeat && pairs.iter().any(|(known, _)| *known == name) {
                return Err(Error::invalid(name, "is given twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Takes the value of `name`.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(index).1)
    }

    /// Takes all values of `name`, in their order.
    pub(super) fn take_all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(n, _)| n == name);
        self.0 = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes the value of `name` as a `T`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is none.
    pub(super) fn take_number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.parse();
        number.map(Some).map_err(|_| Error::invalid(name, format!("{value:?} is no number")))
    }

    /// Takes the value of `name` as yes or no; no, if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is neither.
    pub(super) fn take_flag(&mut self, name: &str) -> Result<bool> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => {
                Err(Error::invalid(name, format!("{other:?} is neither true nor false")))
            }
        }
    }

    /// Refuses whatever was not taken.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names it, and those that are known.
    pub(super) fn finish(self, known: &str) -> Result<()> {
        match self.0.into_iter().next() {
            Some((name, _)) => {
                Err(Error::invalid(name, format!("is not known here; known are {known}")))
            }
            None => Ok(()),
        }
    }
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
        let mut query = Query::parse(Some("a=1%2B1&b=x+y&c&&d=%C3%A9")).unwrap();
        let taken = ["a", "b", "c", "d", "e"].map(|name| query.take(name));
        let expected = [Some("1+1"), Some("x y"), Some(""), Some("é"), None];
        assert_eq!(taken, expected.map(|value| value.map(str::to_owned)));
        query.finish("nothing").unwrap();
        let error = |query: &str| Query::parse(Some(query)).unwrap_err().to_string();
        assert_eq!(error("id=%ff"), "id: is not UTF-8");
        assert_eq!(error("id=1&id=2"), "id: is given twice");
        let mut query = Query::parse(Some("limit=many&form=earliest")).unwrap();
        let number = query.take_number::<u64>("limit").unwrap_err().to_string();
        assert_eq!(number, "limit: \"many\" is no number");
        let unknown = query.finish("from, limit").unwrap_err().to_string();
        assert_eq!(unknown, "form: is not known here; known are from, limit");
    }
}
