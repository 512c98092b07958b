//! Pages show what the program really prints: each `console` block is run from the root of the project. Links lead somewhere,
//! and the chart's page lists its values.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

mod chart;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a shell prints for a command, both streams as they come.
fn printed(command: &str) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_latebind"));
    let path = std::env::join_paths(
        std::iter::once(binary.parent().unwrap().to_path_buf())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )
    .unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1; {command}")]).env("PATH", path).env("NO_COLOR", "1").env("COLUMNS", "100");
    let output = shell.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The page with the output of every command as it is now.
fn renewed(page: &str) -> String {
    let mut lines = page.lines();
    let mut renewed = Vec::new();
    while let Some(line) = lines.next() {
        renewed.push(line.to_owned());
        if line != "```console" {
            continue;
        }
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        for command in block.iter().filter_map(|line| line.strip_prefix("$ ")) {
            renewed.push(format!("$ {command}"));
            renewed.extend(printed(command).trim_end().lines().map(|line| line.trim_end().to_owned()));
        }
        renewed.push("```".to_owned());
    }
    renewed.join("\n") + "\n"
}

/// README, and the pages for users.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    pages.extend(
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "webhook-manifests/chart/README.md"].map(|it| root.join(it)),
    );
    pages
}

#[test]
fn pages_show_what_the_program_prints() {
    let mut commands = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        if !page.contains("\n```console\n$ latebind ") {
            continue;
        }
        let now = renewed(&page);
        commands += now.matches("\n$ latebind ").count();
        if std::env::var_os("LATEBIND_UPDATE").is_some() {
            fs::write(&path, &now).unwrap();
            continue;
        }
        assert_eq!(page, now, "{}: LATEBIND_UPDATE=1 cargo test --test readme writes it anew", path.display());
    }
    assert!(commands >= 4, "the pages run fewer commands than they used to");
}

#[test]
fn readme_is_short_and_begins_with_the_stuck_pod() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(page.lines().count() <= 120, "{} lines", page.lines().count());
    let first = page.find("\n```sh\n").unwrap();
    let commands: Vec<&str> = page[first..].lines().skip(2).take_while(|line| *line != "```").collect();
    let begins = ["latebind diagnose pod/web ", "latebind fix pod/web ", "latebind install | kubectl apply -f - "];
    assert!(
        commands.len() == begins.len() && commands.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)),
        "the first commands are for the stuck Pod: {commands:?}"
    );
    assert!(page[..first].lines().count() < 15, "it stands on the first screen");
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|it| it.is_alphanumeric() || "-_ ".contains(*it))
        .map(|it| if it == ' ' { '-' } else { it })
        .collect()
}

#[test]
fn every_local_link_leads_somewhere() {
    let mut links = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !part.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let is_there = headings.any(|line| anchor(line.trim_start_matches('#')) == part)
                    || text.contains(&format!("name=\"{part}\""))
                    || text.contains(&format!("id=\"{part}\""));
                assert!(is_there, "{}: {link} names no heading", path.display());
            }
        }
    }
    assert!(links > 40, "{links}");
}

#[test]
fn the_index_names_every_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let index = fs::read_to_string(root.join("README.md")).unwrap();
    for entry in fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "docs/README.md does not name {name}");
    }
}

/// Every function in the sources beneath a folder.
fn functions(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// The rows of every table of a page whose last column has this title.
fn rows<'a>(page: &'a str, title: &str) -> Vec<&'a str> {
    let mut rows = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('|') && line.trim_end_matches(" |").ends_with(title) {
            rows.extend(lines.by_ref().skip(1).take_while(|line| line.starts_with('|')));
        }
    }
    rows
}

#[test]
fn each_threat_is_held_by_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    functions(&root.join("tests"), &mut sources);
    functions(&root.join("src"), &mut sources);
    for (page, least) in [("SECURITY.md", 16), ("docs/results/attacks.md", 22)] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let rows = rows(&text, "| tests");
        assert!(rows.len() >= least, "{page}: {} rows", rows.len());
        for row in rows {
            let tests: Vec<&str> =
                row.trim_end_matches('|').rsplit('|').next().unwrap().split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty(), "{page}: no test holds: {row}");
            for test in tests {
                assert!(sources.contains(&format!("fn {test}(")), "{page}: there is no test {test}: {row}");
            }
        }
    }
}
