//! JUnit XML: a suite a file, a test case an object and check.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use super::{Object, Report, Reported, State};
use crate::binding::{Code, Severity};
use crate::report::style::clean;

/// Writes it. A case fails when its findings make the run fail; milder ones are told in its output.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut by_object: BTreeMap<*const Object, BTreeMap<Code, Vec<&Reported>>> = BTreeMap::new();
    for finding in &report.findings {
        by_object.entry(Arc::as_ptr(&finding.object)).or_default().entry(finding.code).or_default().push(finding);
    }
    let mut suites: Vec<(&str, Suite)> = Vec::new();
    for object in &report.objects {
        if suites.last().is_none_or(|(file, _)| *file != object.file) {
            suites.push((&object.file, Suite::default()));
        }
        let Some((_, suite)) = suites.last_mut() else { continue };
        match by_object.get(&Arc::as_ptr(object)) {
            None => suite.pass(object, "no findings", &[]),
            Some(checks) => checks.iter().for_each(|(code, findings)| suite.check(report, object, *code, findings)),
        }
    }
    for unread in &report.unread {
        suites.push((&unread.file, Suite::of_unread(&unread.message)));
    }
    let all = suites.iter().fold((0, 0, 0, 0), |sum, (_, suite)| {
        (sum.0 + suite.tests, sum.1 + suite.failures, sum.2 + suite.errors, sum.3 + suite.skipped)
    });
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    let (tests, failures, errors, skipped) = all;
    writeln!(
        out,
        r#"<testsuites name="latebind lint" tests="{tests}" failures="{failures}" errors="{errors}" skipped="{skipped}">"#
    )?;
    for (file, suite) in &suites {
        writeln!(
            out,
            r#"  <testsuite name="{}" tests="{}" failures="{}" errors="{}" skipped="{}">"#,
            xml(file),
            suite.tests,
            suite.failures,
            suite.errors,
            suite.skipped
        )?;
        out.write_all(suite.cases.as_bytes())?;
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

#[derive(Default)]
struct Suite {
    cases: String,
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl Suite {
    fn of_unread(message: &str) -> Self {
        let message = xml(message);
        let cases = format!(
            "    <testcase classname=\"input\" name=\"can be read\">\n      <error message=\"{message}\"/>\n    </testcase>\n"
        );
        Self { cases, tests: 1, errors: 1, ..Self::default() }
    }

    fn open(&mut self, object: &Object, name: &str) {
        self.tests += 1;
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            self.cases,
            r#"    <testcase classname="{}" name="{}" file="{}" line="{}">"#,
            xml(&object.reference()),
            xml(name),
            xml(&object.file),
            object.line
        );
    }

    fn close(&mut self) {
        self.cases.push_str("    </testcase>\n");
    }

    fn pass(&mut self, object: &Object, name: &str, findings: &[&Reported]) {
        self.open(object, name);
        if !findings.is_empty() {
            let _infallible = writeln!(self.cases, "      <system-out>{}</system-out>", lines(findings));
        }
        self.close();
    }

    fn check(&mut self, report: &Report, object: &Object, code: Code, findings: &[&Reported]) {
        let name = format!("{code} {}", code.title());
        let fails = |finding: &&&Reported| {
            finding.is_open() && report.fail_on.is_some_and(|threshold| finding.severity >= threshold)
        };
        if let Some(worst) = findings.iter().filter(fails).max_by_key(|finding| finding.severity) {
            self.open(object, &name);
            self.failures += 1;
            let _infallible = writeln!(
                self.cases,
                r#"      <failure type="{}" message="{}">{}</failure>"#,
                word(worst.severity),
                xml(&worst.message),
                lines(findings)
            );
            self.close();
        } else if let Some(reason) =
            findings.iter().find_map(|finding| finding.ignored()).filter(|_| !findings.iter().any(|f| f.is_open()))
        {
            self.open(object, &name);
            self.skipped += 1;
            let _infallible = writeln!(self.cases, r#"      <skipped message="{}"/>"#, xml(reason));
            self.close();
        } else {
            self.pass(object, &name, findings);
        }
    }
}

fn lines(findings: &[&Reported]) -> String {
    let line = |finding: &&Reported| {
        let state = match &finding.state {
            State::Open => String::new(),
            State::Ignored { reason } => format!(" (ignored: {reason})"),
            State::Fixed => " (fixed)".to_owned(),
        };
        let text = format!("{} {} {}{state}", finding.place(), word(finding.severity), finding.told());
        xml(&text)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

const fn word(severity: Severity) -> &'static str {
    severity.as_str()
}

/// Text for an attribute or an element. XML 1.0 cannot hold control characters even when they are escaped.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in clean(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}
