//! The truth table, executed: every file of `tests/cases`, but for those of `base`, is one decision with its expected outcome.
//!
//! `LATEBIND_UPDATE=1 cargo test --test cases` writes `docs/decisions.md` anew from the cases.

mod contents;
mod docs;
mod expanded;
mod run;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = match latebind_test_support::cases::read_all(&root.join("tests/cases")) {
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
    trials
        .push(Trial::test("every_case_lies_in_the_folder_of_its_topic", move || Ok(contents::check_folders(&shared)?)));
    trials.push(Trial::test("a_case_changes_what_it_names_of_its_base", || Ok(expanded::changes()?)));
    trials.push(Trial::test("mistakes_about_the_base_are_told", || Ok(expanded::mistakes()?)));
    let shared = Arc::clone(&cases);
    let page = root.join("docs/decisions.md");
    trials.push(Trial::test("docs_decisions_md_is_current", move || Ok(docs::check(&shared, &page)?)));
    libtest_mimic::run(&arguments, trials).exit_code()
}
