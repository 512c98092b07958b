//! Cases for people: the summary, patches, diffs and objects.

use serde_json::Value;
use similar::TextDiff;

use super::case::{Case, PodCase};
use crate::admission::review::Decision;
use crate::binding::{ClaimRemedy, Code, Pin, Remedy, Row};
use crate::report::style::{Style, clean, clean_json, clean_lines, columns, is_clean, wrap};

/// Width of sentences beneath a headline.
const WIDTH: usize = 96;

/// Everything that a person wants to know about each object, and one line about all of them.
pub(super) fn summary(cases: &[Case], style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    for case in cases {
        page.case(case);
    }
    page.tally(cases);
    page.text
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn line(&mut self, indent: usize, line: &str) {
        if !line.is_empty() {
            self.text.extend(std::iter::repeat_n(' ', indent));
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    /// A label and a sentence that may take several lines, each of which lines up with the first.
    fn labelled(&mut self, label: &str, painted: &str, sentence: &str) {
        let indent = 2 + label.chars().count() + 1;
        for (place, line) in wrap(&clean(sentence), WIDTH.saturating_sub(indent)).iter().enumerate() {
            if place == 0 {
                self.line(2, &format!("{painted} {line}"));
            } else {
                self.line(indent, line);
            }
        }
    }

    fn case(&mut self, case: &Case) {
        let title = self.style.strong(&clean(&case.title));
        let place = self.style.faint(&clean(&case.place));
        self.line(0, &format!("{title}  {place}"));
        let is_pod = matches!(case.pods.as_slice(), [pod] if pod.title == case.title);
        for pod in &case.pods {
            if !is_pod {
                let title = format!("makes {}", clean(&pod.title));
                self.line(2, &title);
            }
            self.pod(pod);
            // What a controller creates gives its warnings to the controller.
            if is_pod {
                self.warnings(&pod.warnings());
            }
            if let Some(denial) = pod.denial() {
                self.labelled("refused:", &self.style.error("refused:"), denial);
            }
        }
        if let Some(answer) = &case.itself {
            if case.pods.is_empty() {
                let says = match answer.decision {
                    Decision::Ignored => "this webhook does not look at such requests",
                    Decision::Exempt => "left alone: exempt",
                    _ if answer.warnings.is_empty() => "nothing to say",
                    _ => "not changed",
                };
                self.line(2, says);
            }
            self.warnings(&answer.warnings);
            if let Some(denial) = &answer.denial {
                self.labelled("refused:", &self.style.error("refused:"), &denial.message);
            }
        }
        for assumption in &case.assumptions {
            self.labelled("assumed:", &self.style.info("assumed:"), &assumption.to_string());
        }
        self.line(0, "");
    }

    fn pod(&mut self, pod: &PodCase) {
        let Some(node) = &pod.verdict.node else {
            return self.line(2, "names no node: the scheduler places it, and binds its claims");
        };
        self.line(2, &format!("names node {}", clean(node)));
        self.volumes(pod);
        if pod.exempt.is_none() && pod.policies.is_of_policies() {
            for line in pod.policies.lines() {
                self.labelled("policy:", &self.style.info("policy:"), &line);
            }
        }
        for finding in &pod.verdict.findings {
            let label = format!("{} {}", finding.severity.as_str(), finding.code);
            let painted = self.style.severity(finding.severity, &label);
            self.labelled(&label, &painted, &finding.message);
        }
        for refused in &pod.refused {
            let why =
                format!("the volume of `{}` will be refused whatever admission does: {}", refused.volume, refused.why);
            self.labelled("provisioner:", &self.style.error("provisioner:"), &why);
        }
        if let Some(stored) = &pod.stored {
            let label = if pod.verdict.is_stuck() { self.style.warning("exists:") } else { self.style.good("exists:") };
            return self.labelled("exists:", &label, stored);
        }
        let (good, outcome) = outcome(pod);
        let painted = if good { self.style.good("admission:") } else { self.style.warning("admission:") };
        self.labelled("admission:", &painted, &outcome);
        if pod.before != pod.after {
            self.change(pod);
        }
        for (volume, remedy) in pod.verdict.rescue() {
            if matches!(pod.verdict.remedy, Remedy::Rescue) {
                let claim = volume.claim.as_deref().unwrap_or(&volume.volume);
                self.labelled("rescue:", &self.style.info("rescue:"), &format!("claim {claim}: {}", rescue(remedy)));
            }
        }
    }

    fn volumes(&mut self, pod: &PodCase) {
        let row = |stuck: bool, what: &str, name: Option<&str>, row: Row, says: &str| {
            let name = name.map_or_else(|| "(made with the Pod)".into(), clean);
            let cells = vec![
                if stuck { "stuck" } else { "ok" }.to_owned(),
                format!("{what} {name}"),
                format!("row {}", row.number()),
                clean(says).into_owned(),
            ];
            (stuck, cells)
        };
        let volumes = pod.verdict.volumes.iter();
        let volumes = volumes.map(|it| row(it.stuck, "claim", it.claim.as_deref(), it.row, &it.says));
        let devices = pod.verdict.devices.iter();
        let devices = devices.map(|it| row(it.stuck, "ResourceClaim", it.claim.as_deref(), Row::Device, &it.says));
        let (stuck, rows): (Vec<bool>, Vec<Vec<String>>) = volumes.chain(devices).unzip();
        let style = self.style;
        let paint = |row: usize, column: usize, cell: &str| match column {
            0 if stuck[row] => style.error(cell),
            0 => style.good(cell),
            2 => style.faint(cell),
            _ => cell.to_owned(),
        };
        for line in columns(&rows, paint) {
            self.line(2, &line);
        }
    }

    /// The lines that change, without those around them.
    fn change(&mut self, pod: &PodCase) {
        let (Ok(before), Ok(after)) = (yaml(&pod.before), yaml(&pod.after)) else { return };
        let diff = TextDiff::from_lines(&before, &after);
        for change in diff.iter_all_changes() {
            let sign = match change.tag() {
                similar::ChangeTag::Delete => '-',
                similar::ChangeTag::Insert => '+',
                similar::ChangeTag::Equal => continue,
            };
            let line = format!("{sign} {}", clean(change.value().trim_end_matches('\n')));
            let line = self.style.diff_line(&line);
            self.line(4, &line);
        }
    }

    fn warnings(&mut self, warnings: &[impl AsRef<str>]) {
        for warning in warnings {
            self.labelled("kubectl:", &self.style.faint("kubectl:"), &format!("Warning: {}", warning.as_ref()));
        }
    }

    fn tally(&mut self, cases: &[Case]) {
        let pods = || cases.iter().flat_map(|case| &case.pods);
        let stuck = pods().filter(|pod| pod.verdict.is_stuck()).count();
        let fixed = pods().filter(|pod| pod.verdict.is_stuck() && pod.before != pod.after);
        let fixed = fixed.filter(|pod| pod.refused.is_empty() && !is_rival(pod, pods())).count();
        let unsure = pods().filter(|pod| is_unsure(pod)).count();
        let text = match (pods().count(), stuck) {
            (0, _) => "no Pod and no workload in the input".to_owned(),
            (total, 0) if unsure == 0 => format!("{}: none would wait forever", counted(total, "Pod")),
            (total, _) => {
                let unsure =
                    if unsure == 0 { String::new() } else { format!("; undecided for want of facts: {unsure}") };
                format!("{}: {stuck} would wait forever, admission fixes {fixed}{unsure}", counted(total, "Pod"))
            }
        };
        let line = if stuck > fixed || unsure > 0 { self.style.warning(&text) } else { self.style.good(&text) };
        self.line(0, &line);
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Whether all is well after admission, and what it did in words.
fn outcome(pod: &PodCase) -> (bool, String) {
    let node = pod.verdict.node.as_deref().unwrap_or_default();
    match (pod.decision(), &pod.verdict.remedy) {
        (Decision::Exempt, _) => (
            !pod.verdict.is_stuck(),
            format!("left alone: {}", pod.exempt.unwrap_or("a PinPolicy of mode Off covers it")),
        ),
        (Decision::Denied, _) => (false, "refused".to_owned()),
        (Decision::Rewritten, Remedy::Rewrite { pin: Pin::Hostname(value) }) => (
            true,
            format!("rewritten: the scheduler places it on the node with hostname label {value}, and binds its claims"),
        ),
        (Decision::Rewritten, _) => {
            (true, format!("rewritten: the scheduler places it on node {node}, by name, and binds its claims"))
        }
        (Decision::Selected, Remedy::SelectInTemplate { volumes }) => {
            (true, format!("keeps its node name; its volumes are ordered for {node}: {}", volumes.join(", ")))
        }
        (_, Remedy::Rewrite { .. } | Remedy::SelectInTemplate { .. }) => {
            (false, "not changed in this mode; in mode rewrite it would be".to_owned())
        }
        (_, Remedy::Rescue) => {
            (false, "not changed, a rewrite is not safe; the rescue loop fixes its claims".to_owned())
        }
        (_, Remedy::Hopeless { reason }) => (false, format!("not changed, it cannot be fixed: {}", reason.title())),
        (_, Remedy::Leave) if pod.verdict.is_stuck() => {
            (false, "not changed, although it would wait forever: see above".to_owned())
        }
        (_, Remedy::Leave) if is_unsure(pod) => {
            (false, "not changed: whether it would wait forever depends on what is not known".to_owned())
        }
        (_, Remedy::Leave) => (true, "not changed: it does not wait for the scheduler".to_owned()),
    }
}

/// True when the Pod shares a claim with an earlier one on another node: the claim's volume is where that one is.
fn is_rival<'a>(pod: &PodCase, mut all: impl Iterator<Item = &'a PodCase>) -> bool {
    let shares = pod.verdict.findings.iter().any(|finding| finding.code == Code::SharedAcrossNodes);
    let same_claim = |other: &PodCase| {
        let claims = other.verdict.volumes.iter().filter_map(|volume| volume.claim.as_ref());
        let own = || pod.verdict.volumes.iter().filter_map(|volume| volume.claim.as_ref());
        other.before["metadata"]["namespace"] == pod.before["metadata"]["namespace"]
            && claims.into_iter().any(|claim| own().any(|own| own == claim))
    };
    let first = all.find(|other| std::ptr::eq(*other, pod) || (other.verdict.is_stuck() && same_claim(other)));
    shares && first.is_some_and(|first| first.verdict.node != pod.verdict.node)
}

/// True when something that is not known decides whether the Pod would wait forever.
fn is_unsure(pod: &PodCase) -> bool {
    pod.verdict.is_undecided()
}

fn rescue(remedy: &ClaimRemedy) -> String {
    match remedy {
        ClaimRemedy::SelectNode { node } => format!("its volume is ordered for node {node}"),
        ClaimRemedy::Prebind { volume } => format!("volume {volume} is reserved for it"),
        ClaimRemedy::Unselect => "its selected-node annotation is removed".to_owned(),
        ClaimRemedy::Wait => "nothing until a volume or class appears".to_owned(),
        ClaimRemedy::Leave => "nothing".to_owned(),
        ClaimRemedy::Hopeless { reason } => format!("nothing helps: {}", reason.title()),
    }
}

/// A JSON Patch for each Pod that is changed: one is JSON, several are a stream of YAML documents.
pub(super) fn patches(cases: &[Case]) -> anyhow::Result<String> {
    let changed: Vec<&PodCase> = changed(cases).collect();
    let mut text = String::new();
    for (place, pod) in changed.iter().enumerate() {
        if changed.len() > 1 {
            text += if place == 0 { "" } else { "---\n" };
            text += &["# ", &clean(&pod.title), "\n"].concat();
        }
        let operations = pod.mutated.patch.0.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        text += &["[\n  ", &clean_json(&operations.join(",\n  ")), "\n]\n"].concat();
    }
    Ok(text)
}

/// A unified diff for each Pod that is changed.
pub(super) fn diffs(cases: &[Case], style: Style) -> anyhow::Result<String> {
    let mut text = String::new();
    for pod in changed(cases) {
        let (before, after) = (yaml(&pod.before)?, yaml(&pod.after)?);
        let title = clean(&pod.title);
        let diff = TextDiff::from_lines(&before, &after);
        let unified = diff
            .unified_diff()
            .header(&format!("{title} (as submitted)"), &format!("{title} (as admitted)"))
            .to_string();
        for line in clean_lines(&unified).lines() {
            text += &style.diff_line(line);
            text.push('\n');
        }
    }
    Ok(text)
}

/// Every Pod as it would be stored.
pub(super) fn objects(cases: &[Case]) -> anyhow::Result<String> {
    let objects = cases.iter().flat_map(|case| &case.pods).map(|pod| yaml(&pod.after));
    Ok(objects.collect::<anyhow::Result<Vec<_>>>()?.join("---\n"))
}

fn changed(cases: &[Case]) -> impl Iterator<Item = &PodCase> {
    cases.iter().flat_map(|case| &case.pods).filter(|pod| !pod.mutated.patch.is_empty())
}

/// The object in YAML. Where YAML would show characters that harm a terminal as they are, JSON, which is YAML too, with
/// those characters as escapes.
fn yaml(object: &Value) -> anyhow::Result<String> {
    let yaml = serde_saphyr::to_string(object)?;
    if is_clean(&yaml) {
        return Ok(yaml);
    }
    Ok(clean_json(&serde_json::to_string_pretty(object)?).into_owned() + "\n")
}
