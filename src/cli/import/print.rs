//! What an import writes, and what it says of it.

use std::collections::BTreeSet;
use std::io::Write;

use serde::Serialize;

use crate::crd::LocalPool;
use crate::rancher::{Account, Loss, Outcome, lost};
use crate::report::style::{Style, clean};

/// Pools and classes, on standard output.
pub(super) fn manifests(pools: &[LocalPool], classes: &[impl Serialize]) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    for pool in pools {
        write!(out, "---\n{}", serde_saphyr::to_string(pool)?)?;
    }
    for class in classes {
        write!(out, "---\n{}", serde_saphyr::to_string(class)?)?;
    }
    Ok(())
}

/// What is to be said of them, on standard error.
pub(super) fn differences(accounts: &[Account], has_nothing: bool) -> anyhow::Result<()> {
    let (style, mut err) = (Style::of_stderr(), anstream::stderr());
    // What is lost stands last, where it is seen.
    let mut differ: Vec<&Account> = accounts.iter().filter(|it| it.outcome != Outcome::Kept).collect();
    differ.sort_by_key(|it| matches!(it.outcome, Outcome::Lost(_)));
    for account in differ {
        let text = clean(&account.to_string()).into_owned();
        match account.outcome {
            Outcome::Lost(loss) => {
                writeln!(err, "{} {text} (--accept-lost {})", style.error("lost:"), loss.word())?;
            }
            _ => writeln!(err, "{} {text}", style.info("note:"))?,
        }
    }
    if has_nothing {
        writeln!(err, "{} there is nothing to import", style.error("error:"))?;
    }
    Ok(())
}

/// A line for each thing, and what the chart has to be told; no values where there is nothing to import.
pub(super) fn check(accounts: &[Account], accepted: &BTreeSet<Loss>, values: Option<&str>) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    let mut sorted: Vec<&Account> = accounts.iter().collect();
    sorted.sort_by_key(|account| account.outcome);
    for account in &sorted {
        let (place, note) = (clean(&account.place), clean(&account.note));
        let colon = if note.is_empty() { "" } else { ": " };
        writeln!(out, "{:<10}  {place}{colon}{note}", account.outcome.word())?;
    }
    let count = |word: &str| accounts.iter().filter(|account| account.outcome.word() == word).count();
    let counts = ["kept", "changed", "not needed", "left alone", "lost"].map(|word| format!("{} {word}", count(word)));
    writeln!(out, "{}", counts.join(", "))?;
    let left = lost(accounts, accepted).count();
    if left < count("lost") {
        writeln!(out, "{} of what is lost is accepted", count("lost") - left)?;
    }
    match values {
        Some(values) => writeln!(out, "chart values: {}", clean(values))?,
        None => writeln!(out, "there is nothing to import")?,
    }
    Ok(())
}

/// A list as a flag of helm.
pub(super) fn list_flag<'a>(value: &str, items: impl Iterator<Item = &'a str>) -> String {
    format!("--set {value}={{{}}}", items.collect::<Vec<_>>().join(","))
}
