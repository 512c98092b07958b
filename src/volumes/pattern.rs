//! Path patterns: literal text and a fixed set of variables.

use std::borrow::Cow;

use crate::crd::{PathError, VolumePath, fnv1a};

/// What the variables stand for.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Namespace of the claim.
    pub namespace: &'a str,
    /// Name of the claim.
    pub claim: &'a str,
    /// UID of the claim.
    pub uid: &'a str,
    /// Name of the volume, `pvc-<uid>`.
    pub volume: &'a str,
    /// Name of the class.
    pub class: &'a str,
}

/// A pattern such as `{namespace}/{claim}-{uid}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(Variable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    Namespace,
    Claim,
    Uid,
    Volume,
    Class,
}

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A brace without its partner.
    #[error("a `{{` without `}}`, or the other way round")]
    Brace,
    /// A name that is no variable.
    #[error("`{{{0}}}` is no variable: there are {{namespace}}, {{claim}}, {{uid}}, {{volume}} and {{class}}")]
    Unknown(String),
    /// Two claims could get the same directory.
    #[error("the pattern must contain {{uid}} or {{volume}}: without them two claims could share a directory")]
    NotUnique,
    /// The pattern itself leads elsewhere than down.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl Variable {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "namespace" => Self::Namespace,
            "claim" => Self::Claim,
            "uid" => Self::Uid,
            "volume" => Self::Volume,
            "class" => Self::Class,
            _ => return None,
        })
    }

    /// No two claims have the same value.
    fn is_unique(self) -> bool {
        matches!(self, Self::Uid | Self::Volume)
    }

    fn value<'a>(self, names: &Names<'a>) -> &'a str {
        match self {
            Self::Namespace => names.namespace,
            Self::Claim => names.claim,
            Self::Uid => names.uid,
            Self::Volume => names.volume,
            Self::Class => names.class,
        }
    }
}

impl Default for PathPattern {
    /// The customary name of a directory: `<volume>_<namespace>_<claim>`.
    fn default() -> Self {
        let text = |text: &str| Piece::Text(text.to_owned());
        let variable = Piece::Variable;
        Self(vec![
            variable(Variable::Volume),
            text("_"),
            variable(Variable::Namespace),
            text("_"),
            variable(Variable::Claim),
        ])
    }
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it has unknown variables, could give two claims one directory, or does not lead strictly downwards.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(start);
            let inside = brace.strip_prefix('{').ok_or(PatternError::Brace)?;
            let (name, after) = inside.split_once('}').ok_or(PatternError::Brace)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let variable = Variable::named(name.trim())
                .ok_or_else(|| PatternError::Unknown(name.trim().chars().take(64).collect()))?;
            pieces.push(Piece::Variable(variable));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let pattern = Self(pieces);
        let unique = |piece: &Piece| matches!(piece, Piece::Variable(variable) if variable.is_unique());
        if !pattern.0.iter().any(unique) {
            return Err(PatternError::NotUnique);
        }
        // Kubernetes names are made of what a path allows: what fails with these is wrong in the pattern itself.
        pattern.render(&Names { namespace: "n", claim: "c", uid: "u", volume: "v", class: "s" })?;
        Ok(pattern)
    }

    /// The directory of a claim. Where names are so long that a part of the path, or all of it, would not fit, those of
    /// namespace, claim and class are cut and end in a hash of the whole name; what tells two claims apart never is.
    ///
    /// # Errors
    /// When the result would not lead strictly downwards, or is too long whatever is cut.
    pub fn render(&self, names: &Names<'_>) -> Result<VolumePath, PathError> {
        let whole = self.render_within(names, usize::MAX)?;
        match VolumePath::parse(&whole) {
            Err(PathError::TooLong) => {}
            parsed => return parsed,
        }
        // The longest name that a variable may keep, from the longest that an object may have.
        let fits = |longest: &usize| Some(VolumePath::parse(&self.render_within(names, *longest).ok()?).is_ok());
        let lengths: Vec<usize> = (SHORTEST_CUT..=LONGEST_NAME).collect();
        let fitting = lengths.partition_point(|longest| fits(longest) == Some(true));
        let longest = fitting.checked_sub(1).map(|place| lengths[place]).ok_or(PathError::TooLong)?;
        VolumePath::parse(&self.render_within(names, longest)?)
    }

    /// The path as text, with names of at most so many bytes.
    fn render_within(&self, names: &Names<'_>, longest: usize) -> Result<String, PathError> {
        let mut path = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => path.push_str(text),
                Piece::Variable(variable) => {
                    let value = variable.value(names);
                    // A value is a name, never a path of its own.
                    if value.is_empty() || value.contains('/') {
                        return Err(PathError::Component(value.chars().take(64).collect()));
                    }
                    if variable.is_unique() { path.push_str(value) } else { path.push_str(&cut(value, longest)) }
                }
            }
        }
        Ok(path)
    }
}

/// The longest name that an object may have.
const LONGEST_NAME: usize = 253;
/// A hyphen and a hash, and enough of a name to recognize it by.
const SHORTEST_CUT: usize = 32;

/// A name of at most so many bytes: one that is longer ends in a hash of it.
fn cut(name: &str, longest: usize) -> Cow<'_, str> {
    if name.len() <= longest {
        return Cow::Borrowed(name);
    }
    let hash = format!("-{:016x}", fnv1a(name));
    let room = longest.saturating_sub(hash.len());
    let end = (0..=room).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
    Cow::Owned(format!("{}{hash}", &name[..end]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: Names<'_> = Names { namespace: "shop", claim: "cart", uid: "u-1", volume: "pvc-u-1", class: "local" };

    #[test]
    fn variables_are_filled_in() {
        let path = |text: &str| PathPattern::parse(text).unwrap().render(&NAMES).unwrap().to_string();
        assert_eq!(path("{namespace}/{claim}-{uid}"), "shop/cart-u-1");
        assert_eq!(path("k8s/{ class }/{volume}"), "k8s/local/pvc-u-1");
        assert_eq!(PathPattern::default().render(&NAMES).unwrap().as_str(), "pvc-u-1_shop_cart");
    }

    #[test]
    fn names_that_are_too_long_are_cut_and_hashed_and_what_is_unique_never_is() {
        let (uid, longest) = ("0".repeat(36), "a".repeat(253));
        let volume = format!("pvc-{uid}");
        let path = |text: &str, namespace: &str, claim: &str, class: &str| {
            let names = Names { namespace, claim, uid: &uid, volume: &volume, class };
            let pattern = if text.is_empty() { PathPattern::default() } else { PathPattern::parse(text).unwrap() };
            pattern.render(&names).map(|path| path.to_string())
        };
        let namespace = "n".repeat(63);
        let cut = path("", &namespace, &longest, "s").unwrap();
        assert!(cut.len() <= 255 && cut.starts_with(&format!("{volume}_{namespace}_aaaa")), "{cut}");
        let other = format!("{}b", "a".repeat(252));
        assert_ne!(cut, path("", &namespace, &other, "s").unwrap(), "the part that was cut off still counts");
        assert!(path("", &namespace, &"a".repeat(150), "s").unwrap().ends_with("aaa"), "what fits stays as it is");
        let all = path("{namespace}-{claim}-{class}-{uid}", &namespace, &longest, &longest).unwrap();
        assert!(all.len() <= 255 && all.ends_with(&uid), "{all}");
        let deep = path("{claim}/{claim}/{claim}/{claim}/{claim}/{claim}/{claim}/{uid}", "n", &longest, "s").unwrap();
        assert!(deep.len() <= 1024 && deep.split('/').count() == 8 && deep.ends_with(&uid), "{deep}");
        let text = format!("{}{{uid}}", "x".repeat(230));
        assert_eq!(path(&text, "n", &longest, "s"), Err(PathError::TooLong), "there is nothing to cut");
    }

    #[test]
    fn what_is_not_unique_or_climbs_is_refused() {
        for text in ["", "{namespace}/{claim}", "{uid}/..", "../{uid}", "/{uid}", "{uid}/", "{uid}//x", ".{uid}"] {
            assert!(PathPattern::parse(text).is_err(), "{text:?}");
        }
        for text in ["{uid", "uid}", "{{uid}}", "{}", "{.PVC.Name}{uid}", "{uid}{annotations.x}", "{uid} x", "{uid}\0"]
        {
            assert!(PathPattern::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_names_and_pattern_the_path_descends(
            text in "[a.{}/ -]{0,8}(\\{uid\\}|\\{volume\\}|\\{claim\\}|\\{namespace\\}|[./-]){0,4}[a./]{0,4}",
            namespace in "[a./\\x00-]{0,6}", claim in "[a./-]{0,6}", uid in "[a./-]{0,6}",
        ) {
            let Ok(pattern) = PathPattern::parse(&text) else { return Ok(()) };
            let names = Names { namespace: &namespace, claim: &claim, uid: &uid, volume: &uid, class: "s" };
            let Ok(path) = pattern.render(&names) else { return Ok(()) };
            let joined = std::path::Path::new("/base").join(path.as_str());
            prop_assert!(joined.starts_with("/base") && joined != std::path::Path::new("/base"));
            prop_assert!(!joined.components().any(|part| part.as_os_str() == ".."));
        }

        #[test]
        fn two_claims_never_get_one_directory(
            pieces in proptest::collection::vec("\\{namespace\\}|\\{claim\\}|\\{class\\}|/|-|x", 0..5),
            at in 0_usize..6, first in "[0-9a-f]{8}", second in "[0-9a-f]{8}", claims in ("[a-z]{1,4}", "[a-z]{1,4}"),
            long in prop_oneof![Just(1_usize), Just(63)],
        ) {
            prop_assume!(first != second);
            let mut pieces = pieces;
            // A component of its own: two names and two UIDs of equal length cannot add up to the same text there.
            pieces.insert(at.min(pieces.len()), "/{uid}/".to_owned());
            let text = pieces.concat().trim_matches('/').replace("//", "/");
            let Ok(pattern) = PathPattern::parse(&text) else { return Ok(()) };
            let path = |claim: &str, uid: &str| {
                let claim = claim.repeat(long);
                pattern.render(&Names { namespace: "n", claim: &claim, uid, volume: uid, class: "s" }).unwrap()
            };
            prop_assert_ne!(path(&claims.0, &first), path(&claims.1, &second));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _outcome = PathPattern::parse(&text);
        }
    }
}
