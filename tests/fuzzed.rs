//! What the fuzz targets check, with their seeds and with generated input: no fuzzer needed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

#[path = "../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

fn every_seed(name: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut count = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        let bytes = fs::read(&path).unwrap();
        check(&bytes);
        // Damaged by one byte, at every place.
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = b"/.{\"\0"[at % 5];
            check(&damaged);
        }
        count += 1;
    }
    assert!(count > 3, "the seeds are missing");
}

#[test]
fn seeds_of_patterns_hold() {
    every_seed("pattern", properties::pattern);
}

#[test]
fn seeds_of_configurations_hold() {
    every_seed("config", properties::config);
}

#[test]
fn seeds_of_markers_hold() {
    every_seed("marker", properties::marker);
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
    }
}
