//! What becomes of claims, volumes and directories, executed: every file of a topic's folder is one decision with its
//! expected outcome, and random histories look for a sequence of events that loses data.
//!
//! `LATEBIND_UPDATE=1 cargo test --test volumes` writes `docs/provisioning-decisions.md` anew from the cases;
//! `LATEBIND_HISTORIES=1000000` sets the number of histories.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

mod agent;
mod checks;
mod controller;
mod docs;
mod format;
mod histories;
mod model;
mod people;
mod run;
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = match format::read_all(&root.join("tests/volumes")) {
        Ok(cases) => Arc::new(cases),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials: Vec<Trial> = (0..cases.len())
        .map(|place| {
            let shared = Arc::clone(&cases);
            Trial::test(cases[place].file.clone(), move || {
                let case = &shared[place];
                run::run(&case.case)
                    .map_err(|why| format!("tests/volumes/{}.yaml: {}\n{why}", case.file, case.case.name).into())
            })
        })
        .collect();
    let shared = Arc::clone(&cases);
    let page = root.join("docs/provisioning-decisions.md");
    trials.push(Trial::test("docs_provisioning_decisions_md_is_current", move || Ok(docs::check(&shared, &page)?)));
    let shared = Arc::clone(&cases);
    trials.push(Trial::test("every_outcome_has_a_case", move || Ok(docs::every_outcome(&shared)?)));
    trials.push(Trial::test("no_history_loses_data", || Ok(histories::none_loses_data()?)));
    libtest_mimic::run(&arguments, trials).exit_code()
}
