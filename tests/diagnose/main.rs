//! Diagnoses, executed: every file beneath the topics of `tests/diagnose` is a situation with the cause that must be named.
//!
//! `LATEBIND_UPDATE=1 cargo test --test diagnose` writes `docs/diagnose.md` anew from the causes.

mod docs;
mod format;
mod run;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use latebind::diagnosis::Cause;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = match format::read_all(&root.join("tests/diagnose")) {
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
                let told = |differences| format!("tests/diagnose/{file}.yaml: {}\n{differences}", case.name);
                run::run(case).map_err(|differences| told(differences).into())
            })
        })
        .collect();
    let shared = Arc::clone(&cases);
    trials.push(Trial::test("every_cause_has_a_case", move || {
        let has = |cause: &&Cause| !shared.iter().any(|(_, case)| case.expect.cause == cause.as_str());
        let missing: Vec<&str> = Cause::ALL.iter().filter(has).map(|cause| cause.as_str()).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("no case has the cause {}", missing.join(", ")).into()) }
    }));
    let page = root.join("docs/diagnose.md");
    trials.push(Trial::test("docs_diagnose_md_is_current", move || Ok(docs::check(&page)?)));
    libtest_mimic::run(&arguments, trials).exit_code()
}
