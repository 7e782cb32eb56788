//! One page of a listing, as a pure function of an ordered map of keys. Groups are jumped over, not walked through.

use std::collections::BTreeMap;
use std::ops::Bound;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Where a page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Position {
    Start,
    AfterKey(String),
    /// After every key that starts with this.
    AfterGroup(String),
}

impl Position {
    /// An opaque token that [`Position::of_token`] reads.
    pub(super) fn token(&self) -> String {
        let text = match self {
            Self::Start => "s".to_owned(),
            Self::AfterKey(key) => format!("k{key}"),
            Self::AfterGroup(group) => format!("g{group}"),
        };
        URL_SAFE_NO_PAD.encode(text)
    }

    /// None for a token that nobody here made.
    pub(super) fn of_token(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        match (text.get(..1)?, text.get(1..)?) {
            ("s", "") => Some(Self::Start),
            ("k", key) => Some(Self::AfterKey(key.to_owned())),
            ("g", group) => Some(Self::AfterGroup(group.to_owned())),
            _ => None,
        }
    }

    /// The position of a marker: a key, or a group that an earlier page ended with.
    pub(super) fn of_marker(marker: &str, prefix: &str, delimiter: Option<&str>) -> Self {
        let group = delimiter.and_then(|delimiter| group(marker, prefix, delimiter));
        if group == Some(marker) { Self::AfterGroup(marker.to_owned()) } else { Self::AfterKey(marker.to_owned()) }
    }
}

/// What is listed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) prefix: &'a str,
    /// Not empty.
    pub(super) delimiter: Option<&'a str>,
    /// Keys and groups together.
    pub(super) limit: usize,
}

/// A page.
#[derive(Debug)]
pub(super) struct Page<'a, V> {
    pub(super) entries: Vec<(&'a str, &'a V)>,
    pub(super) groups: Vec<String>,
    /// Where the next page starts; none at the end.
    pub(super) next: Option<Position>,
}

/// Lists `keys` in byte order.
pub(super) fn list<'a, V>(keys: &'a BTreeMap<String, V>, query: Query<'_>, start: Position) -> Page<'a, V> {
    let mut page = Page { entries: Vec::new(), groups: Vec::new(), next: None };
    let mut position = start;
    while let Some((key, value)) = next(keys, query.prefix, &position) {
        if page.entries.len() + page.groups.len() >= query.limit {
            page.next = (query.limit > 0).then_some(position);
            break;
        }
        match query.delimiter.and_then(|delimiter| group(key, query.prefix, delimiter)) {
            Some(group) => {
                page.groups.push(group.to_owned());
                position = Position::AfterGroup(group.to_owned());
            }
            None => {
                page.entries.push((key, value));
                position = Position::AfterKey(key.to_owned());
            }
        }
    }
    page
}

/// The first key with this prefix at or after the position.
fn next<'a, V>(keys: &'a BTreeMap<String, V>, prefix: &str, position: &Position) -> Option<(&'a str, &'a V)> {
    let after_group;
    let from = match position {
        Position::AfterKey(key) if key.as_str() >= prefix => Bound::Excluded(key.as_str()),
        Position::AfterGroup(group) if group.as_str() >= prefix => {
            after_group = successor(group)?;
            Bound::Included(after_group.as_str())
        }
        _ => Bound::Included(prefix),
    };
    let (key, value) = keys.range::<str, _>((from, Bound::Unbounded)).next()?;
    key.starts_with(prefix).then_some((key.as_str(), value))
}

/// The group of a key: up to and with the first delimiter after the prefix.
pub(super) fn group<'k>(key: &'k str, prefix: &str, delimiter: &str) -> Option<&'k str> {
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// The least string after all strings that start with `prefix`; none if there is no such string. UTF-8 orders strings
/// as their characters do.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let following = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(following) = following {
            text.push(following);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(keys: &[&str]) -> BTreeMap<String, ()> {
        keys.iter().map(|key| ((*key).to_owned(), ())).collect()
    }

    /// Keys and groups of all pages, and the number of pages.
    fn walk(keys: &BTreeMap<String, ()>, query: Query<'_>) -> (Vec<String>, Vec<String>, usize) {
        let (mut entries, mut groups, mut pages, mut position) = (vec![], vec![], 0, Some(Position::Start));
        while let Some(start) = position {
            let page = list(keys, query, Position::of_token(&start.token()).unwrap());
            entries.extend(page.entries.iter().map(|(key, ())| (*key).to_owned()));
            groups.extend(page.groups);
            pages += 1;
            position = page.next;
        }
        (entries, groups, pages)
    }

    #[test]
    fn groups_count_and_come_once() {
        let keys = map(&["l/d0/a", "l/d0/b", "l/d1-x", "l/d1.txt", "l/d1/a", "l/file", "m"]);
        let query = Query { prefix: "l/", delimiter: Some("/"), limit: 2 };
        let (entries, groups, pages) = walk(&keys, query);
        assert_eq!(entries, ["l/d1-x", "l/d1.txt", "l/file"]);
        assert_eq!(groups, ["l/d0/", "l/d1/"]);
        assert_eq!(pages, 3);
    }

    #[test]
    fn markers_and_start_after() {
        let keys = map(&["d/1", "d/2", "e", "f/1"]);
        let query = Query { prefix: "", delimiter: Some("/"), limit: 9 };
        let after = |position| {
            let page = list(&keys, query, position);
            (page.entries.iter().map(|(key, ())| *key).collect::<Vec<_>>(), page.groups)
        };
        assert_eq!(after(Position::of_marker("d/", "", Some("/"))), (vec!["e"], vec!["f/".to_owned()]));
        assert_eq!(after(Position::AfterKey("d/1".into())).1, ["d/", "f/"]);
        assert_eq!(after(Position::AfterKey("d/2".into())).1, ["f/"]);
        assert_eq!(Position::of_marker("d/1", "", Some("/")), Position::AfterKey("d/1".into()));
        assert_eq!(Position::of_marker("d/", "", None), Position::AfterKey("d/".into()));
    }

    #[test]
    fn nothing_is_listed_at_limit_zero() {
        let keys = map(&["a"]);
        let page = list(&keys, Query { prefix: "", delimiter: None, limit: 0 }, Position::Start);
        assert!(page.entries.is_empty() && page.next.is_none());
    }

    #[test]
    fn successors() {
        assert_eq!(successor("a/"), Some("a0".into()));
        assert_eq!(successor("a\u{10ffff}"), Some("b".into()));
        assert_eq!(successor("\u{d7ff}"), Some("\u{e000}".into()));
        assert_eq!(successor("\u{10ffff}"), None);
        assert_eq!(successor(""), None);
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for token in ["", "!", "eA", &URL_SAFE_NO_PAD.encode("x"), &URL_SAFE_NO_PAD.encode("sx")] {
            assert_eq!(Position::of_token(token), None, "{token}");
        }
    }

    proptest! {
        /// Whatever the keys and the page size, the pages together are what a walk over all keys gives.
        #[test]
        fn pages_add_up(
            keys in proptest::collection::btree_set("[ab/é\u{10ffff}]{1,5}", 0..40),
            prefix in "[ab/]{0,2}",
            delimiter in proptest::option::of("[/a]"),
            limit in 1_usize..6,
        ) {
            let map: BTreeMap<String, ()> = keys.iter().map(|key| (key.clone(), ())).collect();
            let (mut entries, mut groups) = (Vec::new(), Vec::new());
            for key in keys.iter().filter(|key| key.starts_with(&prefix)) {
                match delimiter.as_deref().and_then(|delimiter| group(key, &prefix, delimiter)) {
                    Some(group) if groups.last().is_none_or(|last| last != group) => groups.push(group.to_owned()),
                    Some(_) => {}
                    None => entries.push(key.clone()),
                }
            }
            let query = Query { prefix: &prefix, delimiter: delimiter.as_deref(), limit };
            let walked = walk(&map, query);
            prop_assert_eq!((walked.0, walked.1), (entries, groups));
        }
    }
}
