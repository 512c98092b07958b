//! Writes `docs/decisions.md` from the cases.

use std::fmt::Write as _;
use std::path::Path;

use super::contents::{SECTIONS, Section};
use latebind_test_support::cases::{Case, Expect, Word};

const INTRO: &str = "\
<!-- Generated from tests/cases by `LATEBIND_UPDATE=1 cargo test --test cases`. Do not edit. -->
# What latebind decides

A Pod that sets `spec.nodeName` goes straight to the kubelet of that node; the scheduler never sees it. A claim of a
`WaitForFirstConsumer` class is bound only when the scheduler has chosen a node for a Pod that uses it. Together the two
wait for each other forever: the claim stays `Pending`, the Pod stays in `ContainerCreating`.

latebind looks at a Pod, the claims that it uses, their classes and volumes, and the node that it names. It says whether
the Pod is stuck, why, and what fixes it. It never makes a Pod worse off: a Pod that could start as it is is not touched,
and a Pod that the scheduler could refuse to place keeps its node name.

Every line of the tables is a file in [`tests/cases`](../tests/cases), and every file is run by `cargo test`.
A file says from which of [`tests/cases/base`](../tests/cases/base) it starts, and what differs. To add a decision, add a file.

## Remedies

| Remedy | What happens | Who does it |
| --- | --- | --- |
| leave | Nothing: the Pod starts by itself, or nothing safe can be done. The findings say which. | nobody |
| rewrite | `nodeName` is replaced by a pin to the same node, so that the scheduler places the Pod there and binds its claims. | admission, when the Pod is created |
| selectInTemplate | The node is written into the claim template of an ephemeral volume. The Pod keeps `nodeName`. | admission, when the Pod is created |
| rescue | The Pod keeps `nodeName`; its claims are fixed after it was created. | rescue loop |
| hopeless | Nothing that latebind may do helps. The finding says why. | nobody |

For one claim the rescue loop may do this:

| Remedy | What happens |
| --- | --- |
| selectNode | The claim gets the annotation `volume.kubernetes.io/selected-node`, which orders a volume for the node. |
| prebind | An existing volume is reserved for the claim, as the scheduler would do it. |
| unselect | The annotation is removed from a claim whose class has no provisioner. |
| wait | Nothing now; again when a volume, class or Pod changes. |
| leave | Nothing: the claim is bound, on its way, or the scheduler's to decide. |
| hopeless | Nothing that latebind may do helps. |

*Stuck* means that the Pod, left alone, waits forever. `latebind explain CODE` tells about a finding.
";

/// Compares the page with the cases, or writes it when `LATEBIND_UPDATE=1`.
pub fn check(cases: &[(String, Case)], page: &Path) -> Result<(), String> {
    let wanted = write(cases)?;
    if std::env::var("LATEBIND_UPDATE").is_ok_and(|value| value == "1") {
        return std::fs::write(page, wanted).map_err(|error| format!("{}: {error}", page.display()));
    }
    let found = std::fs::read_to_string(page).map_err(|error| format!("{}: {error}", page.display()))?;
    if found == wanted {
        return Ok(());
    }
    let place = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    let line = place.unwrap_or_else(|| found.lines().count().min(wanted.lines().count())) + 1;
    Err(format!("docs/decisions.md differs from the cases at line {line}: LATEBIND_UPDATE=1 cargo test --test cases"))
}

fn write(cases: &[(String, Case)]) -> Result<String, String> {
    let mut page = INTRO.to_owned();
    for section in SECTIONS {
        section_of(section, cases, &mut page).map_err(|error| error.to_string())?;
    }
    Ok(page)
}

fn section_of(section: &Section, cases: &[(String, Case)], page: &mut String) -> std::fmt::Result {
    let claims = section.kind == "claim";
    let unfolded = section.intro.split_whitespace().collect::<Vec<_>>().join(" ");
    writeln!(page, "\n## {}\n\n{unfolded}\n", section.title)?;
    if claims {
        writeln!(page, "| | Decision | Remedy | Findings |\n| --- | --- | --- | --- |")?;
    } else {
        writeln!(
            page,
            "| | Decision | Stuck | Remedy | For its claims | Findings |\n| --- | --- | --- | --- | --- | --- |"
        )?;
    }
    let numbered = section.kind == "row";
    let mut last = "";
    for (slug, title) in section.groups {
        for (file, case) in cases.iter().filter(|(_, case)| case.kind_and_slug() == (section.kind, slug)) {
            let heading = match (*title == last, numbered) {
                (true, _) => String::new(),
                (false, true) => format!("**{slug}** {title}"),
                (false, false) => (*title).to_owned(),
            };
            last = title;
            let why = case.source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default();
            let decision = format!("[{}](../tests/cases/{file}.yaml){why}", case.name);
            let expects = case.expect.pods.as_deref().unwrap_or(std::slice::from_ref(&case.expect));
            let each = |cell: fn(&Expect) -> String| expects.iter().map(cell).collect::<Vec<_>>().join("<br>");
            if claims {
                writeln!(page, "| {heading} | {decision} | {} | {} |", each(remedy), each(findings))?;
            } else {
                let (stuck, claims) = (each(stuck), each(for_claims));
                let (remedy, findings) = (each(remedy), each(findings));
                writeln!(page, "| {heading} | {decision} | {stuck} | {remedy} | {claims} | {findings} |")?;
            }
        }
    }
    Ok(())
}

fn remedy(expect: &Expect) -> String {
    let word = expect.remedy.as_ref().map(spoken).unwrap_or_default();
    let pin = expect.pin.iter().flatten().map(|(by, value)| format!("by {by} `{}`", shortened(value)));
    let volumes = expect.volumes.iter().flatten().map(|volume| format!("`{volume}`"));
    let reason = expect.reason.iter().map(|reason| format!("({reason})"));
    let all: Vec<String> = std::iter::once(word).chain(pin).chain(volumes).chain(reason).collect();
    all.join(" ")
}

fn spoken(word: &Word) -> String {
    match word {
        Word::Alone(word) if word == "nothing" => "nothing is written".to_owned(),
        Word::Alone(word) => word.clone(),
        Word::With(words) => {
            let all: Vec<String> = words.iter().map(|(word, object)| format!("{word} `{object}`")).collect();
            all.join(", ")
        }
    }
}

fn shortened(value: &str) -> String {
    const MOST: usize = 24;
    if value.len() <= MOST { value.to_owned() } else { value.chars().take(MOST).chain(['…']).collect() }
}

fn stuck(expect: &Expect) -> String {
    if expect.stuck { "yes" } else { "no" }.to_owned()
}

fn for_claims(expect: &Expect) -> String {
    let claims = expect.claims.iter().flatten();
    let all: Vec<String> = claims.map(|(volume, word)| format!("{volume}: {}", spoken(word))).collect();
    all.join(", ")
}

fn findings(expect: &Expect) -> String {
    expect.findings.iter().flatten().cloned().collect::<Vec<_>>().join(" ")
}
