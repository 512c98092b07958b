//! Parameters and annotations of rancher's classes.

use crate::crd::VolumeType;
use crate::model::Class;
use crate::provision::{ClassParameters, ParameterError, PathPattern};

/// What a class of rancher's asks for, as far as it can be kept. The pool is the one with the name of the class.
///
/// # Errors
/// When a parameter cannot be kept: a volume with other properties than ordered must not be made.
pub fn parameters(class: &Class) -> Result<ClassParameters, ParameterError> {
    let mut plain = class.clone();
    plain.parameters.clear();
    let mut read = ClassParameters::of(&plain)?;
    let annotation = |key: &str| class.metadata.annotation(key);
    // The other provisioner's default.
    read.volume_type = VolumeType::HostPath;
    if let Some(kind) = annotation("defaultVolumeType") {
        if kind.eq_ignore_ascii_case("local") {
            read.volume_type = VolumeType::Local;
        } else if !kind.eq_ignore_ascii_case("hostpath") {
            return Err(wrong(class, "defaultVolumeType", kind, "`local` or `hostPath`"));
        }
    }
    for (key, value) in &class.parameters {
        match key.as_str() {
            "nodePath" | "nodeAffinityKey" => {
                let mut one = plain.clone();
                one.parameters.insert(key.clone(), value.clone());
                let one = ClassParameters::of(&one)?;
                read.node_path = one.node_path.or(read.node_path);
                if key == "nodeAffinityKey" {
                    read.affinity_key = one.affinity_key;
                }
            }
            "pathPattern" => {
                let (pattern, _) = translate_pattern(value).ok_or_else(|| {
                    wrong(class, key, value, "made of .PVC.Namespace, .PVC.Name, .PVC.UID and .PVName")
                })?;
                read.pattern = PathPattern::parse(&pattern)
                    .map_err(|source| ParameterError::Pattern { class: class.name().to_owned(), source })?;
            }
            "userPattern" | "groupPattern" | "permPattern" => {
                let mut one = plain.clone();
                let ours = match key.as_str() {
                    "userPattern" => "uid",
                    "groupPattern" => "gid",
                    _ => "mode",
                };
                one.parameters.insert(ours.to_owned(), value.trim().to_owned());
                let one = ClassParameters::of(&one).map_err(|_| wrong(class, key, value, "a plain number"))?;
                (read.uid, read.gid) = (one.uid.or(read.uid), one.gid.or(read.gid));
                read.mode = one.mode.or(read.mode);
            }
            // It only ever allowed what is never allowed here.
            "allowUnsafePathPattern" => {}
            _ => {
                return Err(ParameterError::Unknown { class: class.name().to_owned(), key: key.clone() });
            }
        }
    }
    // Its options were dropped without a word; a hostPath volume cannot have any.
    if read.volume_type == VolumeType::HostPath {
        read.mount_options.clear();
    }
    Ok(read)
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
        for wrong in
            [json!({ "userPattern": "{{ .PVC.Name }}" }), json!({ "pathPattern": "{{ .X }}" }), json!({ "x": "y" })]
        {
            assert!(parameters(&class(wrong, json!({}))).is_err());
        }
    }
}
