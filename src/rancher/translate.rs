//! One class as one of ours, with an account of each of its fields.

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1::StorageClass;

use super::account::{Accounts, Loss};
use super::class::{Translated, in_force, translate as translate_parameter};
use super::input::GivenClass;
use crate::model::{CLASS_PARAMETERS, SHARED_FILE_SYSTEM, VOLUME_TYPE};
use crate::volumes::PROVISIONER;

/// The directory names of MicroK8s' provisioner.
const MICROK8S_PATTERN: &str = "{namespace}-{claim}-{volume}";

/// Beginnings of labels and annotations by which a program knows what it may change and delete. The new class is not theirs.
const OWNERS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "meta.helm.sh/",
    "objectset.rio.cattle.io/",
    "addonmanager.kubernetes.io/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
];
/// The label by which Helm says that an object is its own.
const HELM: (&str, &str) = ("app.kubernetes.io/managed-by", "Helm");

const FIELDS: [&str; 10] = [
    "apiVersion",
    "kind",
    "metadata",
    "provisioner",
    "parameters",
    "reclaimPolicy",
    "mountOptions",
    "allowVolumeExpansion",
    "volumeBindingMode",
    "allowedTopologies",
];
/// Metadata that the API server writes, and what is accounted for by itself.
const METADATA: [&str; 10] = [
    "name",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "selfLink",
    "namespace",
];

/// Whose parameters a class has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    is_rancher: bool,
    is_shared: bool,
}

impl Translation {
    pub fn rancher() -> Self {
        Self { is_rancher: true, is_shared: false }
    }

    /// Of rancher's, with a path that is the same on every node.
    pub fn of_shared() -> Self {
        Self { is_rancher: true, is_shared: true }
    }

    pub fn microk8s() -> Self {
        Self { is_rancher: false, is_shared: false }
    }
}

/// Translates a class.
pub(super) fn translate(given: &GivenClass, translation: Translation, accounts: &mut Accounts) -> StorageClass {
    let (class, name) = (&given.class, given.name());
    let place = format!("class {name}");
    let mut parameters = BTreeMap::from([("pool".to_owned(), name.to_owned())]);
    if translation.is_rancher {
        rancher_parameters(class, &place, translation.is_shared, &mut parameters, accounts);
    } else {
        parameters.insert("type".to_owned(), "hostPath".to_owned());
        parameters.insert("pathPattern".to_owned(), MICROK8S_PATTERN.to_owned());
        for key in class.parameters.iter().flatten().map(|(key, _)| key).filter(|key| *key != "pvDir") {
            accounts.not_needed(format!("{place}: parameter {key}"), "it meant nothing before either");
        }
    }
    if translation.is_shared {
        parameters.remove("type");
        parameters.insert(SHARED_FILE_SYSTEM.to_owned(), "true".to_owned());
    }
    if translation.is_shared || parameters.get("type").is_some_and(|kind| kind == "hostPath") {
        let why = "hostPath volumes have type Directory, not DirectoryOrCreate: an empty directory does not take the place of one that \
                   vanished; where the kubelet has a root of its own (RKE1, Talos) add parameter hostPathType: DirectoryOrCreate";
        accounts.changed(format!("{place}: volumes"), why);
    }
    for (key, value) in given.object.as_object().into_iter().flatten() {
        if !FIELDS.contains(&key.as_str()) && !value.is_null() {
            accounts.not_needed(format!("{place}: {key}"), "it is no field of a class");
        }
    }
    for (key, value) in given.object["metadata"].as_object().into_iter().flatten() {
        if !METADATA.contains(&key.as_str()) && !value.is_null() {
            accounts.changed(
                format!("{place}: metadata.{key}"),
                "it is left out: it speaks of the object that is replaced",
            );
        }
    }
    if class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        accounts.not_needed(format!("{place}: mountOptions"), "they are dropped, as before: its volumes never had any");
    }
    if class.allow_volume_expansion == Some(true) {
        accounts.changed(
            format!("{place}: allowVolumeExpansion"),
            "it is dropped: nothing enlarged a volume before either",
        );
    }
    for (key, is_there) in [
        ("reclaimPolicy", class.reclaim_policy.is_some()),
        ("volumeBindingMode", class.volume_binding_mode.is_some()),
        ("allowedTopologies", class.allowed_topologies.is_some()),
    ] {
        if is_there {
            accounts.kept(format!("{place}: {key}"), "");
        }
    }
    let mut translated = StorageClass {
        provisioner: PROVISIONER.to_owned(),
        parameters: Some(parameters),
        reclaim_policy: class.reclaim_policy.clone(),
        volume_binding_mode: class.volume_binding_mode.clone(),
        allowed_topologies: class.allowed_topologies.clone(),
        ..StorageClass::default()
    };
    translated.metadata.name = Some(name.to_owned());
    let is_parameter = |key: &str| translation.is_rancher && (CLASS_PARAMETERS.contains(&key) || key == VOLUME_TYPE);
    let metadata = &class.metadata;
    translated.metadata.labels = kept(metadata.labels.as_ref(), &format!("{place}: label"), &|_| false, accounts);
    translated.metadata.annotations =
        kept(metadata.annotations.as_ref(), &format!("{place}: annotation"), &is_parameter, accounts);
    translated
}

/// The labels or annotations that stay.
fn kept(
    given: Option<&BTreeMap<String, String>>,
    place: &str,
    is_parameter: &dyn Fn(&str) -> bool,
    accounts: &mut Accounts,
) -> Option<BTreeMap<String, String>> {
    let mut stay = BTreeMap::new();
    for (key, value) in given.into_iter().flatten().filter(|(key, _)| !is_parameter(key)) {
        if OWNERS.iter().any(|owner| key.starts_with(owner)) || (key.as_str(), value.as_str()) == HELM {
            let why = "it is left out: by it a program knows the object that is replaced, and would change or delete the new one";
            accounts.changed(format!("{place} {key}"), why);
        } else {
            accounts.kept(format!("{place} {key}"), "");
            stay.insert(key.clone(), value.clone());
        }
    }
    (!stay.is_empty()).then_some(stay)
}

fn rancher_parameters(
    class: &StorageClass,
    place: &str,
    is_shared: bool,
    parameters: &mut BTreeMap<String, String>,
    accounts: &mut Accounts,
) {
    let annotations = class.metadata.annotations.clone().unwrap_or_default();
    let given = class.parameters.clone().unwrap_or_default();
    let annotated = annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let in_force = in_force(annotated, Some(&given));
    for (key, value) in &in_force {
        let (key, value) = (*key, *value);
        // By annotation or by parameter, whichever is in force.
        let from = if given.get(key).is_some_and(|it| !it.trim().is_empty()) { "parameter" } else { "annotation" };
        let at = format!("{place}: {from} {key}");
        match translate_parameter(key, value) {
            Translated::Ours("nodeAffinityKey", _) if is_shared => {
                accounts.not_needed(at, "its volumes were tied to no node before either");
            }
            Translated::Ours(ours, kept) => {
                if kept.trim() == value.trim() {
                    accounts.kept(at, format!("{ours}: {kept}"));
                } else {
                    accounts.changed(at, format!("it becomes {kept}, its shortest form"));
                }
                parameters.insert(ours.to_owned(), kept);
            }
            Translated::Unique(pattern) => {
                accounts.changed(at, format!("it becomes {pattern}, so that no two claims share a directory"));
                parameters.insert("pathPattern".to_owned(), pattern);
            }
            Translated::Unsafe => {
                accounts.changed(at, "allowUnsafePathPattern is not kept: directories never leave the base");
            }
            Translated::Refused(expected) if key == "pathPattern" => accounts.lost(
                Loss::Parameters,
                format!("{place}: {from} pathPattern `{value}`"),
                format!(
                    "it should be {expected}, nothing else is sure to stay in the base; new directories are \
                     <base>/<volume>_<namespace>_<claim>"
                ),
            ),
            Translated::Refused(expected) => {
                accounts.lost(Loss::Parameters, format!("{at} (`{value}`)"), format!("it should be {expected}"));
            }
            Translated::Unknown => accounts.not_needed(format!("{at} (`{value}`)"), "it meant nothing before either"),
        }
    }
    for key in given.keys().filter(|key| !in_force.contains_key(key.as_str())) {
        accounts.not_needed(format!("{place}: parameter {key}"), "it is empty and says nothing");
    }
    for key in annotations.keys().filter(|key| CLASS_PARAMETERS.contains(&key.as_str())) {
        let by_parameter = given.get(key).is_some_and(|it| !it.trim().is_empty());
        if by_parameter || !in_force.contains_key(key.as_str()) {
            accounts.not_needed(
                format!("{place}: annotation {key}"),
                "the parameter counts, or it is empty and says nothing",
            );
        }
    }
    let kind = volume_type(annotations.get(VOLUME_TYPE).map(String::as_str), place, is_shared, accounts);
    parameters.insert("type".to_owned(), kind.to_owned());
    accounts.changed(
        format!("{place}: claims"),
        "annotation volumeType of a claim is no longer read: a tenant does not choose the source",
    );
}

/// The type of the volumes, by the class's annotation.
fn volume_type(annotation: Option<&str>, place: &str, is_shared: bool, accounts: &mut Accounts) -> &'static str {
    let kind = annotation.map(str::trim).unwrap_or_default();
    let is_local = kind.eq_ignore_ascii_case("local");
    let ours = if is_local { "local" } else { "hostPath" };
    if annotation.is_none() {
        return ours;
    }
    let at = format!("{place}: annotation {VOLUME_TYPE}");
    if is_local && is_shared {
        // The API server takes no `local` volume without a node affinity.
        accounts.changed(at, "its volumes are hostPath volumes, as no node has them alone");
    } else if is_local || kind.is_empty() || kind.eq_ignore_ascii_case("hostpath") {
        accounts.kept(at, format!("type: {ours}"));
    } else {
        let why = "it should be local or hostPath; volumes are hostPath";
        accounts.lost(Loss::Parameters, format!("{at} (`{kind}`)"), why);
    }
    ours
}
