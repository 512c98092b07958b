//! Input that means harm: nothing crashes, hangs, fills memory, or steers a terminal.

use super::*;

const OUTPUTS: [&str; 5] = ["summary", "patch", "diff", "yaml", "json"];

fn simulate(input: &[u8]) -> Run {
    run_with(&["simulate", "-f", "-"], input, &[])
}

#[test]
fn names_cannot_steer_the_terminal() {
    let evil = "\\e]0;owned\\a\\e[2J\\u009b31m\\u202egnp\\u2066\\r\\nfake: line\\u200b";
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: \"{evil}\", namespace: \"{evil}\"}}\nspec:\n  nodeName: \"{evil}\"\n  \
         containers: [{{name: a, volumeMounts: [{{name: \"{evil}\"}}]}}]\n  volumes: [{{name: \"{evil}\", ephemeral: {{volumeClaimTemplate: \
         {{spec: {{storageClassName: \"{evil}\"}}}}}}}}]\n---\nkind: \"{evil}\"\n---\n\"{evil}\": [\n"
    );
    for output in OUTPUTS {
        let args = ["simulate", "-f", "-", "-o", output, "--assume-binding-mode=delayed"];
        let run = run_with(&args, text.as_bytes(), &[]);
        assert_eq!(run.code, 5, "{}", run.stderr);
        for printed in [&run.stdout, &run.stderr] {
            let harm = printed.chars().find(|c| {
                (c.is_control() && *c != '\n')
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}')
            });
            assert_eq!(harm, None, "{output}: {printed:?}");
            assert!(!printed.lines().any(|line| line.starts_with("fake:")), "{output}: {printed}");
        }
    }
    let named = run_with(&["simulate", "-f", "\u{1b}[31m.yaml"], b"", &[]);
    assert!(named.stderr.contains("\\u{1b}[31m.yaml") && !named.stderr.contains('\u{1b}'), "{:?}", named.stderr);
}

#[test]
fn colours_are_ours_alone_and_only_where_wanted() {
    let path = "examples/deadlock/1-dynamic-class.yaml";
    assert!(!printed(&["simulate", "-f", path]).contains('\u{1b}'));
    assert!(!printed(&["simulate", "-f", path, "--color=never"]).contains('\u{1b}'));
    let always = printed(&["simulate", "-f", path, "--color=always"]);
    assert!(always.contains("\u{1b}[1m\u{1b}[31merror LB001\u{1b}[0m"), "{always:?}");
    let by_env = run_with(&["simulate", "-f", path], b"", &[("LATEBIND_COLOR", "always"), ("NO_COLOR", "1")]);
    assert!(by_env.stdout.contains('\u{1b}'));
    let forced_off = run_with(&["simulate", "-f", path], b"", &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]);
    assert!(!forced_off.stdout.contains('\u{1b}'));
}

#[test]
fn bombs_do_not_go_off() {
    let laughs = (1..60).fold("a0: &a0 [lol, lol]\n".to_owned(), |text, level| {
        let below = level - 1;
        text + &format!("a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}]\n")
    });
    let long_lived = (0..2_000)
        .map(|_| "---\na: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: [*c, *c, *c, *c]\n")
        .collect::<String>();
    let cases: [(Vec<u8>, i32, &str); 8] = [
        (laughs.into_bytes(), 2, "make the document too large"),
        (long_lived.into_bytes(), 2, "not a Kubernetes object"),
        (format!("a: {}", "[".repeat(10_000)).into_bytes(), 2, "nested deeper"),
        ((0..10_000).map(|_| "- ").collect::<String>().into_bytes(), 2, "nested deeper"),
        (format!("{}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000)).into_bytes(), 2, ""),
        (
            b"apiVersion: v1\nkind: Pod\nmetadata: {name: \xc3\x28}\n".to_vec(),
            2,
            "<stdin>:3:18: byte 42 is not valid UTF-8",
        ),
        (vec![0; 1 << 20], 2, ""),
        (format!("apiVersion: v1\nkind: ConfigMap\ndata:\n  a: |\n{}", "    x\n".repeat(2 << 20)).into_bytes(), 0, ""),
    ];
    for (place, (input, code, expected)) in cases.into_iter().enumerate() {
        let run = simulate(&input);
        assert_eq!(run.code, code, "case {place}: {}", &run.stderr[..run.stderr.len().min(400)]);
        assert!(run.stderr.contains(expected), "case {place}: {}", &run.stderr[..run.stderr.len().min(400)]);
        assert!(!run.stderr.contains("panicked"), "case {place}");
    }
}

#[test]
fn odd_objects_are_refused_by_name_or_left_out() {
    let cases = [
        ("apiVersion: v1\nkind: Pod\n", 2, "missing field `metadata`"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {nodeName: [x]}\n",
            2,
            "pod/(no name): spec.nodeName: invalid type: sequence",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: null\n", 2, "pod/(no name)"),
        ("apiVersion: v1\nkind: List\nitems: null\n", 0, ""),
        ("apiVersion: v1\nkind: List\nitems: [null, 1, {}]\n", 2, "<stdin>:3:15: not a Kubernetes object"),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n", 0, ""),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {template: null}\n", 0, ""),
        ("apiVersion: example.com/v1\nkind: Pod\nmetadata: {name: not-that-pod}\nspec: {nodeName: n}\n", 0, ""),
        ("apiVersion: 7\nkind: Pod\n", 2, "apiVersion is missing"),
    ];
    for (input, code, expected) in cases {
        let run = simulate(input.as_bytes());
        assert_eq!(run.code, code, "{input}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{input}: {}", run.stderr);
    }
}
