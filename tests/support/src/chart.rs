//! The chart, rendered by helm.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use latebind_cluster::project_root;

/// Where latebind is installed.
pub const NAMESPACE: &str = "latebind-system";

/// The chart's folder.
pub fn chart() -> PathBuf {
    project_root().join("webhook-manifests/chart")
}

/// The helm that is built beside Kubernetes.
pub fn helm() -> Result<Command> {
    Ok(Command::new(latebind_cluster::helm()?))
}

/// What helm renders; an error holds what it said.
pub fn render(arguments: &[&str]) -> Result<String> {
    let mut command = helm()?;
    command.args(["template", "latebind"]).arg(chart()).args(["--namespace", NAMESPACE, "--kube-version", "1.34.0"]);
    let output = command.args(arguments).output().context("helm")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The install manifest as it must be.
pub fn install() -> Result<String> {
    let text = render(&["--set", "namespace.create=true", "--skip-tests"])?;
    let head = "# Rendered from webhook-manifests/chart by `make update`; change the chart, not this file.\n";
    // helm says which file each object is from; to a reader of one file that is noise.
    let lines = text.lines().filter(|line| !line.starts_with("# Source: "));
    Ok(format!("{head}{}\n", lines.collect::<Vec<_>>().join("\n").replace("managed-by: Helm", "managed-by: latebind")))
}

/// The parts that can be installed without each other.
const PARTS: [&str; 4] = ["webhook", "rescue", "provisioner", POLICY];
/// In place of the webhook, and never without rescue.
const POLICY: &str = "policy";
/// Every set of them, as bits. In this order each set's objects can be put between those of the sets before it.
const SETS: [usize; 9] = [7, 3, 14, 10, 5, 6, 1, 2, 4];

fn parts(set: usize) -> Vec<&'static str> {
    PARTS.into_iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, part)| part).collect()
}

/// The objects of a set of parts as the chart renders them, with more settings.
pub fn objects_of(set: usize, settings: &[&str]) -> Result<Vec<String>> {
    let chosen = parts(set);
    let switch = |part: &&str| format!("--set={part}.enabled={}", chosen.contains(part));
    let mut switches: Vec<String> = PARTS.iter().filter(|part| **part != POLICY).map(switch).collect();
    if chosen.contains(&POLICY) {
        switches.extend(["--set=profile=policy".to_owned(), "--kube-version=1.36.0".to_owned()]);
    }
    let mut arguments = vec!["--set", "namespace.create=true", "--skip-tests"];
    arguments.extend(switches.iter().map(String::as_str));
    arguments.extend(settings);
    let text = render(&arguments)?.replace("managed-by: Helm", "managed-by: latebind");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("# Source: ")).collect();
    let text = format!("\n{}", lines.join("\n"));
    Ok(text.split("\n---\n").skip(1).map(|object| object.trim_matches('\n').to_owned()).collect())
}

/// What `latebind install` takes its objects from: each once, with the sets of parts that it belongs to.
pub fn variants() -> Result<String> {
    let mut merged: Vec<(String, Vec<String>)> = Vec::new();
    for set in SETS {
        let name = parts(set).join("+");
        let mut at = 0;
        for object in objects_of(set, &[])? {
            if let Some(found) = merged.iter().position(|(other, _)| *other == object) {
                ensure!(found >= at, "{name}: helm puts the objects of the sets into other orders; change SETS");
                merged[found].1.push(name.clone());
                at = found + 1;
            } else {
                merged.insert(at, (object, vec![name.clone()]));
                at += 1;
            }
        }
    }
    let head = "# Every object that `latebind install` prints, each with the sets of parts that it belongs to. Rendered from\n\
                # webhook-manifests/chart by `make update`; change the chart, not this file.\n";
    let object = |(text, sets): (String, Vec<String>)| format!("---\n# for: {}\n{text}\n", sets.join(" "));
    Ok(head.to_owned() + &merged.into_iter().map(object).collect::<String>())
}

/// Sets of parts, each with the flags by which `latebind install` prints it.
pub fn sets() -> Vec<(usize, Vec<String>)> {
    let flags = |set: usize| {
        let chosen = parts(set);
        let profile = chosen.contains(&POLICY).then(|| "--profile=policy".to_owned());
        let needed: &[&str] = if profile.is_some() { &[] } else { &["webhook", "rescue"] };
        let without = needed.iter().filter(|part| !chosen.contains(part));
        let without = without.map(|part| format!("--without={part}"));
        profile
            .into_iter()
            .chain(without)
            .chain(chosen.contains(&"provisioner").then(|| "--with=provisioner".to_owned()))
            .collect()
    };
    SETS.into_iter().map(|set| (set, flags(set))).collect()
}
