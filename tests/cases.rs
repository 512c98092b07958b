//! The truth table, executed: every file of `tests/cases` is one decision with its expected outcome.
//!
//! `LATEBIND_UPDATE=1 cargo test --test cases` writes `docs/decisions.md` anew from the cases.

#[path = "decisions/contents.rs"]
mod contents;
#[path = "decisions/docs.rs"]
mod docs;
#[path = "decisions/format.rs"]
mod format;
#[path = "decisions/run.rs"]
mod run;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = match format::read_all(&root.join("tests/cases")) {
        Ok(cases) => Arc::new(cases),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials: Vec<Trial> = (0..cases.len())
        .map(|place| {
            let shared = Arc::clone(&cases);
            Trial::test(cases[place].0.clone(), move || {
                let (file, case) = &shared[place];
                let told = |differences| format!("tests/cases/{file}.yaml: {}\n{differences}", case.name);
                run::run(case).map_err(|differences| told(differences).into())
            })
        })
        .collect();
    let shared = Arc::clone(&cases);
    trials.push(Trial::test("every_row_and_aspect_is_covered", move || Ok(contents::check(&shared)?)));
    let shared = Arc::clone(&cases);
    let page = root.join("docs/decisions.md");
    trials.push(Trial::test("docs_decisions_md_is_current", move || Ok(docs::check(&shared, &page)?)));
    libtest_mimic::run(&arguments, trials).exit_code()
}
