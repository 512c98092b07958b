//! What the fuzz targets check, with their seeds and with generated input: no fuzzer needed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

mod reviews;
mod timed;

use std::fs;
use std::path::{Path, PathBuf};

use latebind_fuzz_checks as properties;
use proptest::prelude::*;

/// Every file beneath a directory of the project, whole and damaged by one byte: at every place of a short one, at some
/// hundred places of a longer one.
fn every_seed(directory: &str, check: fn(&[u8])) {
    let mut count = 0;
    for path in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)) {
        println!("{}", path.display());
        let bytes = fs::read(&path).unwrap();
        check(&bytes);
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 500) {
            let mut damaged = bytes.clone();
            damaged[at] = b"/.{\"\0"[at % 5];
            check(&damaged);
        }
        count += 1;
    }
    assert!(count > 3, "the seeds are missing");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The Pods among what the API server asks about.
fn pod_of_review(bytes: &[u8]) {
    let review = serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
    properties::patch(review["request"]["object"].to_string().as_bytes());
}

#[test]
fn seeds_of_patterns_hold() {
    every_seed("fuzz/seeds/pattern", properties::pattern);
}

#[test]
fn seeds_of_configurations_hold() {
    every_seed("fuzz/seeds/config", properties::config);
}

#[test]
fn seeds_of_markers_hold() {
    every_seed("fuzz/seeds/marker", properties::marker);
}

#[test]
fn seeds_of_reviews_hold() {
    every_seed("tests/data/reviews", properties::review);
    every_seed("tests/data/reviews", pod_of_review);
    every_seed("fuzz/seeds/patch", properties::patch);
}

#[test]
fn seeds_of_manifests_hold() {
    every_seed("fuzz/seeds/manifests", properties::manifests);
    // Cases are no manifests, and hold all that one can.
    for case in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")) {
        properties::manifests(&fs::read(case).unwrap());
    }
}

/// Something that a class of the old provisioner could say, or nearly.
fn parameter() -> impl Strategy<Value = String> {
    let key = "nodePath|nodeAffinityKey|pathPattern|userPattern|groupPattern|permPattern|allowUnsafePathPattern|x";
    let value =
        "/a|/a/|a|[0-9]{0,12}|/?(\\{\\{ ?\\.PVC\\.(Name|Namespace|UID|Annotations\\.x) ?\\}\\}/?){0,3}|\\.\\./x";
    (key, value).prop_map(|(key, value)| format!("{}:{}", json(&key), json(&value)))
}

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn entry() -> impl Strategy<Value = String> {
    let paths = proptest::collection::vec("/[a.]{0,3}(/[a.]{0,3}){0,2}|[a/]{0,2}", 0..3);
    ("n[0-9]|DEFAULT_PATH_FOR_NON_LISTED_NODES|", paths).prop_map(|(node, paths)| {
        let paths: Vec<String> = paths.iter().map(|path| json(path)).collect();
        format!("{{\"node\":{},\"paths\":[{}]}}", json(&node), paths.join(","))
    })
}

proptest! {
    // What fails becomes a seed, by hand.
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_and_names(
        text in "([a./_-]|\\{(uid|volume|claim|namespace|class)\\}|\\{\\{ \\.PVC\\.(Name|UID) \\}\\}){0,8}",
        names in proptest::collection::vec("[a-z0-9]{1,8}|[a./\\x00-]{0,5}", 4),
    ) {
        properties::pattern(format!("{text}\n{}", names.join("\n")).as_bytes());
    }

    #[test]
    fn any_configuration_and_class(
        entries in proptest::collection::vec(entry(), 0..3), by_class in any::<bool>(), shared in "|/s|s|/",
        parameters in proptest::collection::vec(parameter(), 0..4),
        annotations in proptest::collection::vec(parameter(), 0..3), kind in "|local|HostPath|nfs", options in any::<bool>(),
    ) {
        let location = format!("\"nodePathMap\":[{}],\"sharedFilesystemPath\":{}", entries.join(","), json(&shared));
        let location = if by_class {
            format!("{{\"storageClassConfigs\":{{\"local-path\":{{{location}}}}}}}")
        } else {
            format!("{{{location}}}")
        };
        let mut annotations = annotations;
        if !kind.is_empty() {
            annotations.push(format!("\"defaultVolumeType\":{}", json(&kind)));
        }
        let options = if options { "[\"ro\"]" } else { "null" };
        let class = format!(
            "{{\"parameters\":{{{}}},\"annotations\":{{{}}},\"mountOptions\":{options}}}",
            parameters.join(","), annotations.join(",")
        );
        properties::config(format!("{location}\n%%\n{class}").as_bytes());
    }

    #[test]
    fn any_marker(
        fields in proptest::collection::vec("\\PC{0,12}", 4), version in 0_u32..3, cut in 0_usize..200,
    ) {
        let marker = serde_json::json!({ "version": version, "cluster": fields[0], "volume": fields[1],
            "claim": fields[2], "path": fields[3] });
        let bytes = serde_json::to_vec(&marker).unwrap();
        properties::marker(&bytes);
        properties::marker(&bytes[..cut.min(bytes.len())]);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        properties::pattern(&bytes);
        properties::config(&bytes);
        properties::marker(&bytes);
        properties::review(&bytes);
        properties::manifests(&bytes);
        properties::patch(&bytes);
    }

    #[test]
    fn any_pod(
        spec in proptest::collection::vec(field(), 0..6), metadata in proptest::collection::vec(field(), 0..3),
    ) {
        let spec: Vec<String> = std::iter::once("\"nodeName\":\"a\"".to_owned()).chain(spec).collect();
        let pod = format!("{{\"metadata\":{{{}}},\"spec\":{{{}}}}}", metadata.join(","), spec.join(","));
        properties::patch(pod.as_bytes());
        properties::manifests(format!("{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",{}", &pod[1..]).as_bytes());
    }
}

/// A field of a Pod's metadata or spec that a patch may have to touch, in shapes that are right and wrong.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(r#""annotations":null"#.to_owned()),
        Just(r#""annotations":{}"#.to_owned()),
        Just(r#""annotations":{"latebind.dev/original-node-name":"b"}"#.to_owned()),
        Just(r#""nodeSelector":null"#.to_owned()),
        "[a-z~/]{0,4}".prop_map(|key| format!(r#""nodeSelector":{{{}:"x"}}"#, json(&key))),
        Just(r#""nodeSelector":{"kubernetes.io/hostname":"n"}"#.to_owned()),
        "(null|\\{\\}|\\{\"nodeAffinity\":(null|\\{\\}|\\{\"requiredDuringSchedulingIgnoredDuringExecution\":(null|\\{\\}|\\{\"nodeSelectorTerms\":(null|\\[\\]|\\[\\{\\}\\]|\\[\\{\"matchFields\":\\[\\]\\}\\])\\})\\})\\})"
            .prop_map(|affinity| format!(r#""affinity":{affinity}"#)),
        Just(r#""volumes":[{"name":"v","ephemeral":{"volumeClaimTemplate":{"spec":{}}}}]"#.to_owned()),
        Just(r#""volumes":[{"name":"v","ephemeral":{"volumeClaimTemplate":{"metadata":null,"spec":{}}}},null]"#.to_owned()),
    ]
}
