//! README shows what the program really prints: each `console` block is run from the root of the project.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

use std::fs;
use std::path::Path;
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

#[test]
fn readme_shows_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let page = fs::read_to_string(&path).unwrap();
    let now = renewed(&page);
    assert!(now.matches("\n$ latebind ").count() >= 4, "README runs fewer commands than it used to");
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        fs::write(&path, &now).unwrap();
        return;
    }
    assert_eq!(page, now, "run `make update`");
}

#[test]
fn every_local_link_of_readme_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("README.md")).unwrap();
    let links: Vec<&str> = page.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() > 5);
    for link in links.iter().filter(|link| !link.starts_with('#') && !link.contains("://")) {
        assert!(root.join(link).exists(), "{link}");
    }
}
