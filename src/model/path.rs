//! Paths on a node, as text: how two of them lie to each other. No link is followed, and no disk is looked at.

use std::ffi::OsStr;

/// How one path lies to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Neither holds the other.
    Apart,
    /// They are one path.
    Same,
    /// The first lies somewhere in the second.
    Inside,
    /// The second lies somewhere in the first.
    Around,
}

impl Relation {
    /// How `one` lies to `other`, both absolute or both beneath the same directory. Names are compared whole: `/a/bc` is not
    /// in `/a/b`. A `..` is a name like any other: where there may be some, [`plain_path`] comes first.
    #[must_use]
    pub fn of(one: impl AsRef<OsStr>, other: impl AsRef<OsStr>) -> Self {
        let (mut one, mut other) = (names(one.as_ref()), names(other.as_ref()));
        loop {
            match (one.next(), other.next()) {
                (Some(name), Some(same)) if name == same => {}
                (Some(_), Some(_)) => return Self::Apart,
                (Some(_), None) => return Self::Inside,
                (None, Some(_)) => return Self::Around,
                (None, None) => return Self::Same,
            }
        }
    }

    /// What is in one of them may be in the other.
    #[must_use]
    pub fn overlaps(self) -> bool {
        self != Self::Apart
    }
}

fn names(path: &OsStr) -> impl Iterator<Item = &[u8]> {
    path.as_encoded_bytes().split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// A path as text says it: without `.`, `//` and a slash at the end, and with `..` taken back.
#[must_use]
pub fn plain_path(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The directories that a plain path lies in, the nearest first. The last is `/`, which has none.
pub fn directories_around(plain: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(plain), |directory| parent(directory))
}

fn parent(plain: &str) -> Option<&str> {
    match plain.rsplit_once('/')? {
        (_, "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

/// What follows a base and a slash in a path, as both are written: `None` for the base itself and for what only begins like
/// it. What follows is still to be checked: it may be empty, or lead up again.
#[must_use]
pub fn rest_beneath<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    path.strip_prefix(base)?.strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_path_has_one_text() {
        for text in ["/a/b", "//a///b/", "/a/./b/.", "/a/x/../b", "/../a/b"] {
            assert_eq!(plain_path(text), "/a/b", "{text:?}");
        }
        assert_eq!(plain_path(""), "/");
    }

    #[test]
    fn paths_lie_to_each_other_by_whole_names() {
        for (one, other, relation) in [
            ("/a/b", "/a/b/", Relation::Same),
            ("/a//./b", "/a/b", Relation::Same),
            ("/a/b/c", "/a/b", Relation::Inside),
            ("/a", "/a/b", Relation::Around),
            ("/a/bc", "/a/b", Relation::Apart),
            ("/a/b", "/a/c", Relation::Apart),
            ("/", "/a", Relation::Around),
            ("ns/a", "ns/a/b", Relation::Around),
            ("ns/a", "ns/ab", Relation::Apart),
        ] {
            assert_eq!(Relation::of(one, other), relation, "{one} {other}");
            assert_eq!(Relation::of(Path::new(one), other), relation, "{one} {other}");
        }
    }

    #[test]
    fn what_is_around_ends_at_the_root() {
        assert_eq!(directories_around("/a/bc/d").collect::<Vec<_>>(), ["/a/bc", "/a", "/"]);
        assert_eq!(directories_around("/a").collect::<Vec<_>>(), ["/"]);
        assert_eq!(directories_around("/").count(), 0);
    }

    #[test]
    fn beneath_a_base_is_neither_the_base_nor_what_begins_like_it() {
        assert_eq!(rest_beneath("/base/a/b", "/base"), Some("a/b"));
        assert_eq!(rest_beneath("/base/", "/base"), Some(""));
        for path in ["/base", "/base-2/a", "/other/a", "base/a"] {
            assert_eq!(rest_beneath(path, "/base"), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_around_holds_it(text in "(/[a-c.]{0,2}){0,5}", other in "(/[a-c.]{0,2}){0,5}") {
            let (plain, other) = (plain_path(&text), plain_path(&other));
            let around: Vec<&str> = directories_around(&plain).collect();
            prop_assert!(around.iter().all(|directory| Relation::of(&plain, directory) == Relation::Inside));
            let relation = Relation::of(&plain, &other);
            prop_assert_eq!(relation == Relation::Inside, around.contains(&other.as_str()));
            prop_assert_eq!(relation == Relation::Same, plain == other);
            let turned = match relation {
                Relation::Inside => Relation::Around,
                Relation::Around => Relation::Inside,
                same => same,
            };
            prop_assert_eq!(Relation::of(&other, &plain), turned);
        }
    }
}
