//! Runs a case: puts facts and record together, diagnoses and compares.

use latebind::binding::{Kind as FactKind, Rules};
use latebind::diagnosis::{Diagnosis, Kind, Known, Record, Source, Subject, diagnose, survey};
use latebind::facts::{Fact, Facts, Unlisted};
use latebind_test_support::cases::group_and_kind;

use crate::format::{Case, Expect};

const KINDS: [(&str, Kind); 10] = [
    ("pods", Kind::Pods),
    ("claims", Kind::Claims),
    ("events", Kind::Events),
    ("devices", Kind::Devices),
    ("localNodes", Kind::LocalNodes),
    ("localVolumes", Kind::LocalVolumes),
    ("leases", Kind::Leases),
    ("nodes", Kind::Nodes),
    ("volumes", Kind::Volumes),
    ("classes", Kind::Classes),
];

/// Runs a case; the error holds every difference.
pub fn run(case: &Case) -> Result<(), String> {
    let (facts, record) = put_together(case)?;
    let known = Known { view: &facts, rules: &Rules::default(), record: &record };
    let diagnoses = if case.subject == "all" {
        survey(&known, None)
    } else {
        let subject = subject(&case.subject)?;
        vec![diagnose(&subject, &known).map_err(|error| format!("{}: {error:?}", case.subject))?]
    };
    let mut wrong = Vec::new();
    if let Some(rows) = &case.expect.rows {
        let found: Vec<String> =
            diagnoses.iter().map(|it| format!("{} {}", it.subject.reference(), it.cause)).collect();
        if *rows != found {
            wrong.push(format!("rows: expected {rows:#?}, got {found:#?}"));
        }
    }
    match diagnoses.first() {
        Some(first) => compare(first, &case.expect, &mut wrong),
        None => wrong.push("there is no diagnosis".to_owned()),
    }
    for one in &diagnoses {
        sound(one, &mut wrong);
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn subject(text: &str) -> Result<Subject, String> {
    let (kind, name) = text.split_once('/').ok_or_else(|| format!("subject: {text:?}"))?;
    let (kind, namespace) = match kind {
        "pod" => ("Pod", "default"),
        "pvc" => ("PersistentVolumeClaim", "default"),
        "pv" => ("PersistentVolume", ""),
        "node" => ("Node", ""),
        other => return Err(format!("subject: {other:?} is no kind")),
    };
    Ok(Subject::new(kind, namespace, name))
}

fn put_together(case: &Case) -> Result<(Facts, Record), String> {
    let mut facts = Facts::new(Unlisted::Unknown);
    let mut record = Record::new(if case.dump { Source::Dump } else { Source::Cluster });
    for (place, object) in case.objects.iter().enumerate() {
        let (group, kind) = group_and_kind(object);
        if let Some(fact) = Fact::read(group, kind, object) {
            facts.add(fact.map_err(|error| format!("objects[{place}] ({kind}): {error}"))?);
        }
        record.add(group, kind, object).map_err(|error| format!("objects[{place}] ({kind}): {error}"))?;
    }
    if let Some(unknown) = case.unknown.iter().find(|name| !KINDS.iter().any(|(known, _)| known == name)) {
        return Err(format!("unknown: {unknown:?} is not a kind"));
    }
    for (name, kind) in KINDS {
        if !case.unknown.iter().any(|unknown| unknown == name) {
            record.is_whole(kind, None);
        }
    }
    for (kind, of_record) in
        [(FactKind::Nodes, Kind::Nodes), (FactKind::Volumes, Kind::Volumes), (FactKind::Classes, Kind::Classes)]
    {
        if record.knows(of_record, "") {
            facts.complete(kind);
        }
    }
    for kind in [FactKind::Drivers, FactKind::DriverNodes, FactKind::Capacities, FactKind::AntiAffinityPods] {
        facts.complete(kind);
    }
    if let Some(now) = &case.now {
        record.set_time(now.parse().map_err(|error| format!("now: {error}"))?);
    }
    Ok((facts, record))
}

fn compare(found: &Diagnosis, expect: &Expect, wrong: &mut Vec<String>) {
    let mut require = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    require(found.cause.as_str() == expect.cause, format!("cause: expected {}, got {}", expect.cause, found.cause));
    for text in &expect.says {
        require(found.summary.contains(text), format!("says: {text:?} is not in {:?}", found.summary));
    }
    let lines: Vec<String> = found.evidence.iter().map(|line| format!("{}: {}", line.from, line.says)).collect();
    for text in &expect.evidence {
        require(lines.iter().any(|line| line.contains(text)), format!("evidence: {text:?} is not in {lines:#?}"));
    }
    for text in &expect.not_known {
        let is_named = found.not_known.iter().any(|missing| missing.contains(text));
        require(is_named, format!("notKnown: {text:?} is not in {:?}", found.not_known));
    }
    if let Some(next) = &expect.next {
        let first = found.next.first();
        let command = first.map(|step| step.command.as_str()).unwrap_or_default();
        require(command == next, format!("next: expected {next:?}, got {command:?}"));
        let fixes = first.is_some_and(|step| step.fixes);
        require(fixes == expect.fixes, format!("fixes: expected {}, got {fixes}", expect.fixes));
    }
    if let Some(chain) = &expect.chain {
        let objects: Vec<&str> = found.chain.iter().map(|link| link.object.as_str()).collect();
        require(*chain == objects, format!("chain: expected {chain:?}, got {objects:?}"));
    }
}

/// What holds of every diagnosis.
fn sound(found: &Diagnosis, wrong: &mut Vec<String>) {
    let mut require = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{}: {what}: {found:#?}", found.subject.reference()));
        }
    };
    require(!found.summary.is_empty() && found.summary.trim_end() == found.summary, "the text is empty or ragged");
    require(found.summary.ends_with('.') || found.summary.contains("words: "), "the text ends without a full stop");
    require(!found.summary.contains("  "), "the text has two spaces in a row");
    require(found.next.iter().all(|step| !step.why.is_empty() && step.command.starts_with("kubectl ")), "a command");
    require(!found.cause.blocks() || !found.next.is_empty(), "blocked, and nothing to type next");
    require(found.cause.as_str() != "NotKnown" || !found.not_known.is_empty(), "not known, and not said what");
}
