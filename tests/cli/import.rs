//! `latebind import sig-local`.

use serde_json::json;

use super::{Run, matches_golden, run, run_with};

const DISKS: &str = "tests/data/import/static-provisioner.yaml";

fn from_text(text: &str) -> Run {
    run_with(&["import", "sig-local", "-f", "-"], text.as_bytes(), &[])
}

#[test]
fn manifests_are_written_below_the_values_that_they_need() {
    let lossy = run(&["import", "sig-local", "-f", DISKS]);
    assert_eq!(lossy.code, 1, "an owner reference is lost: {}", lossy.stderr);
    matches_golden("import-sig-local.yaml", &lossy.stdout);
    matches_golden("import-sig-local.txt", &lossy.stderr);
    let accepted = run(&["import", "sig-local", "-f", DISKS, "--accept-lost", "entries"]);
    assert_eq!((accepted.code, accepted.stdout), (0, lossy.stdout));
}

#[test]
fn a_check_writes_lines_alone() {
    let check = run(&["import", "sig-local", "--check", "-f", DISKS]);
    assert_eq!((check.code, check.stderr.as_str()), (1, ""));
    matches_golden("import-sig-local-check.txt", &check.stdout);
}

#[test]
fn what_is_written_is_read_by_kubectl_and_by_us() {
    let written = run(&["import", "sig-local", "-f", DISKS]).stdout;
    let lint = run_with(&["lint", "-f", "-"], written.as_bytes(), &[]);
    assert_eq!(lint.code, 0, "{}{}", lint.stdout, lint.stderr);
}

#[test]
fn wrong_input_is_exit_2_and_every_problem_is_a_line() {
    let map = |classes: &str| json!({ "kind": "ConfigMap", "metadata": { "name": "c" }, "data": { "storageClassMap": classes } });
    let wrong =
        from_text(&map("a: {hostDir: /a, mountDir: /a, accessMode: Often}\nb: {hostDir: b, mountDir: /b}").to_string());
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""), "{}", wrong.stderr);
    let lines: Vec<&str> = wrong.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("error: ConfigMap c: storageClassMap: a: accessMode is `Often`"), "{lines:?}");
    let overlap = from_text(&map("a: {hostDir: /mnt, mountDir: /a}\nb: {hostDir: /mnt/b, mountDir: /b}").to_string());
    assert!(
        overlap.code == 2 && overlap.stderr.contains("hostDir /mnt and ") && overlap.stderr.contains("/mnt/b overlap")
    );
    for flag in [
        &["--adopt", "rancher.io/local-path"][..],
        &["--shared-by", "n"],
        &["--assume-cluster", "k3s"],
        &["--config", "x"],
    ] {
        let refused = run(&[&["import", "sig-local", "-f", DISKS][..], flag].concat());
        assert!(refused.code == 2 && refused.stderr.contains(flag[0]), "{}", refused.stderr);
    }
    let nothing = from_text("kind: ConfigMap\nmetadata: {name: c}\n");
    assert!(nothing.code == 1 && nothing.stderr.contains("nothing to import"), "{}", nothing.stderr);
}
