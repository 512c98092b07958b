//! One object and what admission says about it.

use std::borrow::Cow;
use std::sync::Arc;

use anyhow::{Context, bail};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admission::review::{Answer, Decision, Request, Reviewed};
use crate::admission::{Admission, Exemptions, Hook, respond};
use crate::binding::{Assumption, ClusterView, FieldPath, Lookup, PodVerdict, Rules, decide_pod, decide_workload};
use crate::cli::by_hand::by_hand;
use crate::facts::files::{Embedded, Object, Subject};
use crate::facts::{Fact, Facts};
use crate::model::{Claim, Pod, Workload, WorkloadKind, daemon_tolerations};
use crate::policy::{self, Mode, PinRequest, Requester, evaluate, judge};
use crate::volumes::{ClassParameters, PROVISIONER, refusal};

/// Asks admission, as the API server does.
pub(super) struct Simulator<'a> {
    pub facts: &'a Facts,
    pub rules: &'a Rules,
    pub mode: Mode,
    pub exemptions: &'a Exemptions,
    /// Who creates the Pods that are given, if that is said.
    pub requester: Option<&'a Requester>,
    /// The moment, by which exceptions of policies expire.
    pub now: Timestamp,
}

/// One object, and what admission says about it.
#[derive(Default)]
pub(super) struct Case {
    /// `Kind namespace/name`.
    pub title: String,
    /// API version, kind, namespace and name.
    pub identity: Value,
    /// `file:line:column`.
    pub place: String,
    /// The object itself when it is a Pod, else the Pods that it makes.
    pub pods: Vec<PodCase>,
    /// What is said about an object that is no Pod itself.
    pub itself: Option<Answer>,
    /// What the decisions rest on, besides the input.
    pub assumptions: Vec<Assumption>,
}

/// One Pod, and what admission says about it.
pub(super) struct PodCase {
    /// `Pod namespace/name`.
    pub title: String,
    pub before: Value,
    pub after: Value,
    pub verdict: PodVerdict,
    /// What policies say.
    pub policies: policy::Decision,
    /// From the mutating webhook.
    pub mutated: Answer,
    /// From the validating webhook, about the Pod after that.
    pub validated: Answer,
    /// Why it would be left alone, if it is.
    pub exempt: Option<&'static str>,
    /// The Pod exists, and this is to be said of it.
    pub stored: Option<String>,
    /// Claims of classes of ours that the provisioner will refuse, and why.
    pub refused: Vec<Refused>,
}

/// A claim that the provisioner refuses, whatever admission does.
#[derive(Serialize)]
pub(super) struct Refused {
    /// Name of the Pod's volume.
    pub volume: String,
    /// Why.
    pub why: String,
}

/// Identifies requests that no API server made.
const UID: &str = "00000000-0000-0000-0000-000000000000";

impl Simulator<'_> {
    /// The case of an object of the input; nothing for kinds that hold no Pod.
    pub fn object(&self, object: &Object) -> anyhow::Result<Option<Case>> {
        let (namespace, name) = (object.namespace.as_str(), object.name.as_str());
        let title = format!("{} {namespace}/{name}", object.kind);
        let place = object.origin.place(&FieldPath::default()).to_string();
        let version =
            if object.group.is_empty() { String::new() } else { format!("{}/", object.group) } + &object.version;
        let identity = json!({"apiVersion": version, "kind": object.kind, "namespace": namespace, "name": name});
        let mut case = Case { title: title.clone(), identity, place, ..Case::default() };
        match &object.subject {
            Subject::Workload(workload) => {
                let verdict = decide_workload(workload, self.facts, self.rules);
                for (pod, _) in &verdict.pods {
                    let facts = self.facts_with_claims(workload, pod);
                    let title = format!("Pod {namespace}/{}", pod.display_name());
                    let object = pod_object(workload, &object.value, pod);
                    case.pods.push(self.pod(title, pod, object, &*facts, None)?);
                }
                let review = review(&object.group, &object.kind, namespace, name, &object.value, self.requester);
                case.itself = Some(self.ask(Hook::Validate, &review, self.facts)?);
            }
            Subject::Fact(fact) => match &**fact {
                Fact::Pod(pod) if pod.is_stored() => case.pods.push(self.stored(title, pod, object.value.clone())),
                Fact::Pod(pod) => {
                    case.pods.push(self.pod(title, pod, object.value.clone(), self.facts, self.requester)?);
                }
                _ => return Ok(None),
            },
            Subject::Other(found) if found.is_empty() => return Ok(None),
            Subject::Other(found) => {
                for embedded in found {
                    let pod = &embedded.pod;
                    let title = format!("Pod {}/{}", pod.namespace(), pod.display_name());
                    case.pods.push(self.pod(title, pod, embedded_object(embedded, &object.value), self.facts, None)?);
                }
            }
        }
        case.assume();
        Ok(Some(case))
    }

    /// The case of a recorded review, and the bytes that the hook answers.
    pub fn review(&self, name: &str, hook: Hook, bytes: &[u8]) -> anyhow::Result<(Case, Vec<u8>)> {
        let request = Request::parse(bytes).with_context(|| name.to_owned())?;
        let reply = respond(hook, bytes, &self.admission(self.facts)).with_context(|| name.to_owned())?;
        let title = format!("{} {}/{}", &*request.kind.kind, &*request.namespace, &*request.name);
        let place = format!("{name}, {} at /{}", &*request.operation, hook.as_str());
        let mut case = Case { title: title.clone(), place, ..Case::default() };
        match created_pod(&request) {
            Some(pod) => {
                let before = serde_json::from_slice::<Value>(bytes)?["request"]["object"].take();
                let after = applied(&before, &reply.answer)?;
                let policies = self.decision(pod, request.requester().as_ref(), self.facts);
                let verdict = judge(pod, self.facts, self.rules, &policies);
                let (mutated, validated) = match hook {
                    Hook::Mutate => (reply.answer, Answer::default()),
                    Hook::Validate => (Answer::default(), reply.answer),
                };
                let exempt = self.exempt(pod, true);
                let refused = refused(pod, self.facts);
                let stored = None;
                case.pods.push(PodCase {
                    title,
                    before,
                    after,
                    verdict,
                    policies,
                    mutated,
                    validated,
                    exempt,
                    stored,
                    refused,
                });
            }
            None => case.itself = Some(reply.answer),
        }
        case.assume();
        Ok((case, reply.json))
    }

    fn admission<'view>(&'view self, view: &'view dyn ClusterView) -> Admission<'view> {
        Admission {
            view,
            rules: self.rules,
            provisioners: &[],
            mode: self.mode,
            exemptions: self.exemptions,
            details: true,
            guard: None,
            now: self.now,
        }
    }

    fn decision(&self, pod: &Pod, requester: Option<&Requester>, view: &dyn ClusterView) -> policy::Decision {
        evaluate(&PinRequest { pod, requester, mode: self.mode, now: self.now }, view)
    }

    /// The facts at the moment when a StatefulSet's Pod is created: its controller has made the Pod's claims just before.
    fn facts_with_claims(&self, workload: &Workload, pod: &Pod) -> Cow<'_, Facts> {
        let mut facts = Cow::Borrowed(self.facts);
        if pod.pinned_node().is_none() {
            return facts;
        }
        for template in &workload.claim_templates {
            let volume = pod.spec.volumes.iter().find(|volume| volume.name == template.name());
            let Some(source) = volume.and_then(|volume| volume.persistent_volume_claim.as_ref()) else { continue };
            if matches!(self.facts.claim(pod.namespace(), &source.claim_name), Lookup::Found(_)) {
                continue;
            }
            let mut claim = template.clone();
            claim.metadata.name = Some(source.claim_name.clone());
            claim.metadata.namespace = Some(pod.namespace().into());
            facts.to_mut().add(Fact::Claim(claim));
        }
        facts
    }

    /// A Pod that exists: admission has seen it, and sees it no more.
    fn stored(&self, title: String, pod: &Pod, object: Value) -> PodCase {
        let verdict = decide_pod(pod, self.facts, self.rules);
        let refused = refused(pod, self.facts);
        let stored = match (pod.is_live(), verdict.is_stuck()) {
            (false, _) => "has ended or is being deleted: it waits for nothing any more".to_owned(),
            (true, true) => by_hand(pod, &verdict),
            (true, false) => "exists, and does not wait for the scheduler".to_owned(),
        };
        PodCase {
            title,
            before: object.clone(),
            after: object,
            verdict,
            policies: policy::Decision::default(),
            mutated: Answer::default(),
            validated: Answer::default(),
            exempt: None,
            stored: Some(stored),
            refused,
        }
    }

    /// Why admission leaves a Pod alone, whatever its claims are.
    fn exempt(&self, pod: &Pod, request_of_node: bool) -> Option<&'static str> {
        if pod.is_mirror() {
            Some("it is the image of a static Pod, which must keep its node name")
        } else if pod.pinned_node().is_some() && !pod.spec.scheduling_gates.is_empty() {
            Some("it has scheduling gates, and Kubernetes refuses it with a node name")
        } else if self.exemptions.namespaces.contains(pod.namespace()) {
            Some("its namespace is exempt")
        } else {
            request_of_node.then_some("a kubelet creates it")
        }
    }

    fn pod(
        &self,
        title: String,
        pod: &Pod,
        before: Value,
        view: &dyn ClusterView,
        requester: Option<&Requester>,
    ) -> anyhow::Result<PodCase> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let ask =
            |hook, object: &Value| self.ask(hook, &review("", "Pod", pod.namespace(), name, object, requester), view);
        let mutated = ask(Hook::Mutate, &before)?;
        let after = applied(&before, &mutated)?;
        let validated = ask(Hook::Validate, &after)?;
        let policies = self.decision(pod, requester, view);
        let verdict = judge(pod, view, self.rules, &policies);
        let exempt = self.exempt(pod, false);
        let refused = refused(pod, view);
        Ok(PodCase { title, before, after, verdict, policies, mutated, validated, exempt, stored: None, refused })
    }

    fn ask(&self, hook: Hook, review: &Value, view: &dyn ClusterView) -> anyhow::Result<Answer> {
        let answer = respond(hook, &serde_json::to_vec(review)?, &self.admission(view))?.answer;
        match &answer.trouble {
            Some(trouble) => bail!("the object cannot be read: {trouble}"),
            None => Ok(answer),
        }
    }
}

/// The claims of a Pod that our provisioner will refuse: those without a volume, of a class that is known to be ours.
fn refused(pod: &Pod, view: &dyn ClusterView) -> Vec<Refused> {
    let mut found = Vec::new();
    for volume in &pod.spec.volumes {
        let template = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref());
        let claim = match (&volume.persistent_volume_claim, template) {
            (Some(source), _) => view.claim(pod.namespace(), &source.claim_name).found(),
            (None, Some(template)) => Some(Arc::new(Claim { spec: template.spec.clone(), ..Claim::default() })),
            (None, None) => None,
        };
        let Some(claim) = claim.filter(|claim| claim.volume_name().is_none()) else { continue };
        let class = match claim.class_name() {
            Some("") => continue,
            Some(name) => view.class(name),
            None => view.default_class(),
        };
        let Some(class) = class.found().filter(|class| class.provisioner == PROVISIONER) else { continue };
        let why = match ClassParameters::of(&class) {
            Err(error) => error.to_string(),
            Ok(parameters) => match refusal(&claim, parameters.serves_many()) {
                Some(refusal) => refusal.to_string(),
                None => continue,
            },
        };
        found.push(Refused { volume: volume.name.to_string(), why });
    }
    found
}

/// The Pod that a request creates, as far as it can be read.
fn created_pod<'a>(request: &'a Request<'_>) -> Option<&'a Pod> {
    match &request.object {
        Reviewed::Pod(pod) if request.sub_resource.is_empty() && &*request.operation == "CREATE" => Some(pod),
        _ => None,
    }
}

fn review(
    group: &str,
    kind: &str,
    namespace: &str,
    name: &str,
    object: &Value,
    requester: Option<&Requester>,
) -> Value {
    let user = requester.map(|requester| json!({"username": requester.user, "groups": requester.groups}));
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": UID,
            "kind": {"group": group, "version": "v1", "kind": kind},
            "operation": "CREATE",
            "namespace": namespace,
            "name": name,
            "userInfo": user,
            "object": object,
        },
    })
}

fn applied(object: &Value, answer: &Answer) -> anyhow::Result<Value> {
    let mut object = object.clone();
    json_patch::patch(&mut object, &answer.patch).context("the patch does not apply; please report this")?;
    Ok(object)
}

/// The Pod that a controller which is not known would make.
fn embedded_object(embedded: &Embedded, object: &Value) -> Value {
    let written = embedded.path.0.iter().try_fold(object, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        value => value.get(step),
    });
    let spec = written.filter(|spec| spec.is_object()).cloned();
    // What stands in a text is shown by what decides.
    let spec = spec.unwrap_or_else(|| json!({ "nodeName": embedded.pod.spec.node_name.as_deref() }));
    let metadata = json!({
        "generateName": embedded.pod.metadata.generate_name.as_deref(),
        "namespace": embedded.pod.namespace(),
    });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

const CLAIM: &str = "/persistentVolumeClaim/claimName";

/// A Pod as the workload's controller makes it: the template, a name, and the claims of a StatefulSet.
fn pod_object(workload: &Workload, object: &Value, pod: &Pod) -> Value {
    let template = workload.kind.template_path().iter().try_fold(object, |value, key| value.get(key));
    let part = |key: &str| template.and_then(|template| template.get(key)).filter(|part| part.is_object()).cloned();
    let mut metadata = part("metadata").unwrap_or_else(|| json!({}));
    let mut spec = part("spec").unwrap_or_else(|| json!({}));
    match (&pod.metadata.name, &pod.metadata.generate_name) {
        (Some(name), _) => metadata["name"] = json!(name),
        (None, Some(prefix)) => metadata["generateName"] = json!(prefix),
        (None, None) => {}
    }
    metadata["namespace"] = json!(pod.namespace());
    if workload.kind == WorkloadKind::DaemonSet {
        let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
        tolerations.extend(daemon_tolerations(pod.spec.host_network).map(|toleration| json!(toleration)));
        spec["tolerations"] = Value::Array(tolerations);
        if let Some(required) = pod.spec.required_node_affinity().filter(|_| pod.pinned_node().is_some()) {
            if !spec["affinity"].is_object() {
                spec["affinity"] = json!({});
            }
            if !spec["affinity"]["nodeAffinity"].is_object() {
                spec["affinity"]["nodeAffinity"] = json!({});
            }
            spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!(required);
        }
    }
    if workload.kind == WorkloadKind::StatefulSet && !workload.claim_templates.is_empty() {
        let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        for (place, volume) in pod.spec.volumes.iter().enumerate() {
            let Some(source) = &volume.persistent_volume_claim else { continue };
            let made = json!({"name": volume.name, "persistentVolumeClaim": {"claimName": source.claim_name}});
            // What the template says itself stays as it is written: it may say more than the claim's name.
            match volumes.get_mut(place) {
                Some(written) if written.pointer(CLAIM) == made.pointer(CLAIM) => {}
                Some(written) => *written = made,
                None => volumes.push(made),
            }
        }
        spec["volumes"] = Value::Array(volumes);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

impl Case {
    fn assume(&mut self) {
        self.assumptions = self.pods.iter().flat_map(|pod| pod.verdict.assumptions.iter().cloned()).collect();
        self.assumptions.sort_unstable();
        self.assumptions.dedup();
    }

    pub fn is_denied(&self) -> bool {
        let pods = self.pods.iter().flat_map(|pod| [&pod.mutated, &pod.validated]);
        pods.chain(&self.itself).any(|answer| answer.denial.is_some())
    }

    pub fn to_json(&self) -> Value {
        let mut item = json!({
            "object": self.identity,
            "place": self.place,
            "pods": self.pods.iter().map(PodCase::to_json).collect::<Vec<_>>(),
            "assumptions": self.assumptions,
        });
        if let Some(answer) = &self.itself {
            item["allowed"] = json!(answer.denial.is_none());
            item["warnings"] = json!(answer.warnings);
        }
        item
    }
}

impl PodCase {
    /// What kubectl prints: a warning that both webhooks give is printed once.
    pub fn warnings(&self) -> Vec<&str> {
        let mut warnings: Vec<&str> = Vec::new();
        for warning in self.mutated.warnings.iter().chain(&self.validated.warnings) {
            if !warnings.contains(&warning.as_str()) {
                warnings.push(warning);
            }
        }
        warnings
    }

    /// Why admission refuses the Pod, if it does.
    pub fn denial(&self) -> Option<&str> {
        let denial = self.mutated.denial.as_ref().or(self.validated.denial.as_ref());
        denial.map(|denial| denial.message.as_str())
    }

    /// What became of the Pod: what the mutating webhook did, else what the validating one says.
    pub fn decision(&self) -> Decision {
        match self.mutated.decision {
            Decision::Rewritten | Decision::Selected | Decision::Exempt => self.mutated.decision,
            _ if self.validated.decision == Decision::Ignored => self.mutated.decision,
            _ => self.validated.decision,
        }
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "name": self.title,
            "verdict": self.verdict,
            "stuck": self.verdict.is_stuck(),
            "decision": self.decision().as_str(),
            "exists": self.stored.is_some(),
            "allowed": self.denial().is_none(),
            "patch": self.mutated.patch,
            "warnings": self.warnings(),
            "auditAnnotations": self.mutated.audit,
            "after": self.after,
        });
        if self.policies.is_of_policies() {
            json["policies"] = json!(self.policies.lines());
        }
        if !self.refused.is_empty() {
            json["refusedByProvisioner"] = json!(self.refused);
        }
        json
    }
}
