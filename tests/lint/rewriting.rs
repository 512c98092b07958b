//! `--fix` on files and streams.

use super::{FACTS, directory, lint, lint_in, stuck_pod};

#[test]
fn standard_input_is_rewritten_to_standard_output() {
    let before = format!("{FACTS}---\n{}", stuck_pod("{name: a}"));
    let run = lint(&["-f", "-", "--fix"], &before);
    let after = before.replace("  nodeName: worker-1\n", "  nodeSelector:\n    kubernetes.io/hostname: worker-1\n");
    assert_eq!((run.code, run.stdout), (0, after));
    assert!(run.stderr.contains("1 fixed"), "{}", run.stderr);
    let clean = lint(&["-f", "-", "--fix"], FACTS);
    assert_eq!((clean.code, clean.stdout.as_str()), (0, FACTS), "a filter passes on what it leaves alone");
}

#[test]
fn the_diff_writes_nothing_and_can_be_applied() {
    let before = format!("{FACTS}---\n{}", stuck_pod("{name: a}"));
    let directory = directory(&[("a.yaml", &before)]);
    let run = lint_in(directory.path(), &["-f", "a.yaml", "--fix", "--diff"], "");
    assert_eq!(run.code, 1, "the finding stands");
    assert!(run.stdout.starts_with("--- a/a.yaml\n+++ b/a.yaml\n@@ "), "{}", run.stdout);
    let coloured = lint_in(directory.path(), &["-f", "a.yaml", "--fix", "--diff", "--color=always"], "");
    assert!(coloured.stdout.contains("\u{1b}[31m-  nodeName: worker-1"), "{}", coloured.stdout);
    assert!(run.stdout.contains("-  nodeName: worker-1\n+  nodeSelector:\n+    kubernetes.io/hostname: worker-1\n"));
    assert_eq!(std::fs::read_to_string(directory.path().join("a.yaml")).unwrap(), before);
}

#[test]
fn what_must_not_be_rewritten_is_refused_with_the_reason() {
    let cordoned = FACTS.replace("status: {conditions", "spec: {unschedulable: true}\nstatus: {conditions");
    let before = format!("{cordoned}---\n{}", stuck_pod("{name: a}"));
    let directory = directory(&[("a.yaml", &before)]);
    let run = lint_in(directory.path(), &["-f", "a.yaml", "--fix"], "");
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("LB101") && run.stdout.contains("not rewritten: "), "{}", run.stdout);
    assert_eq!(std::fs::read_to_string(directory.path().join("a.yaml")).unwrap(), before);
    // What is not known well enough is refused too, though the finding is a warning.
    let run = lint(&["-f", "-", "--fix"], &stuck_pod("{name: a}"));
    assert_eq!((run.code, run.stdout), (1, stuck_pod("{name: a}")));
    assert!(run.stderr.contains("LB002") && run.stderr.contains("not rewritten: "), "{}", run.stderr);
}

#[test]
fn a_layout_that_cannot_be_edited_is_refused() {
    let pod = stuck_pod("{name: a}").replace("nodeName: worker-1", "nodeName: >-\n    worker-1");
    let run = lint(&["-f", "-", "--fix"], &format!("{FACTS}---\n{pod}"));
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("edit it by hand"), "{}", run.stderr);
}

#[test]
fn one_file_named_twice_is_rewritten_once() {
    let before = format!("{FACTS}---\n{}", stuck_pod("{name: a}"));
    let directory = directory(&[("a.yaml", &before)]);
    let run = lint_in(directory.path(), &["-f", "a.yaml", "-f", "./a.yaml", "--fix"], "");
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let after = std::fs::read_to_string(directory.path().join("a.yaml")).unwrap();
    assert_eq!(after.matches("kubernetes.io/hostname: worker-1\n").count(), 1);
}

#[cfg(unix)]
#[test]
fn links_stay_links_and_permissions_stay() {
    use std::os::unix::fs::PermissionsExt;
    let before = format!("{FACTS}---\n{}", stuck_pod("{name: a}"));
    let directory = directory(&[("real/a.yaml", &before)]);
    let real = directory.path().join("real/a.yaml");
    let link = directory.path().join("link.yaml");
    std::os::unix::fs::symlink("real/a.yaml", &link).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    let run = lint_in(directory.path(), &["-f", "link.yaml", "--fix"], "");
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(std::fs::read_to_string(&real).unwrap().contains("nodeSelector"));
    assert_eq!(std::fs::read_dir(directory.path().join("real")).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_file_that_others_changed_meanwhile_is_left_alone() {
    let directory = directory(&[("a.yaml", "theirs")]);
    let file = directory.path().join("a.yaml");
    let error = latebind::cli::replace::replace_file(&file, "ours", "new").unwrap_err();
    assert!(error.to_string().contains("changed by somebody else"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "theirs");
    let error = latebind::cli::replace::replace_file(directory.path(), "", "new").unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}
