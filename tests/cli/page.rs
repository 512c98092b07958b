//! `docs/cli.md` is what `--help` says, of every subcommand.

use std::fmt::Write as _;
use std::path::Path;

use super::run_with;

const HEAD: &str = "\
# The command line

Generated from `latebind --help`; `make update` writes it anew. As a plugin of kubectl, under the name `kubectl-latebind` in
`PATH`, every command is `kubectl latebind ...`. `latebind completion` makes completion for shells and for kubectl,
`latebind man` manual pages.
";

/// Adds the help of a command and of those beneath it.
fn add(page: &mut String, path: &[&str]) {
    let run = run_with(&[path, &["--help"]].concat(), b"", &[("COLUMNS", "100")]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{path:?}");
    let name = [&["latebind"], path].concat().join(" ");
    let lines: Vec<&str> = run.stdout.lines().map(str::trim_end).collect();
    writeln!(page, "\n## {name}\n\n```text\n{}\n```", lines.join("\n").trim_end()).unwrap();
    let listed = lines.iter().skip_while(|line| **line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A longer description goes on in a line that is indented deeper.
    let named = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for sub in named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        add(page, &[path, &[sub]].concat());
    }
}

#[test]
fn the_page_of_the_command_line_is_current() {
    let mut page = HEAD.to_owned();
    add(&mut page, &[]);
    assert!(page.matches("\n## ").count() > 10, "{page}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
        return;
    }
    let now = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(now, page, "LATEBIND_UPDATE=1 cargo test --test cli page writes it anew");
}
