//! Writes `docs/provisioning-decisions.md` from the cases.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::format::File;

const INTRO: &str = "\
<!-- Generated from tests/volumes by `LATEBIND_UPDATE=1 cargo test --test volumes`. Do not edit. -->
# What latebind decides about volumes

Absence is not evidence. A volume, a directory or a claim that is not there, not in a cache, not mounted or not answered
permits nothing: what destroys data is permitted by something that is there, and is confirmed at the moment it is done.
[provisioner.md](provisioner.md) says which fact permits which step.

Every line of the tables is a file in [`tests/volumes`](../tests/volumes), and every file is run by `cargo test`. To add a
decision, add a file.
";

/// Topics: folder, title and introduction.
const TOPICS: [(&str, &str, &str); 4] = [
    (
        "claim",
        "A claim without a volume",
        "The node is chosen, the directory is ordered from its agent, and when the agent has made it the volume is made.",
    ),
    (
        "disposal",
        "A directory that may have to go",
        "Decided from what the API server says at that moment. An order is confirmed for each attempt of the agent, and taken back when it does not hold any more.",
    ),
    (
        "volume",
        "A volume and what is recorded of it",
        "Its LocalVolume is made again if it was lost, its policy is recorded, and it goes when its directory is gone.",
    ),
    (
        "orphan",
        "A directory that no LocalVolume names",
        "Only where removal was asked for, after the agent has known it for long enough.",
    ),
];

/// Every step that can come out.
const STEPS: [&str; 26] = [
    "nothing",
    "wait for the caches",
    "wait a moment",
    "wait for the agent",
    "wait",
    "refuse",
    "order a directory",
    "make the volume",
    "give the node back",
    "ask for the node",
    "keep",
    "take the order back",
    "say that it is retained",
    "order Delete",
    "order DeleteIfEmpty",
    "confirm Delete",
    "confirm DeleteIfEmpty",
    "forget",
    "keep the record",
    "make its LocalVolume again",
    "record it at once",
    "record it",
    "set the finalizer",
    "lift the finalizer",
    "let it go",
    "delete the volume",
];

/// Every step is in some case, and no case has another.
pub fn every_outcome(cases: &[File]) -> Result<(), String> {
    let known: BTreeSet<&str> = STEPS.into_iter().collect();
    let found: BTreeSet<&str> = cases.iter().map(|case| case.case.expect.step.as_str()).collect();
    let missing: Vec<_> = known.symmetric_difference(&found).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("steps without a case, or unknown: {missing:?}")) }
}

/// Compares the page with the cases, or writes it when `LATEBIND_UPDATE=1`.
pub fn check(cases: &[File], page: &Path) -> Result<(), String> {
    let wanted = write(cases)?;
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        return std::fs::write(page, wanted).map_err(|error| format!("{}: {error}", page.display()));
    }
    let found = std::fs::read_to_string(page).map_err(|error| format!("{}: {error}", page.display()))?;
    if found == wanted {
        return Ok(());
    }
    Err("docs/provisioning-decisions.md differs from the cases: LATEBIND_UPDATE=1 cargo test --test volumes".to_owned())
}

fn write(cases: &[File]) -> Result<String, String> {
    let mut page = INTRO.to_owned();
    let mut written = 0;
    for (topic, title, intro) in TOPICS {
        let section = || -> Result<(String, usize), std::fmt::Error> {
            let mut text = String::new();
            writeln!(text, "\n## {title}\n\n{intro}\n\n| Decision | Step | Said |\n| --- | --- | --- |")?;
            let here = cases.iter().filter(|case| case.file.starts_with(&format!("{topic}/")));
            let mut count = 0;
            for File { file, case } in here {
                count += 1;
                let why = case.source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default();
                let said = match (&case.expect.why, case.expect.told) {
                    (Some(words), Some(true)) => format!("event: {words}"),
                    (Some(words), _) => words.clone(),
                    (None, _) => String::new(),
                };
                writeln!(
                    text,
                    "| [{}](../tests/volumes/{file}.yaml){why} | {} | {said} |",
                    case.name, case.expect.step
                )?;
            }
            Ok((text, count))
        };
        let (text, count) = section().map_err(|error| error.to_string())?;
        page.push_str(&text);
        written += count;
    }
    if written == cases.len() { Ok(page) } else { Err("a topic has no section".to_owned()) }
}
