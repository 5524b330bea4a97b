//! Query parameters, read strictly: an unknown one is refused with the nearest known name, and every complaint
//! names the parameter that is to blame.

use std::collections::BTreeSet;

use adtally_projections::bounds::Bound;
use adtally_streams::id::Id;

use crate::http::problem::{Problem, quote};
use crate::misspelt::nearest;

/// The most parameters of one request.
const MAX_PARAMETERS: usize = 1_024;

/// The parameters of a request, all of them known by name.
#[derive(Clone, Debug)]
pub struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Reads a query string. Bytes that are not UTF-8 become U+FFFD, which no id or name may hold.
    pub fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                return Err(unknown(&name, known));
            }
            if pairs.len() == MAX_PARAMETERS {
                return Err(Problem::bad_request(format!(
                    "one request has at most {MAX_PARAMETERS} parameters"
                )));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { pairs })
    }

    /// All values of a parameter that may be repeated, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter whose values may be lists with commas too; those that are empty are left out.
    pub fn listed<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.all(name).flat_map(|list| list.split(','));
        values.map(str::trim).filter(|value| !value.is_empty())
    }

    /// The value of a parameter that may be there once.
    pub fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, Problem> {
        let mut values = self.all(name);
        let value = values.next();
        match values.next() {
            Some(_) => Err(Problem::bad_parameter(
                name,
                format!("`{name}` may be there only once"),
            )),
            None => Ok(value),
        }
    }

    /// The ids of a parameter that may be repeated.
    pub fn ids(&self, name: &str) -> Result<BTreeSet<Id>, Problem> {
        self.all(name).map(|text| id(name, text)).collect()
    }

    /// Ids of a parameter that has to be there at least once.
    pub fn required_ids(&self, name: &str) -> Result<BTreeSet<Id>, Problem> {
        let ids = self.ids(name)?;
        if ids.is_empty() {
            return Err(Problem::bad_parameter(
                name,
                format!("`{name}` is required"),
            ));
        }
        Ok(ids)
    }

    /// The value of a parameter that is one of some names.
    pub fn choice<T>(
        &self,
        name: &str,
        names: &[&str],
        from_name: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        from_name(text)
            .map(Some)
            .ok_or_else(|| not_one_of(name, text, names))
    }

    /// A time.
    pub fn bound(&self, name: &str) -> Result<Option<Bound>, Problem> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        Bound::parse(text)
            .map(Some)
            .map_err(|error| Problem::bad_parameter(name, format!("`{name}`: {error}")))
    }

    /// A number from 1 to `max`; `default` when absent.
    pub fn limit(&self, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
        let Some(text) = self.one(name)? else {
            return Ok(default);
        };
        text.parse()
            .ok()
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| {
                Problem::bad_parameter(name, format!("`{name}` is a whole number from 1 to {max}"))
            })
    }
}

/// An id in a parameter or in a path.
pub fn id(name: &str, text: &str) -> Result<Id, Problem> {
    Id::new(text).map_err(|error| Problem::bad_parameter(name, format!("`{name}`: {error}")))
}

/// A value that is not one of those that the parameter has.
pub fn not_one_of(name: &str, value: &str, names: &[&str]) -> Problem {
    let hint =
        nearest(value, names).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    let value = quote(value);
    Problem::bad_parameter(
        name,
        format!(
            "`{name}` is one of {}, and this is `{value}`{hint}",
            names.join(", ")
        ),
    )
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let hint = match nearest(name, known) {
        _ if known.is_empty() => "; there are none here".to_owned(),
        Some(near) => format!("; did you mean `{near}`?"),
        None => format!("; known are {}", known.join(", ")),
    };
    Problem::bad_parameter(
        name,
        format!("there is no parameter `{}`{hint}", quote(name)),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["campaign_id", "start", "limit"];

    fn read(query: &str) -> Result<Params, Problem> {
        Params::read(Some(query), &KNOWN)
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_the_nearest_known_one() {
        let problem = read("campain_id=x").unwrap_err();
        assert_eq!(
            (problem.status().as_u16(), problem.parameter()),
            (400, Some("campain_id"))
        );
        assert!(
            problem.detail().contains("`campaign_id`"),
            "{}",
            problem.detail()
        );
        assert!(
            read("colour=x")
                .unwrap_err()
                .detail()
                .contains("campaign_id, start, limit")
        );
        assert!(
            Params::read(Some("a=1"), &[])
                .unwrap_err()
                .detail()
                .contains("none")
        );
    }

    #[test]
    fn values_are_decoded_checked_and_blamed() {
        let params = read("campaign_id=a&campaign_id=b%3Ac&limit=5").unwrap();
        let ids: Vec<_> = params
            .ids("campaign_id")
            .unwrap()
            .into_iter()
            .map(|id| id.to_string())
            .collect();
        assert_eq!(ids, ["a", "b:c"]);
        assert_eq!(params.limit("limit", 1, 10).unwrap(), 5);
        for (query, name) in [
            ("campaign_id=%ff%fe", "campaign_id"),
            ("campaign_id=a%20b", "campaign_id"),
            ("campaign_id=", "campaign_id"),
        ] {
            assert_eq!(
                read(query)
                    .unwrap()
                    .ids("campaign_id")
                    .unwrap_err()
                    .parameter(),
                Some(name),
                "{query}"
            );
        }
        for query in [
            "limit=0",
            "limit=11",
            "limit=x",
            "limit=-1",
            "limit=5&limit=5",
        ] {
            assert_eq!(
                read(query)
                    .unwrap()
                    .limit("limit", 1, 10)
                    .unwrap_err()
                    .parameter(),
                Some("limit"),
                "{query}"
            );
        }
        assert_eq!(
            read("start=soon")
                .unwrap()
                .bound("start")
                .unwrap_err()
                .parameter(),
            Some("start")
        );
        assert_eq!(
            read("start=").unwrap().bound("start").unwrap_err().status(),
            400
        );
        let many = vec!["limit=1"; MAX_PARAMETERS + 1].join("&");
        assert_eq!(read(&many).unwrap_err().status(), 400);
    }
}
