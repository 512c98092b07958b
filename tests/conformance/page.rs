//! `docs/results/conformance.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};
use latebind_cluster::project_root;
use latebind_test_support::machine::{machine, today};

use super::report::{Outcome, Report};
use super::specs::KNOWN;

/// What a class of local directories is not, by what the suite says when it skips a spec for it. The first that fits counts.
const NOT_APPLICABLE: [(&str, &str); 20] = [
    ("CSIInlineVolume", "there is no CSI driver"),
    ("InlineVolume", "volumes are provisioned; none is written into a Pod"),
    ("PreprovisionedPV", "volumes are provisioned; the suite makes none of another kind beforehand"),
    ("lock", "a volume is a directory"),
    ("ntfs", "a volume is a directory of the file system that the node has"),
    ("xfs", "a volume is a directory of the file system that the node has"),
    ("ext", "a volume is a directory of the file system that the node has"),
    ("xpansion", "a volume has no size of its own to be changed"),
    ("napshot", "a directory has no snapshots"),
    ("clon", "a directory is not cloned"),
    ("RWX", "a directory is on one node"),
    ("limits", "a node takes any number of directories"),
    ("VolumeAttributesClass", "a directory has no attributes that could be changed"),
    ("immediate", "the suite does not try this where the nodes do not share their volumes"),
    ("performance test options", "they measure; `make bench` does so here"),
    ("supported mount option", "a directory is not mounted with options of its own"),
    ("only supports singleNodeVolume", "a directory is on one node"),
    ("ephemeral", "the spec is about volumes of the other kind"),
    ("topologies", "there are two nodes, and so two topologies"),
    ("volume type", "the spec is about another kind of volume"),
];

/// Writes the page.
pub fn write(release: &str, parallel: &Report, serial: &Report) -> Result<()> {
    let path = project_root().join("docs/results/conformance.md");
    let page = render(release, parallel, serial)?;
    fs::write(&path, page).with_context(|| path.display().to_string())
}

fn render(release: &str, parallel: &Report, serial: &Report) -> Result<String> {
    let mut page = String::from("# Kubernetes' own storage suite\n\n");
    write!(page, "{}, {}, Kubernetes {release}. ", today(), machine())?;
    page.push_str(INTRODUCTION);
    page.push_str("| specs | apply | passed | failed |\n| --- | --- | --- | --- |\n");
    for (name, report) in [("eight at a time", parallel), ("`[Serial]`, one at a time", serial)] {
        let (applied, passed, failed) = (report.applied(), report.passed(), report.failed().count());
        writeln!(page, "| {name} | {applied} | {passed} | {failed} |")?;
    }
    failed(&mut page, [parallel, serial])?;
    skipped(&mut page, [parallel, serial])?;
    Ok(page)
}

const INTRODUCTION: &str = "`make conformance` writes this page anew.\n\n\
    The specs are `External Storage` of Kubernetes' end-to-end tests, of the same release as the cluster: two real nodes, latebind \
    installed from `webhook-manifests/provisioner.yaml`, and a class of its own with the default parameters. The driver's definition, in \
    `tests/conformance/specs.rs`, declares what a directory of a node can be expected to do: data that outlives a Pod, programs run from \
    a volume, several Pods and several volumes on a node, `fsGroup`, `ReadWriteOncePod`, `ReadOnlyMany`, topology, and two \
    PersistentVolumes for one directory. Of raw block volumes, file systems by name, and volumes that are written into a Pod or exist \
    beforehand, the suite of this release then defines no specs at all but two.\n\n\
    The images that the specs name are made here: Kubernetes' own agnhost, Debian's busybox, and for `hello-populator` a program of this \
    repository, `tests/cluster/conformance/populator`, in place of that of kubernetes-csi/lib-volume-populator, whose module could not be had. It goes by \
    the same protocol: the volume is made for a claim of the populator's, filled by a Pod, and handed over by its `claimRef`. The \
    validator of data sources, which only writes events, has no image, and its Pod does not start.\n\n";

fn failed(page: &mut String, reports: [&Report; 2]) -> Result<()> {
    page.push_str("\n## What failed\n\n| spec | why |\n| --- | --- |\n");
    for spec in reports.into_iter().flat_map(Report::failed) {
        let Outcome::Failed(said) = &spec.outcome else { continue };
        let known = KNOWN.iter().find(|known| known.spec == spec.text).map(|known| known.why.to_owned());
        let first = || said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().replace('|', r"\|");
        writeln!(page, "| {} {} | {} |", spec.group, spec.text, known.unwrap_or_else(first))?;
    }
    Ok(())
}

/// Each kind of what skipped itself, and what was not asked for.
fn skipped(page: &mut String, reports: [&Report; 2]) -> Result<()> {
    page.push_str("\n## What does not apply\n\n| specs | the suite's words | why |\n| --- | --- | --- |\n");
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, said) in reports.into_iter().flat_map(Report::skipped) {
        *kinds.entry(said).or_default() += 1;
    }
    let mut kinds: Vec<(&str, usize)> = kinds.into_iter().collect();
    kinds.sort_by_key(|(said, count)| (std::cmp::Reverse(*count), *said));
    let mut unexplained = Vec::new();
    for (said, count) in kinds {
        match NOT_APPLICABLE.iter().find(|(part, _)| said.contains(part)) {
            Some((_, why)) => writeln!(page, "| {count} | {said} | {why} |")?,
            None => unexplained.push(said),
        }
    }
    ensure!(unexplained.is_empty(), "the page has no reason for {unexplained:#?}");
    // The parallel run leaves out what the serial one asks for, and both what nobody can run here.
    let disruptive = reports[0].not_selected().filter(|spec| spec.disruptive).count();
    writeln!(
        page,
        "| {disruptive} | `[Disruptive]`, not asked for | they restart a node's kubelet over SSH, which these nodes do not have; \
         `tests/cluster` and `tests/local` kill kubelets and nodes instead |"
    )?;
    Ok(())
}
