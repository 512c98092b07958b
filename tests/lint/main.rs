//! `latebind lint` as it is called: the real binary on real files.
#![allow(clippy::unwrap_used)]

mod anywhere;
mod devices;
mod exit_codes;
mod files;
mod formats;
mod ignored;
mod mixed;
mod not_said;
mod policies;
mod rewriting;
mod storage;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run of the binary gave.
struct Run {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `latebind lint` in a directory.
fn lint_in(directory: &Path, args: &[&str], stdin: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_latebind"))
        .arg("lint")
        .args(args)
        .current_dir(directory)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A run that complains about its flags reads nothing.
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs it in this crate's directory.
fn lint(args: &[&str], stdin: &str) -> Run {
    lint_in(Path::new(env!("CARGO_MANIFEST_DIR")), args, stdin)
}

/// Findings as JSON, whatever the exit code.
fn findings(args: &[&str], stdin: &str) -> Vec<Value> {
    let run = lint(&[args, &["-o", "json"]].concat(), stdin);
    let list: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stderr));
    list["items"].as_array().unwrap().clone()
}

/// `code kind/name` of findings.
fn names(findings: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |found: &Value| {
        format!("{} {}/{}", text(&found["code"]), text(&found["object"]["kind"]), text(&found["object"]["name"]))
    };
    findings.iter().map(name).collect()
}

/// A directory with the given files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path: PathBuf = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

/// A class, a Node and a claim that make a Pod which names the node stuck.
pub const FACTS: &str = "\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local-path}
provisioner: rancher.io/local-path
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: Node
metadata: {name: worker-1, labels: {kubernetes.io/hostname: worker-1}}
status: {conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: scratch}
spec: {accessModes: [ReadWriteOnce], storageClassName: local-path, resources: {requests: {storage: 1Gi}}}
";

/// A Pod that waits forever, with the given metadata.
fn stuck_pod(metadata: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {metadata}\nspec:\n  nodeName: worker-1\n  containers:\n  - name: app\n    volumeMounts: [{{name: data, mountPath: /data}}]\n  volumes:\n  - name: data\n    persistentVolumeClaim: {{claimName: scratch}}\n"
    )
}
