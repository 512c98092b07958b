//! From objects to findings with places.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::ignore::{self, IGNORE, Ignores};
use crate::binding::storage_findings::{StorageFacts, class_findings, config_map_findings, volume_findings};
use crate::binding::{
    Assumption, ClusterView, Code, FieldPath, Finding, Pin, PodVerdict, Remedy, Risks, Rules, Severity, decide_pod,
    decide_workload,
};
use crate::cli::by_hand::by_hand;
use crate::facts::Fact;
use crate::facts::files::{Embedded, Manifests, Object, Origin, Subject, names_a_node};
use crate::model::{Node, Pod, Volume, WorkloadKind};
use crate::report::{self, Point, Reported, State};

/// What was found, and what could be rewritten.
#[derive(Debug, Default)]
pub(in crate::cli) struct Checked {
    /// The findings, in the order of the input.
    pub(in crate::cli) findings: Vec<Reported>,
    /// The objects that were looked at.
    pub(in crate::cli) objects: Vec<Arc<report::Object>>,
    /// Pod specs that can be rewritten.
    pub(in crate::cli) rewrites: Vec<Rewrite>,
    /// Pod specs that ought to be rewritten and must not be.
    pub(in crate::cli) refusals: Vec<Refused>,
    /// Objects that name a node and hold nothing that could be judged.
    pub(in crate::cli) not_judged: Vec<Arc<report::Object>>,
    /// What all of it rests on besides the input.
    pub(in crate::cli) assumptions: BTreeSet<Assumption>,
}

/// A Pod spec that can be rewritten.
#[derive(Debug)]
pub(in crate::cli) struct Rewrite {
    /// Where its object was read.
    pub(in crate::cli) origin: Origin,
    /// Steps from the top of the document to the spec.
    pub(in crate::cli) spec: FieldPath,
    /// The pin.
    pub(in crate::cli) pin: Pin,
    /// The finding that the rewrite fixes first of all.
    pub(in crate::cli) finding: usize,
    /// All findings that vanish with it.
    pub(in crate::cli) findings: std::ops::Range<usize>,
}

/// A Pod spec that must not be rewritten.
#[derive(Debug)]
pub(in crate::cli) struct Refused {
    /// The finding that stands.
    pub(in crate::cli) finding: usize,
    /// Why there is no rewrite.
    pub(in crate::cli) why: String,
    /// Worth saying to somebody who did not ask for a fix.
    pub(in crate::cli) always: bool,
}

/// What objects are held against.
struct Against<'a> {
    storage: StorageFacts<'a>,
    view: &'a dyn ClusterView,
    rules: &'a Rules,
    /// What an audit looks for besides.
    risks: Option<&'a Risks>,
}

/// Looks at every object that is not a fact only; of an audit, for what threatens claims and StatefulSets too.
pub(in crate::cli) fn check(
    manifests: &Manifests,
    view: &dyn ClusterView,
    rules: &Rules,
    risks: Option<&Risks>,
) -> Checked {
    let against = Against { storage: storage_facts(manifests), view, rules, risks };
    let mut checked = Checked::default();
    for object in manifests.checked() {
        checked.object(object, &against);
    }
    checked
}

fn storage_facts(manifests: &Manifests) -> StorageFacts<'_> {
    let facts = || {
        manifests.objects.iter().filter_map(|object| match &object.subject {
            Subject::Fact(fact) => Some(fact.as_ref()),
            Subject::Workload(_) | Subject::Other(_) => None,
        })
    };
    let volumes = facts().filter_map(|fact| match fact {
        Fact::Volume(volume) => Some(volume),
        _ => None,
    });
    let nodes = facts().filter_map(|fact| match fact {
        Fact::Node(node) => Some(node),
        _ => None,
    });
    let mut storage = StorageFacts::new(volumes.collect::<Vec<&Volume>>(), nodes.collect::<Vec<&Node>>());
    manifests.objects.iter().filter(|object| is_config_map(object)).for_each(|map| storage.note_config_map(&map.value));
    storage
}

fn is_config_map(object: &Object) -> bool {
    object.group.is_empty() && object.kind == "ConfigMap"
}

/// What was decided about one object.
#[derive(Default)]
struct Decided {
    findings: Vec<Finding>,
    /// Steps from the top of the object to the Pod spec, and the verdicts on the Pods that are made from it.
    pods: Option<(FieldPath, Vec<PodVerdict>)>,
    /// Why the file cannot be rewritten, and what to do instead.
    by_hand: Option<String>,
}

impl Checked {
    fn object(&mut self, object: &Object, against: &Against<'_>) {
        let all = decide(object, against);
        // Places cost a second look at the text, so they are asked for only where something was found.
        let line = if all.iter().all(|decided| decided.findings.is_empty()) {
            object.origin.document().start.line
        } else {
            object.origin.place(&FieldPath::default()).span.unwrap_or_default().start.line
        };
        let subject = Arc::new(report::Object {
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            file: object.origin.source().name.clone(),
            line,
        });
        self.objects.push(Arc::clone(&subject));
        if is_left_aside(object) {
            self.not_judged.push(Arc::clone(&subject));
        }
        let mut faults = Vec::new();
        for decided in all {
            faults.extend(self.decided(decided, object, &subject));
        }
        let mut told: Vec<Finding> = Vec::new();
        for fault in faults {
            if !told.contains(&fault) {
                told.push(fault);
            }
        }
        let told = told.into_iter().map(|finding| reported(finding, object, &subject, State::Open));
        self.findings.extend(told);
    }

    /// Takes in what was decided about one Pod spec of an object; gives what is wrong with its annotations.
    fn decided(&mut self, decided: Decided, object: &Object, subject: &Arc<report::Object>) -> Vec<Finding> {
        let template = decided.pods.as_ref().map(|(spec, _)| FieldPath::new(&spec.0[..spec.0.len().saturating_sub(1)]));
        let (ignores, faults) = ignores(object, template.as_ref());
        let first = self.findings.len();
        for finding in decided.findings {
            let state = match ignores.reasons.get(&finding.code) {
                Some(reason) => State::Ignored { reason: reason.clone() },
                None => State::Open,
            };
            self.findings.push(reported(finding, object, subject, state));
        }
        if let Some((spec, verdicts)) = decided.pods {
            self.assumptions.extend(verdicts.iter().flat_map(|verdict| verdict.assumptions.iter().cloned()));
            self.rewrite(object, &spec, &verdicts, first, decided.by_hand);
        }
        faults
    }

    /// Notes what becomes of the Pod spec whose findings begin at `first`.
    fn rewrite(
        &mut self,
        object: &Object,
        spec: &FieldPath,
        verdicts: &[PodVerdict],
        first: usize,
        by_hand: Option<String>,
    ) {
        let findings = first..self.findings.len();
        let of_code = |code: Code| findings.clone().find(|at| self.findings[*at].code == code);
        let deadlock = of_code(Code::PinnedToDelayedClaim).or_else(|| of_code(Code::ResourceClaims));
        let worst = findings.clone().find(|at| self.findings[*at].is_open());
        let Some(finding) = deadlock.or(worst) else { return };
        if !self.findings[finding].is_open() {
            return;
        }
        if let Some(why) = by_hand {
            return self.refusals.push(Refused { finding, why, always: true });
        }
        match pin(verdicts) {
            Ok(pin) => {
                let spec = spec.beneath(&object.origin.prefix.0);
                self.rewrites.push(Rewrite { origin: object.origin.clone(), spec, pin, finding, findings });
            }
            Err(why) if self.findings[finding].severity >= Severity::Warning => {
                self.refusals.push(Refused { finding, why, always: false });
            }
            Err(_) => {}
        }
    }
}

/// True for an object that names a node, and in which nothing was found that could be judged.
fn is_left_aside(object: &Object) -> bool {
    match &object.subject {
        Subject::Other(found) => found.is_empty() && names_a_node(&object.group, &object.kind, &object.value),
        Subject::Workload(_) | Subject::Fact(_) => false,
    }
}

/// What was decided about the Pod specs of an object; one entry where it has none.
fn decide(object: &Object, against: &Against<'_>) -> Vec<Decided> {
    if let Subject::Other(found) = &object.subject
        && !found.is_empty()
    {
        let mut all: Vec<Decided> = found.iter().map(|embedded| of_embedded(embedded, against.view, against.rules)).collect();
        if is_config_map(object) {
            all.push(Decided { findings: config_map_findings(&object.value), ..Decided::default() });
        }
        return all;
    }
    vec![decide_alone(object, against)]
}

/// A Pod of a controller that is not known.
fn of_embedded(embedded: &Embedded, view: &dyn ClusterView, rules: &Rules) -> Decided {
    let mut verdict = decide_pod(&embedded.pod, view, rules);
    for finding in &mut verdict.findings {
        finding.path = match finding.path.0.split_first() {
            Some((_, within)) if !embedded.is_text => FieldPath(within.to_vec()).beneath(&embedded.path.0),
            _ => embedded.path.clone(),
        };
    }
    let decided = of_pods(embedded.path.clone(), vec![verdict]);
    let by_hand =
        embedded.is_text.then(|| "the Pod stands in a text of the object; change nodeName there by hand".to_owned());
    Decided { by_hand, ..decided }
}

fn decide_alone(object: &Object, against: &Against<'_>) -> Decided {
    let Against { storage, view, rules, risks } = against;
    let findings = |findings| Decided { findings, ..Decided::default() };
    match &object.subject {
        Subject::Workload(workload) => {
            let verdict = decide_workload(workload, *view, rules);
            let spec = FieldPath::new(&["spec"]).beneath(workload.kind.template_path());
            let decided = of_pods(spec, verdict.pods.into_iter().map(|(_, verdict)| verdict).collect());
            let is_stored = object.value.pointer("/metadata/uid").is_some();
            let by_hand = (is_stored && workload.kind == WorkloadKind::Job).then(|| {
                "the template of a Job that exists cannot be changed: delete the Job and create it again".to_owned()
            });
            let of_audit = risks.iter().flat_map(|risks| risks.of_workload(workload, *view));
            Decided { by_hand, findings: decided.findings.into_iter().chain(of_audit).collect(), ..decided }
        }
        Subject::Fact(fact) => match fact.as_ref() {
            Fact::Pod(pod) if has_started(pod) => Decided::default(),
            Fact::Pod(pod) => {
                let verdict = decide_pod(pod, *view, rules);
                let by_hand = pod.is_stored().then(|| by_hand(pod, &verdict));
                Decided { by_hand, ..of_pods(FieldPath::new(&["spec"]), vec![verdict]) }
            }
            Fact::Claim(claim) => findings(risks.iter().flat_map(|risks| risks.of_claim(claim, *view)).collect()),
            Fact::Class(class) => findings(class_findings(class, storage)),
            Fact::Volume(volume) => findings(volume_findings(volume, storage)),
            _ => Decided::default(),
        },
        Subject::Other(_) if is_config_map(object) => findings(config_map_findings(&object.value)),
        Subject::Other(_) => Decided::default(),
    }
}

/// A Pod that was read from a cluster and has left its volumes behind it names the node that it runs or ran on.
fn has_started(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Running" | "Succeeded" | "Failed")
}

/// Findings of all Pods of one spec. Those that say the same about the same field, for one Pod after another, are told
/// once.
fn of_pods(spec: FieldPath, verdicts: Vec<PodVerdict>) -> Decided {
    let mut findings: Vec<(Finding, usize)> = Vec::new();
    for verdict in &verdicts {
        for finding in &verdict.findings {
            let same = findings.iter_mut().find(|(told, _)| told.code == finding.code && told.path == finding.path);
            match same {
                Some((told, more)) if verdicts.len() > 1 => {
                    *more += usize::from(told.message != finding.message);
                    *told = told.clone().resting_on(&finding.assumptions);
                }
                _ => findings.push((finding.clone(), 0)),
            }
        }
    }
    let told = findings.into_iter().map(|(mut finding, more)| {
        if more > 0 {
            finding.message = format!("{} (and {more} more)", finding.message);
        }
        finding
    });
    let mut findings: Vec<Finding> = told.collect();
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
    Decided { findings, pods: Some((spec, verdicts)), by_hand: None }
}

/// The pin that is right for every Pod of the spec, or why there is none.
fn pin(verdicts: &[PodVerdict]) -> Result<Pin, String> {
    let mut pins = verdicts.iter().filter_map(|verdict| match &verdict.remedy {
        Remedy::Rewrite { pin } => Some(pin),
        _ => None,
    });
    let against = verdicts.iter().find_map(|verdict| match &verdict.remedy {
        Remedy::Leave if !verdict.is_stuck() => None,
        Remedy::Rewrite { .. } => None,
        Remedy::Leave => Some("what the findings ask for must be known or done first".to_owned()),
        Remedy::Rescue => {
            Some("the Pod would wait then too; in a cluster latebind fixes its claims instead".to_owned())
        }
        Remedy::SelectInTemplate { volumes } => {
            let volumes = volumes.join(", ");
            Some(format!(
                "the Pod would wait then too; at admission latebind orders its volumes {volumes} for the node"
            ))
        }
        Remedy::Hopeless { reason } => Some(format!("{reason} must be fixed first: {}", reason.title())),
    });
    match (against, pins.next()) {
        (Some(why), _) => Err(why),
        (None, None) => Err("it is not certain that the Pod waits forever".to_owned()),
        (None, Some(pin)) if pins.all(|other| other == pin) => Ok(pin.clone()),
        (None, Some(_)) => Err("its Pods need different pins".to_owned()),
    }
}

fn reported(finding: Finding, object: &Object, subject: &Arc<report::Object>, state: State) -> Reported {
    let span = object.origin.place(&finding.path).span.unwrap_or_default();
    Reported {
        code: finding.code,
        severity: finding.severity,
        message: finding.message,
        assumptions: finding.assumptions.iter().map(ToString::to_string).collect(),
        object: Arc::clone(subject),
        path: finding.path,
        start: Point { line: span.start.line, column: span.start.column },
        end: Point { line: span.end.line, column: span.end.column },
        state,
        fix: None,
        not_fixed: None,
    }
}

/// What the annotations of an object and of its template accept, and findings about entries that are not honoured.
fn ignores(object: &Object, template: Option<&FieldPath>) -> (Ignores, Vec<Finding>) {
    let mut all = Ignores::default();
    let mut faults = Vec::new();
    let metadata = FieldPath::new(&["metadata", "annotations", IGNORE]);
    let in_template = template.filter(|template| !template.0.is_empty()).map(|template| metadata.beneath(&template.0));
    for path in [Some(metadata), in_template].into_iter().flatten() {
        let found = path.0.iter().try_fold(&object.value, |value, step| value.get(step));
        let Some(text) = found.and_then(Value::as_str) else { continue };
        let ignores = ignore::read(text);
        faults.extend(
            ignores
                .faults
                .into_iter()
                .map(|fault| Code::IgnoredWithoutReason.at(path.clone(), format!("{IGNORE}: {fault}"))),
        );
        all.reasons.extend(ignores.reasons);
    }
    (all, faults)
}
