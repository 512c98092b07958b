//! Where results go.

use super::{FACTS, directory, lint_in, stuck_pod};

#[test]
fn several_results_in_one_run() {
    let text = format!("{FACTS}---\n{}", stuck_pod("{name: a}"));
    let directory = directory(&[("all.yaml", &text)]);
    let args = ["-f", "all.yaml", "-o", "table", "-o", "sarif=findings.sarif", "-o", "junit=findings.xml"];
    let run = lint_in(directory.path(), &args, "");
    assert_eq!(run.code, 1);
    assert!(run.stdout.starts_with("all.yaml\n"), "{}", run.stdout);
    assert!(!run.stdout.contains('\u{1b}'), "no colours without a terminal");
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert!(read("findings.sarif").contains("\"2.1.0\""));
    assert!(read("findings.xml").contains("<testsuites"));
}

#[test]
fn subdirectories_on_demand() {
    let text = format!("{FACTS}---\n{}", stuck_pod("{name: a}"));
    let directory = directory(&[("a/b/all.yaml", &text), ("a/none.yml", "")]);
    assert_eq!(lint_in(directory.path(), &["-f", "a"], "").code, 0);
    assert_eq!(lint_in(directory.path(), &["-R", "-f", "a"], "").code, 1);
}

#[test]
fn colours_on_demand() {
    let run = super::lint(&["-f", "tests/lint/mixed", "--color", "always"], "");
    assert!(run.stdout.contains("\u{1b}["), "{}", run.stdout);
}
