//! Whether the path of another volume leads to the directory that is to be removed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use latebind::agent::{DirectoryError, OtherPaths, Proof, Removal};

use super::mounted::{Mounted, run};
use super::{Ground, order_at, removal};

/// What the removal of `ns/pvc-a` says while another volume names this path.
fn removed(ground: &Ground, other: &str) -> Result<Proof, DirectoryError> {
    let allowed = ground.allowed();
    let paths = [other.to_owned()];
    let others = OtherPaths { paths: &paths, visible: &allowed };
    ground.open().dispose(&order_at("a", "ns/pvc-a"), &Removal { others, ..removal(&allowed) })
}

fn prepared() -> Ground {
    let ground = Ground::new();
    ground.open().make(&order_at("a", "ns/pvc-a"), false).unwrap();
    ground.open().make(&order_at("b", "ns/pvc-b"), false).unwrap();
    fs::create_dir(ground.at("ns/pvc-a/below")).unwrap();
    ground
}

fn is_kept(ground: &Ground, other: &str) {
    let outcome = removed(ground, other);
    assert!(matches!(outcome, Err(DirectoryError::Shared { .. })), "{other}: {outcome:?}");
    assert!(ground.at("ns/pvc-a").is_dir(), "{other}");
}

fn is_undecided(ground: &Ground, other: &str, why: &str) {
    let outcome = removed(ground, other);
    let told = matches!(&outcome, Err(DirectoryError::Undecided { why: told, .. }) if told.contains(why));
    assert!(told, "{other}: {outcome:?}");
    assert!(ground.at("ns/pvc-a").is_dir(), "{other}");
}

#[test]
fn however_its_path_is_written_the_same_directory_is_kept() {
    let ground = prepared();
    let (base, top) = (ground.base.clone(), ground.directory.path());
    symlink("pvc-a", ground.at("ns/relative")).unwrap();
    symlink(ground.at("ns"), top.join("absolute")).unwrap();
    symlink("../../../../../../../../../..", top.join("far")).unwrap();
    symlink(top.join("absolute/pvc-a"), ground.at("ns/twice")).unwrap();
    for other in [
        format!("{base}/ns/pvc-a"),
        format!("{base}//ns///pvc-a/"),
        format!("{base}/./ns/./pvc-a/."),
        format!("{base}/ns/pvc-b/../pvc-a"),
        format!("{base}/ns/relative"),
        format!("{base}/ns/twice"),
        format!("{}/absolute/pvc-a", top.display()),
        format!("{}/absolute/pvc-b/../relative", top.display()),
        // Below, and above.
        format!("{base}/ns/pvc-a/below"),
        format!("{}/absolute/pvc-a/below", top.display()),
        format!("{base}/ns"),
        format!("{base}/"),
        top.display().to_string(),
        "/".to_owned(),
        "//".to_owned(),
    ] {
        is_kept(&ground, &other);
    }
}

#[test]
fn what_cannot_be_told_is_kept() {
    let ground = prepared();
    let top = ground.directory.path();
    symlink("/somewhere/else", top.join("outside")).unwrap();
    symlink("../../elsewhere", top.join("climbs")).unwrap();
    is_undecided(&ground, "/srv/other", "/srv is not seen");
    is_undecided(&ground, &format!("{}/outside/x", top.display()), "/somewhere is not seen");
    is_undecided(&ground, &format!("{}/climbs", top.display()), "is not seen");
    is_undecided(&ground, "relative/path", "not absolute");
    is_undecided(&ground, "", "not absolute");
}

#[test]
fn another_directory_or_none_is_no_hindrance() {
    let ground = prepared();
    let top = ground.directory.path();
    symlink("a-loop", top.join("a-loop")).unwrap();
    fs::write(top.join("file"), "").unwrap();
    let paths: Vec<String> = ["base/ns/pvc-b", "base/none", "base/ns/pvc-abc", "a-loop/x", "file", "file/x"]
        .iter()
        .map(|path| top.join(path).display().to_string())
        .collect();
    let allowed = ground.allowed();
    let others = OtherPaths { paths: &paths, visible: &allowed };
    ground.open().dispose(&order_at("a", "ns/pvc-a"), &Removal { others, ..removal(&allowed) }).unwrap();
    assert!(!ground.at("ns/pvc-a").exists());
}

#[test]
fn a_directory_that_is_only_looked_at_is_seen() {
    let ground = prepared();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(ground.at("ns"), elsewhere.path().join("link")).unwrap();
    let allowed = ground.allowed().looking_at([elsewhere.path().to_str().unwrap()]).unwrap();
    let outcome = |path: &Path| {
        let paths = [path.display().to_string()];
        let others = OtherPaths { paths: &paths, visible: &allowed };
        ground.open().dispose(&order_at("a", "ns/pvc-a"), &Removal { others, ..removal(&allowed) })
    };
    assert!(matches!(outcome(&elsewhere.path().join("link/pvc-a")), Err(DirectoryError::Shared { .. })));
    outcome(&elsewhere.path().join("other")).unwrap();
}

#[test]
fn a_bind_mount_of_it_or_of_a_part_of_it_is_the_same_directory() {
    let ground = prepared();
    let top = ground.directory.path();
    if !Mounted::possible() {
        return;
    }
    for (name, source) in [("whole", "ns/pvc-a"), ("part", "ns/pvc-a/below"), ("above", "ns")] {
        let at = top.join(name);
        fs::create_dir(&at).unwrap();
        run("mount", &["--bind", ground.at(source).to_str().unwrap(), at.to_str().unwrap()]);
        let _bound = Mounted(at.clone());
        is_kept(&ground, at.to_str().unwrap());
        if name == "above" {
            is_kept(&ground, at.join("pvc-a").to_str().unwrap());
        }
    }
}
