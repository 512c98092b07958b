//! The scripts and the helper Pod of a configuration: the stock ones, or somebody's own.
//!
//! latebind runs no scripts. What the stock ones do the agent does itself; what others did has to be said before a volume is
//! made or removed without it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::Config;

/// A script, command or template that is not the stock one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnScript {
    /// The key: `setup`, `teardown`, `helperPod.yaml`, `setupCommand`, `teardownCommand`.
    pub key: String,
    /// What it does that the stock one does not, and what to use instead.
    pub note: String,
}

/// Lines of the stock scripts, in the form of [`commands`]: rancher's, and k3s' which closes the base to others.
/// Sources: `deploy/local-path-storage.yaml` of rancher/local-path-provisioner, `manifests/local-storage.yaml` of k3s.
const SETUP: [&[&str]; 3] = [
    &["mkdir -m 0777 -p $VOL_DIR"],
    &["mkdir -m 0777 -p $VOL_DIR", "chmod 700 $VOL_DIR/.."],
    &["mkdir -m 0777 -p $VOL_DIR", "chmod 701 $VOL_DIR/.."],
];
const TEARDOWN: [&[&str]; 1] = [&["rm -rf $VOL_DIR"]];

/// How scripts before version 0.0.20 read their arguments, in the form of [`commands`].
const OLD_ARGUMENTS: [&str; 14] = [
    "while getopts \"m:s:p:\" opt",
    "do",
    "case $opt in",
    "p)",
    "VOL_DIR=$OPTARG",
    ";;",
    "s)",
    "sizeInBytes=$OPTARG",
    ";;",
    "m)",
    "volMode=$OPTARG",
    ";;",
    "esac",
    "done",
];

/// Names of images that hold nothing but a shell and its commands, wherever they are mirrored.
const PLAIN_IMAGES: [&str; 4] = ["busybox", "library-busybox", "mirrored-library-busybox", "local-path-helper"];

/// What of a ConfigMap's scripts is not stock. `config` is its `config.json`, where it can be read.
#[must_use]
pub fn own_scripts(texts: &BTreeMap<String, String>, config: Option<&Config>) -> Vec<OwnScript> {
    let mut found = Vec::new();
    for (key, stock) in [("setup", &SETUP[..]), ("teardown", &TEARDOWN[..])] {
        if let Some(text) = texts.get(key)
            && !is_stock(text, stock)
        {
            found.push(OwnScript { key: key.to_owned(), note: advice(key, text) });
        }
    }
    if let Some(text) = texts.get("helperPod.yaml")
        && let Some(note) = own_template(text)
    {
        found.push(OwnScript { key: "helperPod.yaml".to_owned(), note });
    }
    for (key, command) in config.iter().flat_map(|config| &config.commands) {
        let key_of = if key == "teardownCommand" { "teardown" } else { "setup" };
        let note = format!("the agent runs no commands (`{}`): {}", short(command), instead(key_of, command));
        found.push(OwnScript { key: key.clone(), note });
    }
    found
}

fn is_stock(text: &str, stock: &[&[&str]]) -> bool {
    let commands = commands(text);
    stock.iter().any(|stock| commands.iter().map(String::as_str).eq(stock.iter().copied()))
}

/// The lines of a script that do something: without comments, `set` and the loop that reads the arguments, with each variable
/// and space written in one way only.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines = lines.filter(|line| !matches!(*line, "set -e" | "set -u" | "set -eu" | "set -ue" | "set -eux"));
    let mut lines: Vec<String> = lines.map(one_form).collect();
    if lines.len() >= OLD_ARGUMENTS.len() && lines.iter().zip(OLD_ARGUMENTS).all(|(line, stock)| line == stock) {
        lines.drain(..OLD_ARGUMENTS.len());
    }
    lines
}

/// Variables with braces and quotes as without. A directory's name has neither spaces nor wildcards, so quotes do not matter.
fn one_form(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let line = words.join(" ");
    if line.starts_with("while getopts") {
        return line;
    }
    let line = line.replace("${VOL_DIR}", "$VOL_DIR").replace("${absolutePath}", "$VOL_DIR");
    let line = line.replace("$absolutePath", "$VOL_DIR").replace("absolutePath=", "VOL_DIR=");
    let line = line.replace("\"$VOL_DIR\"", "$VOL_DIR").replace("\"$VOL_DIR/..\"", "$VOL_DIR/..");
    line.replace("mkdir -p -m 0777 ", "mkdir -m 0777 -p ")
}

fn advice(key: &str, text: &str) -> String {
    let first = commands(text).into_iter().find(|line| !is_stock_line(line));
    let shown = first.map(|line| format!(" (`{}`)", short(&line))).unwrap_or_default();
    format!("it is not the stock script{shown}, and the agent runs none: {}", instead(key, text))
}

fn is_stock_line(line: &str) -> bool {
    SETUP.into_iter().chain(TEARDOWN).flatten().any(|stock| *stock == line)
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What to use for what a script seems to do. Every kind that is found is named.
fn instead(key: &str, text: &str) -> String {
    /// Words that tell of a purpose, and what serves it.
    const PURPOSES: [(&[&str], &str); 9] = [
        (
            &["quota", "chattr", "setproject", "lfs "],
            "for quotas: a base of that size with `room: Reserve` of its LocalPool, which refuses what does not fit",
        ),
        (&["chown", "chgrp", "VOL_USER", "VOL_GROUP"], "for owners: class parameters `uid` and `gid`"),
        (&["chmod", "mkdir -m", "install -d", "umask", "VOL_PERM"], "for modes: class parameter `mode`"),
        (
            &["setfacl"],
            "for access lists: a default list on the base, which new directories inherit, or `gid` and `mode`",
        ),
        (
            &["zfs ", "btrfs ", "lvcreate", "mkfs", "lvremove"],
            "for file systems of their own: mount them yourself, one LocalPool path each with `requireMount: true`; \
             directories made in them are not datasets or volumes",
        ),
        (&["mount "], "for mounts: mount on the node, and `requireMount: true` of the path in the LocalPool"),
        (
            &["chcon", "restorecon", "semanage"],
            "for SELinux: a file context rule for the base, and chart value `agent.seLinuxOptions`",
        ),
        (&["curl", "wget", "kubectl", "nc "], "for notices: events of claims and volumes, and the agents' metrics"),
        (&["rsync", "restic", "cp -", "tar "], "for copies: back the volume up while its claim exists"),
    ];
    let lines = commands(text);
    let mut advice: Vec<&str> = Vec::new();
    if key == "teardown" {
        let has = |words: &[&str]| lines.iter().any(|line| words.iter().any(|word| line.contains(word)));
        let archives = has(&["mv ", "rename", "tar ", "cp ", "rsync", "archive", "backup"]);
        advice.push(match (archives, has(&["rm ", "find ", "unlink"])) {
            (true, _) => "for data that is to stay: class parameter `onDelete: archive`",
            (false, true) => {
                "for data that is to stay: class parameter `onDelete: archive`, or `reclaimPolicy: Retain`"
            }
            (false, false) => "it removes nothing: `reclaimPolicy: Retain`, or class parameter `onDelete: archive`",
        });
    }
    let own = lines.iter().filter(|line| !is_stock_line(line)).map(|line| line.replace("mkdir -m 0777", "mkdir"));
    let own: Vec<String> = own.collect();
    for (words, use_this) in PURPOSES {
        if own.iter().any(|line| words.iter().any(|word| line.contains(word))) {
            advice.push(use_this);
        }
    }
    if advice.is_empty() {
        advice.push("do it on the node beforehand, or in an init container of the Pod");
    }
    advice.join("; ")
}

/// Why a helper Pod template is not the stock one.
fn own_template(text: &str) -> Option<String> {
    let Ok(template) = serde_saphyr::from_str::<Value>(text) else {
        return Some("it cannot be read; there are no helper Pods any more".to_owned());
    };
    let mut own: Vec<String> = Vec::new();
    let known = |at: &str, value: &Value, keys: &[&str], own: &mut Vec<String>| {
        for (key, value) in value.as_object().into_iter().flatten() {
            let is_empty = value.is_null()
                || value.as_object().is_some_and(serde_json::Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty);
            if !keys.contains(&key.as_str()) && !is_empty {
                own.push(format!("{at}{key}"));
            }
        }
    };
    known("", &template, &["apiVersion", "kind", "metadata", "spec"], &mut own);
    known("metadata.", &template["metadata"], &["name", "namespace", "creationTimestamp"], &mut own);
    // None of these changes what the scripts do to a directory; they say how the Pod comes to run.
    let pod = ["containers", "priorityClassName", "tolerations", "restartPolicy", "imagePullSecrets"];
    known("spec.", &template["spec"], &pod, &mut own);
    let containers = template["spec"]["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if containers.len() > 1 {
        own.push("spec.containers".to_owned());
    }
    for container in containers {
        known("spec.containers.", container, &["name", "image", "imagePullPolicy", "resources"], &mut own);
        let image = container["image"].as_str().unwrap_or_default();
        let path = image.split('@').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default();
        if !PLAIN_IMAGES.contains(&name) {
            own.push(format!("image {}", short(image)));
        }
    }
    (!own.is_empty()).then(|| {
        format!(
            "it is not the stock template ({}), and there are no helper Pods: the agent makes and removes directories itself; for \
             owner and mode use class parameters `uid`, `gid` and `mode`, for SELinux chart value `agent.seLinuxOptions`",
            own.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "#!/bin/sh\nwhile getopts \"m:s:p:\" opt\ndo\n    case $opt in\n        p)\n        absolutePath=$OPTARG\n        ;;\n        s)\n        sizeInBytes=$OPTARG\n        ;;\n        m)\n        volMode=$OPTARG\n        ;;\n    esac\ndone\n";

    fn own(key: &str, text: &str) -> Option<String> {
        own_scripts(&BTreeMap::from([(key.to_owned(), text.to_owned())]), None).pop().map(|it| it.note)
    }

    #[test]
    fn every_stock_script_is_known() {
        for text in [
            "#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"$VOL_DIR\"\n".to_owned(),
            "#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"${VOL_DIR}\"\nchmod 700 \"${VOL_DIR}/..\"".to_owned(),
            format!("{OLD}\nmkdir -m 0777 -p ${{absolutePath}}\n"),
            format!("{OLD}mkdir -m 0777 -p ${{absolutePath}}\nchmod 701 ${{absolutePath}}/.."),
        ] {
            assert_eq!(own("setup", &text), None, "{text}");
        }
        for text in ["#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n".to_owned(), format!("{OLD}rm -rf ${{absolutePath}}")] {
            assert_eq!(own("teardown", &text), None, "{text}");
        }
    }

    #[test]
    fn every_other_script_is_named_with_what_to_use_instead() {
        for (key, text, expected) in [
            ("teardown", "mv \"$VOL_DIR\" \"$VOL_DIR.kept\"", "onDelete: archive"),
            ("teardown", "#!/bin/sh\n# rm -rf \"$VOL_DIR\"\nexit 0", "reclaimPolicy: Retain"),
            ("teardown", "case $VOL_DIR in *keep*) exit 0;; esac\nrm -rf \"$VOL_DIR\"", "onDelete: archive"),
            ("teardown", "rm -rf \"$VOL_DIR\"; curl http://example.com", "events"),
            ("teardown", "rm -rf \"$VOL_DIR\"\nrm -rf \"$VOL_DIR.lock\"", "onDelete"),
            ("teardown", "zfs destroy tank/$VOL_DIR", "requireMount"),
            ("teardown", "", "Retain"),
            ("setup", "mkdir -m 0777 -p \"$VOL_DIR\"\nchown 1000:1000 \"$VOL_DIR\"", "`uid` and `gid`"),
            ("setup", "mkdir -m 0700 -p \"$VOL_DIR\"", "`mode`"),
            ("setup", "mkdir -m 0777 -p \"$VOL_DIR\"\nxfs_quota -x -c 'project -s'", "room: Reserve"),
            ("setup", "zfs create tank/x", "requireMount"),
            ("setup", "mkdir -m 0777 -p \"$VOL_DIR\"\nchcon -t svirt_sandbox_file_t \"$VOL_DIR\"", "SELinux"),
            ("setup", "mkdir -m 0777 -p \"$VOL_DIR\" && echo done", "init container"),
        ] {
            let note = own(key, text).unwrap_or_else(|| panic!("{text} was taken for stock"));
            assert!(note.contains(expected), "{text}: {note}");
        }
        let chown = own("setup", "mkdir -m 0777 -p \"$VOL_DIR\"\nchown 1000:1000 \"$VOL_DIR\"").unwrap_or_default();
        assert!(!chown.contains("`mode`"), "{chown}");
    }

    #[test]
    fn a_helper_pod_is_stock_or_named() {
        let template = |pod: &str, container: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: helper-pod\nspec:\n  priorityClassName: system-node-critical\n  tolerations:\n  - key: node.kubernetes.io/disk-pressure\n    operator: Exists\n    effect: NoSchedule\n{pod}  containers:\n  - name: helper-pod\n    imagePullPolicy: IfNotPresent\n{container}"
            )
        };
        for image in [
            "busybox",
            "rancher/mirrored-library-busybox:1.36.1",
            "docker.io/kindest/local-path-helper:v20241212-8ac705d0",
            "my:5000/busybox@sha256:00",
        ] {
            assert_eq!(own("helperPod.yaml", &template("", &format!("    image: {image}\n"))), None, "{image}");
        }
        for (text, word) in [
            (template("", "    image: my/zfs-tools:1\n"), "my/zfs-tools"),
            (template("", "    image: busybox\n    securityContext: {privileged: true}\n"), "securityContext"),
            (template("  hostNetwork: true\n", "    image: busybox\n"), "hostNetwork"),
            (template("  initContainers: [{name: a}]\n", "    image: busybox\n"), "initContainers"),
            ("{".to_owned(), "cannot be read"),
        ] {
            let note = own("helperPod.yaml", &text).unwrap_or_else(|| panic!("{text} was taken for stock"));
            assert!(note.contains(word), "{text}: {note}");
        }
    }
}
