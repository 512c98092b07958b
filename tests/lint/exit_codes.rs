//! What the exit code says.

use super::{FACTS, lint, stuck_pod};

fn code(args: &[&str], stdin: &str) -> i32 {
    lint(&[&["-f", "-"], args].concat(), stdin).code
}

#[test]
fn findings_and_the_threshold() {
    let stuck = format!("{FACTS}---\n{}", stuck_pod("{name: a}"));
    let unknown = stuck_pod("{name: a}");
    assert_eq!(code(&[], FACTS), 0);
    assert_eq!(code(&[], &stuck), 1);
    assert_eq!(code(&["--fail-on=never"], &stuck), 0);
    assert_eq!(code(&["--exit-zero"], &stuck), 0);
    assert_eq!(code(&[], &unknown), 0, "a warning");
    assert_eq!(code(&["--fail-on=warning"], &unknown), 1);
    assert_eq!(code(&["--warn-exit-code", "7"], &unknown), 7);
    assert_eq!(code(&["--warn-exit-code", "7"], &stuck), 1);
    assert_eq!(code(&["--warn-exit-code", "7"], FACTS), 0);
    let info = FACTS.replace("WaitForFirstConsumer", "Immediate") + "---\n" + &unknown;
    assert_eq!(code(&["--fail-on=info"], &info), 1);
}

#[test]
fn flags_and_input_that_are_wrong() {
    for args in [
        &["--fail-on=sometimes"][..],
        &["-o", "xml"],
        &["-o", "table", "-o", "json"],
        &["--diff"],
        &["--exit-zero", "--warn-exit-code", "3"],
        &["-f", "/does/not/exist"],
        &["--fix", "-o", "json"],
        &["--fix", "--diff", "-o", "table"],
    ] {
        let run = lint(&[&["-f", "-"], args].concat(), FACTS);
        assert_eq!(run.code, 2, "{args:?}: {}{}", run.stdout, run.stderr);
        assert!(!run.stderr.is_empty() && run.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(code(&[], "a: [b"), 2, "nothing could be read");
    assert_eq!(code(&["--exit-zero"], "a: [b"), 2);
}

#[test]
fn a_part_that_cannot_be_read_does_not_hide_the_rest() {
    let input = format!("{FACTS}---\nkind: Pod\napiVersion: v1\nspec: [\n---\n{}", stuck_pod("{name: a}"));
    let run = lint(&["-f", "-"], &input);
    assert_eq!(run.code, 5);
    assert!(run.stdout.contains("LB001") && run.stdout.contains("1 document could not be read"), "{}", run.stdout);
    assert!(run.stderr.contains("<stdin>:"), "{}", run.stderr);
}
