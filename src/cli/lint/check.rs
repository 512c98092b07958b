//! From objects to findings with places.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::binding::storage_findings::{StorageFacts, class_findings, config_map_findings, volume_findings};
use crate::binding::{
    Assumption, ClusterView, Code, FieldPath, Finding, Pin, PodVerdict, Remedy, Risks, Rules, Severity, decide_pod,
    decide_workload,
};
use crate::cli::by_hand::by_hand;
use crate::facts::Fact;
use crate::facts::files::{Embedded, Manifests, Object, Origin, Subject, names_a_node};
use crate::model::{IGNORE, Node, Pod, Volume, WorkloadKind};
use crate::policy::{Decision, Ignores, Mode, PinRequest, Requester, evaluate, read_ignores};
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

/// How Pods are judged.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Judge<'a> {
    pub view: &'a dyn ClusterView,
    pub rules: &'a Rules,
    /// Who would create the Pods that are given; nobody knows who creates those of workloads.
    pub requester: Option<&'a Requester>,
    /// The moment, by which exceptions of policies expire.
    pub now: Timestamp,
    /// What an audit looks for besides.
    pub risks: Option<&'a Risks>,
}

impl Judge<'_> {
    /// What policies say about a Pod that is to be created.
    fn decision(&self, pod: &Pod, requester: Option<&Requester>) -> Decision {
        let request = PinRequest { pod, requester, mode: Mode::default(), now: self.now };
        let decision = evaluate(&request, self.view);
        // What is accepted is told as such here, and not left out.
        Decision { allows_ignore: decision.allows_ignore.filter(|allowed| !allowed), ..decision }
    }

    /// The verdict on a Pod, and whether its annotation that accepts findings counts.
    fn pod(&self, pod: &Pod) -> (PodVerdict, bool) {
        // Who created a Pod that exists is not known any more.
        let decision = self.decision(pod, self.requester.filter(|_| !pod.is_stored()));
        let verdict = decide_pod(pod, self.view, &decision.rules(self.rules));
        // The scheduler, too, gives Pods their node. Of one that exists only what it waits for tells that it came with it.
        if pod.is_stored() && !verdict.is_stuck() {
            return (verdict, true);
        }
        let counts = decision.allows_ignore.is_none();
        (decision.apply(verdict, pod, &[]), counts)
    }
}

/// Looks at every object that is not a fact only; of an audit, for what threatens claims and StatefulSets too.
pub(in crate::cli) fn check(manifests: &Manifests, judge: &Judge<'_>) -> Checked {
    let storage = storage_facts(manifests);
    let mut checked = Checked::default();
    for object in manifests.checked() {
        checked.object(object, &storage, judge);
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
    /// A policy does not let the object accept findings.
    refuses_ignore: bool,
}

impl Checked {
    fn object(&mut self, object: &Object, storage: &StorageFacts<'_>, judge: &Judge<'_>) {
        let all = decide(object, storage, judge);
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
        let (mut ignores, mut faults) = ignores(object, template.as_ref());
        if decided.refuses_ignore {
            let refused = decided.findings.iter().any(|finding| ignores.reasons.contains_key(&finding.code));
            let is_told = decided.findings.iter().any(|finding| finding.code == Code::IgnoreNotAllowed);
            if refused && !is_told {
                let path = FieldPath::new(&["metadata", "annotations", IGNORE]);
                let message = format!("{IGNORE} does not count: a PinPolicy does not say allowIgnore");
                faults.push(Code::IgnoreNotAllowed.at(path, message));
            }
            ignores.reasons.clear();
        }
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
fn decide(object: &Object, storage: &StorageFacts<'_>, judge: &Judge<'_>) -> Vec<Decided> {
    if let Subject::Other(found) = &object.subject
        && !found.is_empty()
    {
        let mut all: Vec<Decided> = found.iter().map(|embedded| of_embedded(embedded, judge)).collect();
        if is_config_map(object) {
            all.push(Decided { findings: config_map_findings(&object.value), ..Decided::default() });
        }
        return all;
    }
    vec![decide_alone(object, storage, judge)]
}

/// A Pod of a controller that is not known.
fn of_embedded(embedded: &Embedded, judge: &Judge<'_>) -> Decided {
    let (mut verdict, counts) = judge.pod(&embedded.pod);
    for finding in &mut verdict.findings {
        finding.path = match finding.path.0.split_first() {
            Some((_, within)) if !embedded.is_text => FieldPath(within.to_vec()).beneath(&embedded.path.0),
            _ => embedded.path.clone(),
        };
    }
    let decided = of_pods(embedded.path.clone(), vec![verdict]);
    let by_hand =
        embedded.is_text.then(|| "the Pod stands in a text of the object; change nodeName there by hand".to_owned());
    Decided { by_hand, refuses_ignore: !counts, ..decided }
}

fn decide_alone(object: &Object, storage: &StorageFacts<'_>, judge: &Judge<'_>) -> Decided {
    let findings = |findings| Decided { findings, ..Decided::default() };
    match &object.subject {
        Subject::Workload(workload) => {
            // Its Pods are created by its controller, whoever that is.
            let decision = workload.pod().map(|pod| judge.decision(&pod, None)).unwrap_or_default();
            let verdict = decide_workload(workload, judge.view, &decision.rules(judge.rules));
            let verdicts = verdict.pods.into_iter();
            let verdicts =
                verdicts.map(|(pod, verdict)| decision.apply(verdict, &pod, workload.kind.template_path())).collect();
            let spec = FieldPath::new(&["spec"]).beneath(workload.kind.template_path());
            let decided = of_pods(spec, verdicts);
            let is_stored = object.value.pointer("/metadata/uid").is_some();
            let by_hand = (is_stored && workload.kind == WorkloadKind::Job).then(|| {
                "the template of a Job that exists cannot be changed: delete the Job and create it again".to_owned()
            });
            let of_audit = judge.risks.iter().flat_map(|risks| risks.of_workload(workload, judge.view));
            let findings = decided.findings.into_iter().chain(of_audit).collect();
            Decided { by_hand, findings, refuses_ignore: decision.allows_ignore.is_some(), ..decided }
        }
        Subject::Fact(fact) => match fact.as_ref() {
            Fact::Pod(pod) if has_started(pod) => Decided::default(),
            Fact::Pod(pod) => {
                let (verdict, counts) = judge.pod(pod);
                let by_hand = pod.is_stored().then(|| by_hand(pod, &verdict));
                Decided { by_hand, refuses_ignore: !counts, ..of_pods(FieldPath::new(&["spec"]), vec![verdict]) }
            }
            Fact::Claim(claim) => {
                findings(judge.risks.iter().flat_map(|risks| risks.of_claim(claim, judge.view)).collect())
            }
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
    Decided { findings, pods: Some((spec, verdicts)), ..Decided::default() }
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
        let ignores = read_ignores(text);
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
