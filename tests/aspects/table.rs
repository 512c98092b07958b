//! Each aspect twice: in a namespace that latebind leaves alone, and in one that it looks at.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use latebind::binding::PinStyle;
use latebind_cluster::{Scope, SimulatedNode, eventually, project_root};
use latebind_test_support::objects;
use serde_json::{Value, json};

use crate::installed::{Installed, is_called};
use latebind_test_support::provisioner::{PROVISIONER, Provisioner};

/// How long a Pod may take to be where it ends, if that is on its node.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long one is watched that is expected to get nowhere.
const WATCHED: Duration = Duration::from_secs(8);

/// Cases under way at one time. Each is two Pods, and most of them only wait.
const SIDE_BY_SIDE: usize = 24;

/// By which claim a Pod waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A claim of a class that waits for its first consumer.
    Delayed,
    /// A generic ephemeral volume of such a class.
    Ephemeral,
    /// A claim that is bound to a volume on the node: the Pod runs without latebind.
    Bound,
}

/// What becomes of a Pod at admission, and where it ends.
type Expected = (&'static str, &'static str);

const HOSTNAME: Expected = ("hostname selector", "runs");
const NAME: Expected = ("name affinity", "runs");
const KEPT: Expected = ("kept", "waits for its claim");
const TEMPLATE: Expected = ("kept, node in template", "runs");
const RUNS: Expected = ("kept", "runs");
const GONE: Expected = ("kept", "deleted");
const REFUSED: Expected = ("refused", "refused");

struct Aspect {
    name: &'static str,
    /// Merged into the Node.
    node: Value,
    /// Merged into the Node's status.
    status: Value,
    /// Merged into the Pod.
    pod: Value,
    /// Merged into the class.
    class: Value,
    /// There is no Node of the name.
    missing: bool,
    /// The class's driver publishes capacities, and none for this node.
    full: bool,
    /// With latebind: a delayed claim, an ephemeral one, a bound one.
    expected: [Expected; 3],
}

impl Aspect {
    fn new(name: &'static str, expected: [Expected; 3]) -> Self {
        let nothing = || json!({});
        let (node, status, pod, class) = (nothing(), nothing(), nothing(), nothing());
        Self { name, node, status, pod, class, missing: false, full: false, expected }
    }

    fn node(self, node: Value) -> Self {
        Self { node, ..self }
    }

    fn pod(self, pod: Value) -> Self {
        Self { pod, ..self }
    }
}

const SAFE: [Expected; 3] = [HOSTNAME, HOSTNAME, RUNS];
const UNSAFE: [Expected; 3] = [KEPT, TEMPLATE, RUNS];
const LEFT: [Expected; 3] = [KEPT, KEPT, RUNS];

/// What a driver publishes of its room is advice: the Pod keeps its node, and the driver is asked.
const FULL: [Expected; 3] = [KEPT, ("kept, node in template", "waits for its claim"), RUNS];

fn taint(effect: &str) -> Value {
    json!({"spec": {"taints": [{"key": "dedicated", "value": "a", "effect": effect}]}})
}

fn tolerating(key: &str) -> Value {
    json!({"spec": {"tolerations": [{"key": key, "operator": "Exists"}]}})
}

fn spread(constraint: &Value) -> Value {
    let mut all = json!({"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}});
    objects::merge(&mut all, constraint);
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"topologySpreadConstraints": [all]}})
}

fn anti_affinity() -> Value {
    json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "none"}}}]}}}})
}

fn affinity(key: &str, operator: &str) -> Value {
    json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator}]}]}}}}})
}

#[allow(clippy::too_many_lines)]
fn aspects() -> Vec<Aspect> {
    let extended = json!({"spec": {"containers": [{"name": "main", "image": "none", "volumeMounts":
        [{"name": "data", "mountPath": "/data"}], "resources": {"limits": {"example.com/device": "1"}}}]}});
    let unmounted = json!({"spec": {"containers": [{"name": "main", "image": "none"}]}});
    let own_selector = |key: &str| json!({"spec": {"nodeSelector": {key: "linux"}}});
    vec![
        Aspect::new("nothing special", SAFE),
        Aspect::new("cordoned node", UNSAFE).node(json!({"spec": {"unschedulable": true}})),
        Aspect::new("cordoned node, tolerated", SAFE)
            .node(json!({"spec": {"unschedulable": true}}))
            .pod(tolerating("node.kubernetes.io/unschedulable")),
        Aspect::new("taint NoSchedule", UNSAFE).node(taint("NoSchedule")),
        Aspect::new("taint NoSchedule, tolerated", SAFE).node(taint("NoSchedule")).pod(tolerating("dedicated")),
        Aspect::new("taint PreferNoSchedule", SAFE).node(taint("PreferNoSchedule")),
        Aspect::new("taint NoExecute", [GONE, GONE, GONE]).node(taint("NoExecute")),
        Aspect::new("taint NoExecute, tolerated", SAFE).node(taint("NoExecute")).pod(tolerating("dedicated")),
        Aspect::new("missing extended resource", UNSAFE).pod(extended),
        Aspect::new("required Pod anti-affinity", UNSAFE).pod(anti_affinity()),
        Aspect::new("topology spread", SAFE).pod(spread(&json!({}))),
        Aspect::new("topology spread, minDomains 50", UNSAFE).pod(spread(&json!({"minDomains": 50}))),
        Aspect::new("topology spread over all nodes", UNSAFE).pod(spread(&json!({"nodeAffinityPolicy": "Ignore"}))),
        Aspect::new("topology spread by a label that the node lacks", UNSAFE)
            .pod(spread(&json!({"topologyKey": "example.com/rack"}))),
        Aspect::new("topology spread ScheduleAnyway", SAFE)
            .pod(spread(&json!({"whenUnsatisfiable": "ScheduleAnyway", "topologyKey": "example.com/rack"}))),
        Aspect::new("scheduling gate", [REFUSED, REFUSED, REFUSED])
            .pod(json!({"spec": {"schedulingGates": [{"name": "example.com/wait"}]}})),
        Aspect::new("another scheduler", UNSAFE).pod(json!({"spec": {"schedulerName": "other"}})),
        Aspect::new("hostname label shared by two nodes", [NAME, NAME, RUNS])
            .node(json!({"metadata": {"labels": {"kubernetes.io/hostname": "shared-by-two"}}})),
        Aspect::new("hostname label shared by two nodes (the other)", [NAME, NAME, RUNS])
            .node(json!({"metadata": {"labels": {"kubernetes.io/hostname": "shared-by-two"}}})),
        Aspect::new("no hostname label", [NAME, NAME, RUNS])
            .node(json!({"metadata": {"labels": {"kubernetes.io/hostname": null}}})),
        Aspect::new("hostname label differs from the name", SAFE)
            .node(json!({"metadata": {"labels": {"kubernetes.io/hostname": "quite-another"}}})),
        Aspect {
            status: json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Test"}]}}),
            ..Aspect::new("node that is not ready", UNSAFE)
        },
        Aspect { missing: true, ..Aspect::new("node that does not exist", [GONE, GONE, GONE]) },
        Aspect { full: true, ..Aspect::new("class whose driver has no room on the node", FULL) },
        Aspect::new("own node selector agrees", SAFE).pod(own_selector("kubernetes.io/os")),
        Aspect::new("own node selector contradicts", LEFT).pod(own_selector("example.com/none")),
        Aspect::new("own node affinity agrees", SAFE).pod(affinity("kubernetes.io/os", "Exists")),
        Aspect::new("own node affinity contradicts", LEFT).pod(affinity("kubernetes.io/os", "DoesNotExist")),
        Aspect {
            class: json!({"allowedTopologies": [{"matchLabelExpressions": [
                {"key": "kubernetes.io/hostname", "values": ["elsewhere"]}]}]}),
            ..Aspect::new("class whose allowed topology excludes the node", LEFT)
        },
        Aspect::new("priority", SAFE).pod(json!({"spec": {"priorityClassName": "system-node-critical"}})),
        Aspect::new("mirror Pod", LEFT).pod(json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "a"}}})),
        Aspect::new("volume that no container mounts", [RUNS, RUNS, RUNS]).pod(unmounted),
    ]
}

/// What happened to one Pod.
struct Story {
    becomes: String,
    ends: String,
}

/// A case in one namespace.
struct Case<'a> {
    aspect: &'a Aspect,
    by: By,
    node: &'a str,
    class: &'a str,
    name: String,
    claims: Api<PersistentVolumeClaim>,
    pods: Api<Pod>,
    volumes: Api<PersistentVolume>,
}

impl Case<'_> {
    fn pod(&self) -> Value {
        let spec = objects::claim_spec(self.class, "1Gi");
        let volume = match self.by {
            By::Ephemeral => json!({"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}),
            By::Delayed | By::Bound => objects::named("data", &self.name),
        };
        let mut pod = objects::on_node(objects::pod(&self.name, &[volume]), self.node);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
        objects::with(pod, &self.aspect.pod)
    }

    fn claim_name(&self) -> String {
        if self.by == By::Ephemeral { format!("{}-data", self.name) } else { self.name.clone() }
    }

    async fn prepare(&self) -> Result<()> {
        if self.by == By::Ephemeral {
            return Ok(());
        }
        let claim = serde_json::from_value(objects::claim(&self.name, self.class, "1Gi"))?;
        let claim = self.claims.create(&PostParams::default(), &claim).await?;
        if self.by == By::Bound {
            let volume = json!({"metadata": {"name": format!("bound-{}", claim.uid().unwrap_or_default())}, "spec": {
                "storageClassName": self.class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp"},
                "claimRef": {"namespace": claim.namespace(), "name": self.name, "uid": claim.uid()}}});
            self.volumes.create(&PostParams::default(), &serde_json::from_value(volume)?).await?;
            eventually("the claim to be bound", PATIENCE, async || {
                let claim = self.claims.get(&self.name).await?;
                Ok((claim.status.and_then(|status| status.phase).as_deref() == Some("Bound")).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Plays it until it ends as it is to end, for good, or time is up.
    async fn play(&self, end: &str, patience: Duration) -> Result<Story> {
        self.prepare().await?;
        let pod: Pod = serde_json::from_value(self.pod())?;
        let created = match self.pods.create(&PostParams::default(), &pod).await {
            Ok(created) => created,
            Err(kube::Error::Api(status)) if status.code == 422 => {
                return Ok(Story { becomes: "refused".to_owned(), ends: "refused".to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        let becomes = becomes(&created, self.node);
        let deadline = Instant::now() + patience;
        loop {
            let ends = self.ends().await?;
            if ends == "deleted" || (ends == "runs" && end != "deleted") || Instant::now() >= deadline {
                return Ok(Story { becomes, ends });
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Where the Pod is now. Nobody runs it here: it counts as running when it is on its node and its claim is bound.
    async fn ends(&self) -> Result<String> {
        let Some(pod) = self.pods.get_opt(&self.name).await? else { return Ok("deleted".to_owned()) };
        let spec = pod.spec.as_ref().context("a Pod has a spec")?;
        // Every container mounts its account's token.
        let mounts = spec.containers.iter().flat_map(|container| container.volume_mounts.iter().flatten());
        let mounted = mounts.into_iter().any(|mount| mount.name == "data");
        let claim = self.claims.get_opt(&self.claim_name()).await?;
        let bound = claim.and_then(|claim| claim.status?.phase).as_deref() == Some("Bound");
        Ok(match spec.node_name.as_deref() {
            Some(node) if node == self.node && (bound || !mounted) => "runs".to_owned(),
            Some(node) if node == self.node => "waits for its claim".to_owned(),
            Some(_) => "is on another node".to_owned(),
            None => {
                let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
                let reason = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
                format!("Pending: {}", reason.and_then(|it| it.message.as_deref()).unwrap_or("nobody has looked at it"))
            }
        })
    }
}

fn becomes(pod: &Pod, node: &str) -> String {
    let Some(spec) = &pod.spec else { return "nothing".to_owned() };
    if spec.node_name.as_deref() == Some(node) {
        let templates = spec.volumes.iter().flatten().filter_map(|volume| volume.ephemeral.as_ref());
        let selected = templates.filter_map(|source| {
            let metadata = source.volume_claim_template.as_ref()?.metadata.as_ref()?;
            metadata.annotations.as_ref()?.get("volume.kubernetes.io/selected-node").cloned()
        });
        let selected = selected.collect::<Vec<_>>();
        return if selected.is_empty() { "kept" } else { "kept, node in template" }.to_owned();
    }
    let text = json!(spec.affinity).to_string();
    if text.contains("metadata.name") {
        "name affinity".to_owned()
    } else if spec.node_selector.as_ref().is_some_and(|selector| selector.contains_key("kubernetes.io/hostname")) {
        "hostname selector".to_owned()
    } else {
        "without a pin".to_owned()
    }
}

/// Makes the Node of an aspect.
async fn node(scope: &Scope, number: usize, aspect: &Aspect) -> Result<SimulatedNode> {
    let node = scope.simulated_node(&format!("aspect-{number}"), &[]).await?;
    let nodes: Api<Node> = scope.all();
    if aspect.node != json!({}) {
        nodes.patch(node.name(), &PatchParams::default(), &Patch::Merge(&aspect.node)).await?;
    }
    if aspect.status != json!({}) {
        nodes.patch_status(node.name(), &PatchParams::default(), &Patch::Strategic(&aspect.status)).await?;
        eventually("the node to be tainted", PATIENCE, async || {
            let node = nodes.get(node.name()).await?;
            Ok(node.spec.and_then(|spec| spec.taints).is_some_and(|taints| !taints.is_empty()).then_some(()))
        })
        .await?;
    }
    Ok(node)
}

/// Where the Pods of an aspect want to go.
struct Place {
    name: String,
    /// Lives as long as this.
    _node: Option<SimulatedNode>,
}

/// Makes the class of an aspect.
async fn class(scope: &Scope, number: usize, aspect: &Aspect) -> Result<String> {
    let name = scope.unique(&format!("aspect-{number}"));
    let mut class = objects::with(objects::class(&name, PROVISIONER), &aspect.class);
    if aspect.full {
        // Publishes capacities, and has published none.
        let driver = format!("{name}.latebind.dev");
        scope
            .create::<CSIDriver>(json!({"metadata": {"name": driver}, "spec": {
                "storageCapacity": true, "attachRequired": false}}))
            .await?;
        class["provisioner"] = json!(driver);
    }
    scope.create::<StorageClass>(class).await?;
    Ok(name)
}

async fn second_namespace(scope: &Scope) -> Result<String> {
    let name = scope.unique("without-latebind");
    let labels = json!({"latebind.dev/webhook": "disabled"});
    scope.create::<Namespace>(json!({"metadata": {"name": name, "labels": labels}})).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(scope.client(), &name);
    eventually("the namespace's account", PATIENCE, async || Ok(accounts.get_opt("default").await?.map(drop))).await?;
    Ok(name)
}

struct Row {
    text: String,
    trouble: Option<String>,
}

pub async fn no_pod_is_worse_off(scope: &Scope) -> Result<()> {
    let installed = Installed::start(scope.cluster()?, PinStyle::Auto).await?;
    let _provisioner = Provisioner::start(scope.client());
    let without = second_namespace(scope).await?;
    let aspects = aspects();
    let made = futures::stream::iter(aspects.iter().enumerate())
        .map(|(number, aspect)| async move {
            let node = if aspect.missing {
                Place { name: scope.unique("missing"), _node: None }
            } else {
                let node = node(scope, number, aspect).await.with_context(|| aspect.name)?;
                Place { name: node.name().to_owned(), _node: Some(node) }
            };
            Ok((node, class(scope, number, aspect).await?))
        })
        .buffered(10)
        .collect::<Vec<Result<(Place, String)>>>()
        .await;
    let (nodes, classes): (Vec<_>, Vec<_>) = made.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let probe = Case {
        aspect: &aspects[0],
        by: By::Ephemeral,
        node: &nodes[0].name,
        class: &classes[0],
        name: "probe".to_owned(),
        claims: scope.api(),
        pods: scope.api(),
        volumes: scope.all(),
    };
    is_called(&scope.api(), &serde_json::from_value(probe.pod())?).await?;
    // The Pods of a missing node are deleted after a minute, so those begin.
    let mut order: Vec<_> = aspects.iter().enumerate().collect();
    order.sort_by_key(|(number, aspect)| (!aspect.missing, *number));
    let cases = order.into_iter().flat_map(|(number, aspect)| {
        [By::Delayed, By::Ephemeral, By::Bound]
            .into_iter()
            .enumerate()
            .map(move |(index, by)| (number, aspect, index, by))
    });
    let mut rows: Vec<(usize, usize, Row)> = futures::stream::iter(cases)
        .map(|(number, aspect, index, by)| {
            let (nodes, classes, without) = (&nodes, &classes, &without);
            async move {
                let case = |namespace: &str| Case {
                    aspect,
                    by,
                    node: &nodes[number].name,
                    class: &classes[number],
                    name: format!("case-{number}-{index}"),
                    claims: Api::namespaced(scope.client(), namespace),
                    pods: Api::namespaced(scope.client(), namespace),
                    volumes: scope.all(),
                };
                let row = Box::pin(compare(&case(scope.namespace()), &case(without), aspect.expected[index])).await;
                row.with_context(|| format!("{} {by:?}", aspect.name)).map(|row| (number, index, row))
            }
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    rows.sort_by_key(|(number, index, _)| (*number, *index));
    let text: String = rows.iter().map(|(_, _, row)| row.text.as_str()).collect();
    let trouble: Vec<&str> = rows.iter().filter_map(|(_, _, row)| row.trouble.as_deref()).collect();
    installed.remove().await?;
    ensure!(trouble.is_empty(), "{}\n{text}", trouble.join("\n"));
    write(&text)
}

async fn compare(with: &Case<'_>, without: &Case<'_>, expected: Expected) -> Result<Row> {
    let runs_anyway = with.by == By::Bound || with.aspect.missing || with.aspect.name.contains("no container mounts");
    let patience = |runs: bool| if runs { PATIENCE } else { WATCHED };
    let end = expected.1;
    let settles = matches!(end, "runs" | "deleted");
    let (with_story, without_story) =
        tokio::try_join!(with.play(end, patience(settles)), without.play(end, patience(runs_anyway && settles)))?;
    let mut trouble = Vec::new();
    if (with_story.becomes.as_str(), with_story.ends.as_str()) != expected {
        trouble.push(format!("{expected:?} was expected, not {:?}", (&with_story.becomes, &with_story.ends)));
    }
    if without_story.ends == "runs" && with_story.ends != "runs" {
        trouble.push(format!("worse off: it {} and ran without", with_story.ends));
    }
    if !matches!(without_story.becomes.as_str(), "kept" | "refused") {
        trouble.push(format!("{} without latebind", without_story.becomes));
    }
    let by = match with.by {
        By::Delayed => "claim that waits",
        By::Ephemeral => "ephemeral volume",
        By::Bound => "bound claim",
    };
    let mut text = String::new();
    writeln!(
        text,
        "| {} | {by} | {} | {} | {} |",
        with.aspect.name, with_story.becomes, with_story.ends, without_story.ends
    )?;
    let trouble = (!trouble.is_empty()).then(|| format!("{} ({by}): {}", with.aspect.name, trouble.join("; ")));
    Ok(Row { text, trouble })
}

fn write(rows: &str) -> Result<()> {
    if std::env::var_os("LATEBIND_UPDATE").is_none() {
        return Ok(());
    }
    let version = latebind_cluster::Version::from_env()?;
    let text = format!(
        "# What the scheduler knows and `nodeName` ignores\n\n\
         Written by `LATEBIND_UPDATE=1 cargo test --test aspects` on Kubernetes {version}. Each Pod names its node and is \
         created twice: in a namespace\nthat latebind leaves alone, and in one that it looks at. The nodes are simulated: a \
         Pod counts as running when it is on its node and\nits claim is bound. The rescue loop is not part of this: what \
         waits for its claim here is what it is for.\n\n\
         | aspect | volume | becomes at admission | ends, with latebind | ends, without |\n\
         | --- | --- | --- | --- | --- |\n{rows}"
    );
    // The default version's page has the plain name; others stand beside it.
    let name = version.suffix();
    Ok(std::fs::write(project_root().join(format!("docs/results/admission-aspects{name}.md")), text)?)
}
