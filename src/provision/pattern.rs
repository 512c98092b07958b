//! Path patterns: literal text and a fixed set of variables.

use crate::crd::{PathError, VolumePath};

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
        let unique = |piece: &Piece| matches!(piece, Piece::Variable(Variable::Uid | Variable::Volume));
        if !pattern.0.iter().any(unique) {
            return Err(PatternError::NotUnique);
        }
        // Kubernetes names are made of what a path allows: what fails with these is wrong in the pattern itself.
        pattern.render(&Names { namespace: "n", claim: "c", uid: "u", volume: "v", class: "s" })?;
        Ok(pattern)
    }

    /// The directory of a claim.
    ///
    /// # Errors
    /// When the result would not lead strictly downwards, or is too long.
    pub fn render(&self, names: &Names<'_>) -> Result<VolumePath, PathError> {
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
                    path.push_str(value);
                }
            }
        }
        VolumePath::parse(&path)
    }
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
        ) {
            prop_assume!(first != second);
            let mut pieces = pieces;
            // A component of its own: two names and two UIDs of equal length cannot add up to the same text there.
            pieces.insert(at.min(pieces.len()), "/{uid}/".to_owned());
            let text = pieces.concat().trim_matches('/').replace("//", "/");
            let Ok(pattern) = PathPattern::parse(&text) else { return Ok(()) };
            let path = |claim: &str, uid: &str| {
                pattern.render(&Names { namespace: "n", claim, uid, volume: uid, class: "s" }).unwrap()
            };
            prop_assert_ne!(path(&claims.0, &first), path(&claims.1, &second));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _outcome = PathPattern::parse(&text);
        }
    }
}
