//! The real binary: every documented command, every exit code, and input that means harm.
//!
//! Long output is compared with the files in `tests/golden`; `LATEBIND_UPDATE=1 cargo test --test cli` writes them anew.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

mod diagnose;
mod hostile;
mod import;
mod install;
mod page;
mod plan;
mod review;
mod server;
mod simulate;

struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs latebind in the repository, with an input and without the caller's settings.
fn run_with(args: &[&str], stdin: &[u8], envs: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LATEBIND_")) {
        command.env_remove(name);
    }
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").envs(envs.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that does not read its input closes it early, and that is no failure.
    let _closed = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(args: &[&str]) -> Run {
    run_with(args, b"", &[])
}

/// What a command prints that goes well and has nothing to complain of.
fn printed(args: &[&str]) -> String {
    let run = run(args);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{args:?}");
    run.stdout
}

fn matches_golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        fs::write(&file, text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; LATEBIND_UPDATE=1 writes it anew", file.display());
}

fn file(directory: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn version_says_which_in_every_format() {
    let number = env!("CARGO_PKG_VERSION");
    assert!(printed(&["version"]).starts_with(&format!("latebind {number} ")));
    assert_eq!(printed(&["--version"]), format!("latebind {number}\n"));
    let version: Value = serde_json::from_str(&printed(&["version", "-o", "json"])).unwrap();
    assert_eq!((&version["kind"], &version["version"]), (&json!("Version"), &json!(number)));
    let yaml = printed(&["version", "-o", "yaml"]);
    assert!(yaml.contains("kind: Version\n") && yaml.contains(&format!("version: \"{number}\"\n")), "{yaml}");
}

#[test]
fn explain_lists_codes_and_explains_each() {
    let list = printed(&["explain"]);
    assert!(list.starts_with("LB001  error    A Pod that names its node waits"), "{list}");
    for line in list.lines() {
        let code = &line[..5];
        let paragraph = printed(&["explain", code]);
        assert!(paragraph.starts_with(code) && paragraph.contains("\nNext:\n  "), "{paragraph}");
        assert!(paragraph.lines().skip(1).all(|line| line.chars().count() <= 82), "{paragraph}");
    }
    matches_golden("explain-LB001.txt", &printed(&["explain", "lb001"]));
    let items: Value = serde_json::from_str(&printed(&["explain", "LB002", "LB003", "-o", "json"])).unwrap();
    assert_eq!(items["items"][1]["code"], "LB003");
    let unknown = run(&["explain", "LB999"]);
    assert_eq!(unknown.code, 2);
    assert!(
        unknown.stderr.contains("\"LB999\" is not a finding code; `latebind explain` lists them"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn completion_is_there_for_every_shell() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = as_plugin(directory.path(), "kubectl-latebind");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = printed(&["completion", shell]);
        assert!(script.contains("latebind") && script.contains("simulate"), "{shell}");
        // Called by kubectl it is the same.
        let output = Command::new(&plugin).args(["completion", shell]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), script, "{}", String::from_utf8_lossy(&output.stderr));
    }
    let check = Command::new("bash").args(["-n", "-c", &printed(&["completion", "bash"])]).status().unwrap();
    assert!(check.success());
    assert_eq!(run(&["completion", "tcsh"]).code, 2);
}

#[test]
fn help_has_examples_and_exit_codes() {
    let help = printed(&["--help"]);
    assert!(help.contains("Exit codes:") && help.contains("simulate"), "{help}");
    for command in ["simulate", "explain", "version", "completion"] {
        let help = printed(&[command, "--help"]);
        assert!(help.contains("Examples:\n") && help.contains("Usage: latebind "), "{command}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command}: {help}");
        assert!(!printed(&[command, "-h"]).is_empty());
    }
    for flag in [
        "--filename",
        "--recursive",
        "--objects",
        "--namespace",
        "--assume-binding-mode",
        "--assume-node",
        "--pin",
        "--scheduler",
        "--review",
        "--output",
        "--mode",
    ] {
        assert!(printed(&["simulate", "--help"]).contains(flag), "{flag}");
    }
}

/// The binary under another name, as a plugin is installed.
fn as_plugin(directory: &Path, name: &str) -> PathBuf {
    let plugin = directory.join(name);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_latebind"), &plugin).unwrap();
    plugin
}

#[test]
fn kubectl_is_told_what_can_come_next() {
    let directory = tempfile::tempdir().unwrap();
    let link = as_plugin(directory.path(), "kubectl_complete-latebind");
    let output = Command::new(&link).args(["lint", "--fail-on", ""]).output().unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.starts_with("error") && answer.ends_with("\n:4\n"), "{answer}");

    // The file that `completion kubectl` writes finds the plugin in PATH.
    as_plugin(directory.path(), "kubectl-latebind");
    let script = file(directory.path(), "script", printed(&["completion", "kubectl"]));
    let output =
        Command::new("/bin/sh").arg(&script).args(["simulate", "--rec"]).env("PATH", directory.path()).output();
    let output = output.unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.starts_with("--recursive\t"), "{answer}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("man1");
    printed(&["man", "--out", out.to_str().unwrap()]);
    for name in ["latebind", "latebind-lint", "latebind-simulate", "latebind-import"] {
        let page = fs::read_to_string(out.join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".TH ") && page.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(printed(&["man"]).contains(".TH latebind 1"));
}

#[test]
fn as_a_plugin_of_kubectl_it_says_what_to_type() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = as_plugin(directory.path(), "kubectl-latebind");
    let output = Command::new(&plugin).args(["simulate", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("Usage: kubectl latebind simulate"), "{help}");
}

#[test]
fn wrong_usage_is_exit_2_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 10] = [
        (&[], "Usage: latebind"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["simulate"], "--filename"),
        (&["simulate", "-f", "x.yaml", "-o", "xml"], "\"xml\" is not one of summary, patch, diff, yaml, json"),
        (&["simulate", "-f", "examples/mixed", "-o", "yaml", "-o", "diff"], "only one -o can go to standard output"),
        (&["simulate", "-f", "examples/mixed", "--pin", "tape"], "\"tape\" is not one of auto, hostname, name"),
        (&["simulate", "-f", "examples/mixed", "--assume-node", "x"], "expected one of schedulable, unknown"),
        (&["simulate", "-f", "no/such.yaml"], "error: no/such.yaml: no such file or directory"),
        (&["simulate", "-f", "https://example.com/x.yaml"], "nothing is fetched from the network"),
        (&["simulate", "-f", "examples/mixed", "-o", "json=/no/such/folder/x"], "/no/such/folder/x"),
    ];
    for (args, expected) in cases {
        let run = run(args);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{args:?}");
        assert!(run.stderr.contains(expected), "{args:?}: {}", run.stderr);
    }
}

/// As other linters are told.
#[test]
fn manifests_are_named_with_f_or_without() {
    let stuck = "examples/deadlock/1-dynamic-class.yaml";
    for command in ["lint", "simulate"] {
        let (named, without) = (run(&[command, "-f", stuck]), run(&[command, stuck]));
        assert_eq!((named.code, &named.stdout), (without.code, &without.stdout), "{command}");
        assert!(without.stdout.contains("LB001"), "{}", without.stdout);
        let both = run(&[command, "-f", stuck, "--", stuck]);
        assert!(both.code == 2 && both.stderr.contains("cannot be used with"), "{}", both.stderr);
        let many = run(&[command, stuck, "examples/deadlock/2-static-disk.yaml"]);
        assert!(many.code != 2, "{}", many.stderr);
    }
    let fixed = run(&["lint", "--fix", "--diff", stuck]);
    assert!(fixed.code != 2, "{}", fixed.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    command.args(["explain", "-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[cfg(unix)]
#[test]
fn the_offline_demo_tells_the_whole_story() {
    let output = Command::new("examples/demo-offline.sh")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("LATEBIND", env!("CARGO_BIN_EXE_latebind"))
        .output()
        .unwrap();
    let story = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "nodeName: k3d-test-server-0",
        "bypasses the scheduler, so claim \"local-path-pvc\"",
        "{\"op\":\"remove\",\"path\":\"/spec/nodeName\"}",
        "Kubernetes calls this by design.",
    ] {
        assert!(story.contains(expected), "{expected:?} not in {story}");
    }
    assert_eq!(story.matches("1 Pod: 1 would wait forever, admission fixes 1").count(), 5, "{story}");
}
