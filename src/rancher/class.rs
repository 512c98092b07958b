//! Parameters and annotations of rancher's classes.

use std::collections::BTreeMap;

use super::config::checked;
use crate::model::{CLASS_PARAMETERS, Class, VOLUME_TYPE};
use crate::volumes::{ClassParameters, ParameterError, PathPattern};

/// What a class of rancher's asks for, as far as it can be kept. The pool is the one with the name of the class.
///
/// # Errors
/// When a parameter cannot be kept: a volume with other properties than ordered must not be made.
pub fn parameters(class: &Class) -> Result<ClassParameters, ParameterError> {
    let mut ours = class.clone();
    ours.parameters.clear();
    // The other provisioner's default is hostPath.
    let kind = class.metadata.annotation(VOLUME_TYPE).filter(|kind| !kind.trim().is_empty());
    let local = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("local"));
    if let Some(kind) = kind.filter(|kind| !local && !kind.eq_ignore_ascii_case("hostpath")) {
        return Err(wrong(class, VOLUME_TYPE, kind, "`local` or `hostPath`"));
    }
    ours.parameters.insert("type".to_owned(), if local { "local" } else { "hostPath" }.to_owned());
    let annotations = class.metadata.annotations.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in in_force(annotations, Some(&class.parameters)) {
        let (key, value) = match translate(key, value) {
            Translated::Ours(key, value) => (key, value),
            Translated::Unique(pattern) => ("pathPattern", pattern),
            Translated::Refused(expected) => return Err(wrong(class, key, value, expected)),
            // What rancher's provisioner does not know it passes over.
            Translated::Unsafe | Translated::Unknown => continue,
        };
        ours.parameters.insert(key.to_owned(), value);
    }
    // Its volumes had none, whatever the class said.
    ours.mount_options.clear();
    ClassParameters::of(&ours)
}

/// What a parameter of rancher's becomes.
pub(super) enum Translated {
    /// This parameter of ours, which our own parser takes.
    Ours(&'static str, String),
    /// A pattern of ours, changed so that no two claims share a directory.
    Unique(String),
    /// Something that only ever allowed what is never allowed here.
    Unsafe,
    /// A value that cannot be kept, and what would be.
    Refused(&'static str),
    /// No parameter of rancher's.
    Unknown,
}

/// What a class says, by annotation or by parameter; the latter wins. Empty values say nothing.
pub(super) fn in_force<'a>(
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
    parameters: Option<&'a BTreeMap<String, String>>,
) -> BTreeMap<&'a str, &'a str> {
    let annotated = annotations.filter(|(key, _)| CLASS_PARAMETERS.contains(key));
    let given = parameters.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    annotated.chain(given).filter(|(_, value)| !value.trim().is_empty()).collect()
}

/// Translates one parameter.
pub(super) fn translate(key: &str, value: &str) -> Translated {
    if key == "nodePath" {
        return match checked(value) {
            Ok(path) => Translated::Ours("nodePath", path),
            Err(_) => Translated::Refused("an absolute path of the pool"),
        };
    }
    let (ours, value, expected) = match key {
        "nodeAffinityKey" => ("nodeAffinityKey", value, "a label key of nodes"),
        "userPattern" => ("uid", value.trim(), "a plain number"),
        "groupPattern" => ("gid", value.trim(), "a plain number"),
        "permPattern" => ("mode", value.trim(), "three or four octal digits"),
        "pathPattern" => {
            return match translate_pattern(value) {
                Some((pattern, true)) => Translated::Unique(pattern),
                Some((pattern, false)) => Translated::Ours("pathPattern", pattern),
                None => Translated::Refused("made of .PVC.Namespace, .PVC.Name, .PVC.UID and .PVName"),
            };
        }
        "allowUnsafePathPattern" => return Translated::Unsafe,
        _ => return Translated::Unknown,
    };
    let mut alone = Class::default();
    alone.parameters.insert(ours.to_owned(), value.to_owned());
    match ClassParameters::of(&alone) {
        Ok(_) => Translated::Ours(ours, value.to_owned()),
        Err(_) => Translated::Refused(expected),
    }
}

fn wrong(class: &Class, key: &str, value: &str, expected: &'static str) -> ParameterError {
    ParameterError::Value {
        class: class.name().to_owned(),
        key: key.to_owned(),
        value: value.chars().take(64).collect(),
        expected,
    }
}

/// A Go template as a path pattern, and whether `/{volume}` had to be added so that no two claims share a directory.
/// `None` when it uses more than the four plain fields, since annotations and functions are text of a tenant's choice.
#[must_use]
pub fn translate_pattern(template: &str) -> Option<(String, bool)> {
    let mut pattern = String::new();
    let mut rest = template.trim();
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}")?;
        if before.contains(['{', '}']) {
            return None;
        }
        pattern.push_str(before);
        pattern.push_str(match action.trim_matches('-').trim() {
            ".PVC.Namespace" => "{namespace}",
            ".PVC.Name" => "{claim}",
            ".PVC.UID" => "{uid}",
            ".PVName" => "{volume}",
            _ => return None,
        });
        rest = after;
    }
    if rest.contains(['{', '}']) {
        return None;
    }
    pattern.push_str(rest);
    let trimmed = pattern.trim_matches('/').to_owned();
    let unique = trimmed.contains("{uid}") || trimmed.contains("{volume}");
    let full = if unique { trimmed } else { format!("{trimmed}/{{volume}}") };
    PathPattern::parse(&full).ok()?;
    Some((full, !unique))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::VolumeType;

    #[test]
    fn patterns_are_translated_where_they_are_safe() {
        let translated = |text: &str| translate_pattern(text);
        assert_eq!(
            translated("{{ .PVC.Namespace }}/{{.PVC.Name}}/"),
            Some(("{namespace}/{claim}/{volume}".into(), true))
        );
        assert_eq!(translated("{{ .PVName }}"), Some(("{volume}".into(), false)));
        for text in [
            "{{ .PVC.Namespace }}/{{ .PVC.Annotations.sub }}",
            "{{ printf \"..\" }}",
            "../{{ .PVName }}",
            "{{ .PVName",
            "/opt/../{{ .PVC.Namespace }}_{{ .PVC.Name }}/../etc/",
            "{uid}{{ .PVName }}",
            "",
        ] {
            assert_eq!(translated(text), None, "{text}");
        }
    }

    #[test]
    fn classes_keep_what_they_had() {
        let class = |parameters: serde_json::Value, annotations: serde_json::Value| -> Class {
            serde_json::from_value(json!({ "metadata": { "name": "local-path", "annotations": annotations },
                "provisioner": "rancher.io/local-path", "parameters": parameters, "mountOptions": ["ro"] }))
            .unwrap()
        };
        let read = parameters(&class(json!({}), json!({}))).unwrap();
        assert_eq!((read.volume_type, read.pool.as_str()), (VolumeType::HostPath, "local-path"));
        let read = parameters(&class(
            json!({ "nodePath": "/a", "nodeAffinityKey": "k", "userPattern": "1000", "groupPattern": "2000", "permPattern": "0700" }),
            json!({ "defaultVolumeType": "Local" }),
        ))
        .unwrap();
        assert_eq!((read.uid, read.gid, read.mode.as_deref()), (Some(1000), Some(2000), Some("0700")));
        assert_eq!((read.volume_type, read.affinity_key.as_str()), (VolumeType::Local, "k"));
        assert_eq!(read.node_path.as_deref(), Some("/a"));
        assert!(read.mount_options.is_empty(), "it had none before");
        let read =
            parameters(&class(json!({ "nodePath": "/a//b/", "pathPatern": "x", "onDelete": "archive" }), json!({})));
        let read = read.unwrap_or_else(|error| panic!("what it never knew is refused: {error}"));
        assert_eq!((read.node_path.as_deref(), read.on_delete), (Some("/a/b"), crate::crd::OnDelete::Delete));
        for wrong in [json!({ "userPattern": "{{ .PVC.Name }}" }), json!({ "pathPattern": "{{ .X }}" })] {
            assert!(parameters(&class(wrong, json!({}))).is_err());
        }
    }
}
