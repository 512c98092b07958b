//! What the chart renders for local volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::VolumeMount;
use k8s_openapi::api::storage::v1::StorageClass;
use latebind::admission::metrics::AdmissionMetrics;
use latebind::agent::AgentMetrics;
use latebind::binding::Rules;
use latebind::controllers::lost_nodes::{LostNodes, LostNodesOptions};
use latebind::controllers::rescue;
use latebind::controllers::volumes::{self as provision, Provisioner};
use latebind::drain::lost::Patience;
use latebind::facts::live::{LiveCluster, WatchedPods};
use latebind::kubernetes::lease::{Contender, LeaseTerms};
use latebind::policy::RescuePolicy;
use latebind::runtime::metrics::ServerMetrics;
use latebind_cluster::{Scope, project_root};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use latebind_test_support::chart::{NAMESPACE, chart, helm, render};

const ON: [&str; 3] = ["--set=namespace.create=true", "--skip-tests", "--set=provisioner.enabled=true"];

/// The manifest for one command, as it must be.
pub fn provisioner() -> Result<String> {
    provisioner_with(&[])
}

/// The same with more settings.
pub fn provisioner_with(settings: &[&str]) -> Result<String> {
    let text = render(&[&ON[..], settings].concat())?;
    let head = "# Rendered from webhook-manifests/chart by `make update`; change the chart, not this file.\n\
                # All of install.yaml, and local volumes.\n";
    let lines = text.lines().filter(|line| !line.starts_with("# Source: "));
    Ok(format!("{head}{}\n", lines.collect::<Vec<_>>().join("\n").replace("managed-by: Helm", "managed-by: latebind")))
}

pub async fn the_rendered_manifest_is_current(_: &Scope) -> Result<()> {
    let (path, expected) = (project_root().join("webhook-manifests/provisioner.yaml"), provisioner()?);
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        std::fs::write(&path, &expected)?;
    }
    let actual = std::fs::read_to_string(&path)?;
    ensure!(
        actual == expected,
        "webhook-manifests/provisioner.yaml is not what the chart renders: LATEBIND_UPDATE=1 cargo test --test local"
    );
    Ok(())
}

pub async fn values_are_checked(_: &Scope) -> Result<()> {
    for wrong in [
        "provisioner.enable=true",
        "provisioner.adopt={kubernetes.io/no-provisioner}",
        "provisioner.adopt={local.latebind.dev}",
        "provisioner.adopt={a b}",
        "provisioner.acceptLost={everything}",
        "agent.mountPropagation=Bidirectional",
        "agent.nodeMounts=perhaps",
        "agent.nodeGroups[0].name=a",
        "provisioner.agentPatience=soon",
        "provisioner.pool.path=relative",
        "provisioner.pool.path=/",
        "provisioner.pool.path=/a/../b",
        "provisioner.storageClass.default=maybe",
        "provisioner.storageClass.reclaimPolicy=Recycle",
        "provisioner.storageClass.drainPolicy=Never",
        "webhook.drainGuard.enabled=maybe",
        "lostNodes.policy=Delete",
        "lostNodes.grace=soon",
        "lostNodes.mostPercent=101",
        "provisioner.storageClass.parameters.mode=rwx",
        "provisioner.storageClass.parameters.hostPathType=File",
        "provisioner.storageClass.parameters.pathPatern=x",
        "provisioner.storageClass.parameters.sharedOnNode=often",
        "provisioner.storageClass.parameters.adoptExisting=any",
        "agent.basePaths=null",
        "agent.basePaths={/}",
        "agent.basePaths={/a,/a}",
        "agent.unlinksPerSecond=0",
        "agent.removeOrphans=maybe",
        "provisioner.claimHook.enabled=often",
        "provisioner.claimHook.classes={A B}",
        "provisioner.claimHook.class=a",
        "provisioner.markBound=sometimes",
    ] {
        ensure!(render(&["--set", wrong]).is_err(), "{wrong} was accepted");
    }
    ensure!(!render(&[])?.contains("latebind-agent"), "off means that nothing of it is rendered");
    Ok(())
}

fn agents(settings: &[&str]) -> Result<Vec<DaemonSet>> {
    let text = render(&[&ON[..], settings].concat())?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let sets = documents.into_iter().filter(|object| object["kind"] == "DaemonSet");
    sets.map(|object| Ok(serde_json::from_value(object)?)).collect()
}

fn arguments(set: &DaemonSet) -> Vec<String> {
    let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    pod.and_then(|pod| pod.containers[0].args.clone()).unwrap_or_default()
}

/// Path in the container, path on the node and type of the mount.
fn mounted(set: &DaemonSet) -> Vec<(String, String, String)> {
    let Some(pod) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else { return Vec::new() };
    let volumes = pod.volumes.iter().flatten();
    let hosts = volumes.filter_map(|volume| Some((volume.name.clone(), volume.host_path.clone()?)));
    let hosts: BTreeMap<String, _> = hosts.collect();
    let mounts = pod.containers[0].volume_mounts.iter().flatten();
    let of = |mount: &VolumeMount| {
        let host = hosts.get(&mount.name)?;
        Some((mount.mount_path.clone(), host.path.clone(), host.type_.clone().unwrap_or_default()))
    };
    mounts.filter_map(of).collect()
}

fn triple(path: &str, kind: &str) -> (String, String, String) {
    (path.to_owned(), path.to_owned(), kind.to_owned())
}

/// Any name may be adopted, slashes at the end of a path mean nothing, and agents keep to nodes that have directories.
pub async fn what_is_adopted_and_where_agents_run_is_as_the_values_say(_: &Scope) -> Result<()> {
    let name = "cluster.local/prod-local-path-provisioner";
    let text =
        render(&[&ON[..], &[&format!("--set=provisioner.adopt={{{name},rancher.io/local-path-big}}")]].concat())?;
    ensure!(text.contains(&format!("--adopt={name}")) && text.contains("--adopt-config=local-path-config"), "{text}");
    ensure!(!text.contains("--accept-lost"), "nothing is accepted unasked");
    ensure!(
        !text.contains("--drain-guard") && !text.contains("drain-policy"),
        "the guard is on, and nothing has a policy"
    );
    let guarded = ["--set=provisioner.storageClass.drainPolicy=Wait", "--set=webhook.drainGuard.exemptGroups={ops}"];
    let guarded = render(&[&ON[..], &guarded].concat())?;
    ensure!(
        guarded.contains("latebind.dev/drain-policy: Wait") && guarded.contains("--drain-exempt-group=ops"),
        "{guarded}"
    );
    let deletes = "resources: [persistentvolumeclaims]\n    verbs: [create, delete]";
    ensure!(!text.contains("--lost-nodes") && !text.contains(deletes), "claims are let go by nobody unasked");
    let unbinds = render(&[&ON[..], &["--set=lostNodes.policy=Unbind", "--set=lostNodes.mostNodes=2"]].concat())?;
    for word in ["--lost-nodes=unbind", "--lost-node-grace=10m", "--most-lost-nodes=2", deletes] {
        ensure!(unbinds.contains(word), "{word} is not in {unbinds}");
    }
    let off = render(&[&ON[..], &["--set=webhook.drainGuard.enabled=false"]].concat())?;
    ensure!(off.contains("--drain-guard=off"), "{off}");
    let [plain] = &agents(&["--set=agent.basePaths={/opt/lpp/,/opt/lpp,/mnt/a//}"])?[..] else {
        bail!("one DaemonSet")
    };
    let expected = [triple("/opt/lpp", "DirectoryOrCreate"), triple("/mnt/a", "DirectoryOrCreate")];
    ensure!(mounted(plain) == expected, "{:?}", mounted(plain));
    let pod = plain.spec.as_ref().and_then(|spec| spec.template.spec.clone()).context("a Pod")?;
    ensure!(pod.node_selector.and_then(|labels| labels.get("kubernetes.io/os").cloned()).as_deref() == Some("linux"));
    Ok(())
}

/// Groups of nodes have base paths of their own, each node has one agent, and a path that a node lacks keeps none away.
pub async fn nodes_with_other_disks_have_agents_of_their_own(_: &Scope) -> Result<()> {
    let sets = agents(&[
        "--set=agent.basePaths={/var/lib/latebind,/mnt/a,/mnt/b}",
        "--set=agent.mountPaths={/mnt}",
        "--set=agent.nodeGroups[0].name=nvme",
        "--set=agent.nodeGroups[0].key=disk",
        "--set=agent.nodeGroups[0].values={nvme}",
        "--set=agent.nodeGroups[0].basePaths={/nvme}",
        "--set=agent.nodeGroups[1].name=bottlerocket",
        "--set=agent.nodeGroups[1].key=os-kind",
        "--set=agent.nodeGroups[1].values={bottlerocket}",
        "--set=agent.nodeGroups[1].basePaths={/mnt/local}",
    ])?;
    let [nvme, bottlerocket, rest] = &sets[..] else { bail!("{} DaemonSets", sets.len()) };
    ensure!(mounted(nvme) == [triple("/nvme", "DirectoryOrCreate")], "{:?}", mounted(nvme));
    ensure!(mounted(bottlerocket) == [triple("/mnt", "Directory")], "{:?}", mounted(bottlerocket));
    ensure!(
        arguments(bottlerocket).contains(&"--base-path=/mnt/local".to_owned()),
        "only what it was given is allowed"
    );
    ensure!(mounted(rest) == [triple("/var/lib/latebind", "DirectoryOrCreate"), triple("/mnt", "Directory")]);
    // Every node with any labels matches one of them.
    let node = |labels: Value| -> Result<latebind::model::Node> {
        Ok(serde_json::from_value(json!({ "metadata": { "name": "n", "labels": labels } }))?)
    };
    for (labels, expected) in [
        (json!({}), Some(2)),
        (json!({ "disk": "nvme" }), Some(0)),
        (json!({ "disk": "nvme", "os-kind": "bottlerocket" }), Some(0)),
        (json!({ "os-kind": "bottlerocket", "disk": "hdd" }), Some(1)),
        (json!({ "type": "virtual-kubelet" }), None),
        (json!({ "eks.amazonaws.com/compute-type": "fargate" }), None),
    ] {
        let node = node(labels.clone())?;
        let fits = |set: &&DaemonSet| {
            let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
            let affinity = pod.and_then(|pod| pod.affinity.as_ref()).and_then(|it| it.node_affinity.as_ref());
            let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
            required.is_some_and(|required| latebind::model::selector::node_selector_matches(required, &node))
        };
        let places: Vec<usize> = (0..sets.len()).filter(|place| fits(&&sets[*place])).collect();
        ensure!(places == expected.into_iter().collect::<Vec<_>>(), "{labels}: {places:?}");
    }
    let propagation = |settings: &[&str]| -> Result<bool> {
        Ok(render(&[&ON[..], settings].concat())?.contains("mountPropagation: None"))
    };
    ensure!(propagation(&["--set=agent.mountPropagation=None"])? && !propagation(&[])?);
    Ok(())
}

/// Each variant goes to a real API server, which checks every field; what it does not know is an error.
pub async fn every_variant_renders_and_is_accepted(scope: &Scope) -> Result<()> {
    let everything = [
        "--set=provisioner.adopt={rancher.io/local-path,microk8s.io/hostpath}",
        "--set=provisioner.storageClass.default=true",
        "--set=provisioner.storageClass.reclaimPolicy=Retain",
        "--set=provisioner.storageClass.mountOptions={noatime}",
        "--set=provisioner.storageClass.allowedTopologies[0].matchLabelExpressions[0].key=zone",
        "--set=provisioner.storageClass.allowedTopologies[0].matchLabelExpressions[0].values={a}",
        "--set=provisioner.storageClass.parameters.onDelete=keep-path",
        "--set=provisioner.storageClass.parameters.adoptExisting=same-claim",
        "--set=provisioner.storageClass.parameters.adoptClusters=705ab4f5-6393-11e8-b7cc-42010a800002",
        "--set-string=provisioner.storageClass.parameters.sharedOnNode=true",
        "--set=provisioner.storageClass.parameters.pathPattern=\\{namespace\\}/\\{uid\\}",
        "--set=agent.basePaths={/mnt/disks,/var/lib/latebind}",
        "--set=agent.nodeSelector.disk=fast",
        "--set=agent.seLinuxOptions.type=spc_t",
        "--set=agent.removeOrphans=true",
        "--set=provisioner.claimHook.enabled=true",
        "--set=provisioner.claimHook.classes={a,b}",
        "--set=provisioner.markBound=true",
        "--set=provisioner.acceptLost={scripts}",
        "--set=agent.mountPropagation=None",
        "--set=agent.nodeMounts=true",
        "--set=agent.otherPaths={/srv/disks}",
        "--set=agent.mountPaths={/mnt,/srv/}",
        "--set=agent.nodeGroups[0].name=nvme",
        "--set=agent.nodeGroups[0].key=example.com/disk",
        "--set=agent.nodeGroups[0].values={nvme,ssd}",
        "--set=agent.nodeGroups[0].basePaths={/nvme/}",
        "--set=agent.nodeGroups[1].name=none",
        "--set=agent.nodeGroups[1].key=example.com/none",
        "--set=agent.nodeGroups[1].values={yes}",
        "--set=imagePullSecrets[0].name=registry",
    ];
    let text = render(&[&ON[..], &everything].concat())?;
    let plain = render(&ON)?;
    for said in [
        "--node-root=/proc/1/root",
        "hostPID: true",
        "SYS_PTRACE",
        "--remove-orphans",
        "--adopt=rancher.io/local-path",
        // The claim hook; another webhook, which is always there, has the same name.
        r#"in ["a","b"]"#,
        "--mark-bound",
        "persistentvolumes/status",
    ] {
        ensure!(text.contains(said), "no {said}");
    }
    for asked in ["hostPID", "SYS_PTRACE", "--remove-orphans", "--mark-bound", "persistentvolumes/status"] {
        ensure!(!plain.contains(asked), "{asked} although nobody asked for it");
    }
    let less = ["--set=provisioner.storageClass.create=false", "--set=provisioner.pool.create=false"];
    for variant in [&[][..], &everything, &less] {
        let text = render(&[&ON[..], variant].concat())?;
        // Namespaces that are not there yet refuse what is tried in them.
        let text = ["latebind-system", "latebind-agent"].into_iter().fold(text, |text, name| {
            text.replace(&format!("namespace: {name}\n"), &format!("namespace: {}\n", scope.namespace()))
        });
        let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = scope.cluster()?.kubectl_with_input(&arguments, &text).await?;
        // The agents' namespace is privileged, this test's is not named so.
        let warnings = output.stderr.lines().filter(|line| line.contains("Warning") && !line.contains("PodSecurity"));
        ensure!(warnings.count() == 0, "{variant:?}: {}", output.stderr);
        output.success()?;
    }
    Ok(())
}

/// The alerts of a rendered rule.
fn alerts(text: &str) -> Result<Vec<Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let rule = objects.into_iter().find(|object| object["kind"] == "PrometheusRule").context("a PrometheusRule")?;
    let groups = rule["spec"]["groups"].as_array().context("groups")?;
    Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
}

/// Names of ours in an expression.
fn named(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("latebind_"))
}

pub async fn alerts_are_about_metrics_that_there_are(scope: &Scope) -> Result<()> {
    let mut registry = Registry::with_prefix("latebind");
    ServerMetrics::default().register(&mut registry);
    AgentMetrics::default().register(&mut registry);
    let live = LiveCluster::new(WatchedPods::Pending);
    let options = rescue::RescueOptions {
        client: scope.client(),
        live: live.clone(),
        rules: Rules::default(),
        policy: RescuePolicy::default(),
        leadership: None,
        instance: "test".to_owned(),
    };
    // What is scraped is read from it, as long as it is there.
    let rescue = rescue::Rescue::new(options, &mut registry);
    let terms = LeaseTerms::new(NAMESPACE.to_owned(), "lease".to_owned(), "test".to_owned());
    Contender::new(scope.client(), terms).register(&mut registry);
    let patience = Patience { grace: Duration::ZERO, most_places: 1, most_percent: 10 };
    let (client, live_too) = (scope.client(), live.clone());
    let lost = LostNodesOptions {
        client,
        live: live_too,
        may_unbind: false,
        patience,
        policy: RescuePolicy::default(),
        leadership: None,
        instance: String::new(),
    };
    let lost = LostNodes::new(lost, &mut registry);
    let provisioner = Provisioner::new(scope.client(), live, provision::Options::default(), None, &mut registry);
    provisioner.register_watches(&mut registry);
    AdmissionMetrics::default().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    drop((rescue, lost));
    // A family is there from the beginning, its series from when there is something to say.
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter_map(|line| {
        let (name, kind) = line.split_once(' ')?;
        Some(if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
    });
    let exported: BTreeSet<String> = families.collect();
    let pages = project_root().join("docs/runbooks");
    let mut without_alert: BTreeSet<String> = std::fs::read_dir(&pages)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;

    let monitored = ["--set=metrics.serviceMonitor.enabled=true", "--set=metrics.prometheusRule.enabled=true"];
    let text = render(&[&ON[..], &monitored].concat())?;
    ensure!(text.contains("name: latebind-agent\n  namespace: latebind-system"), "nobody asks the agents");
    let alerts = alerts(&text)?;
    let mut about = BTreeSet::new();
    for alert in &alerts {
        let name = alert["alert"].as_str().context("a name")?;
        let expression = alert["expr"].as_str().with_context(|| format!("{name} has no expression"))?;
        ensure!(expression.matches('(').count() == expression.matches(')').count(), "{name}: {expression}");
        let page = alert["annotations"]["runbook_url"].as_str().with_context(|| format!("{name} has no runbook"))?;
        let page = page.rsplit('/').next().unwrap_or_default();
        ensure!(page == format!("{name}.md") && without_alert.remove(page), "{name}: no page docs/runbooks/{page}");
        for metric in named(expression) {
            ensure!(exported.contains(metric), "{name}: nobody exports {metric}");
            about.insert(metric);
        }
        let severity = alert["labels"]["severity"].as_str();
        ensure!(matches!(severity, Some("info" | "warning" | "critical")), "{name}: {severity:?}");
        for key in ["summary", "description"] {
            ensure!(alert["annotations"][key].as_str().is_some_and(|said| said.len() > 20), "{name} has no {key}");
        }
    }
    ensure!(without_alert.is_empty(), "pages about no alert: {without_alert:?}");
    for metric in [
        "latebind_leader",
        "latebind_panics_total",
        "latebind_agent_disks_hung",
        "latebind_agent_orphans",
        "latebind_agent_orphans_held",
        "latebind_agent_node_replaced",
    ] {
        ensure!(about.contains(metric), "no alert is about {metric}");
    }
    // Without local volumes nothing is said about them.
    let less = self::alerts(&render(&monitored)?)?;
    ensure!(
        !less.is_empty() && less.iter().all(|alert| !alert["expr"].as_str().unwrap_or_default().contains("_agent_"))
    );
    Ok(())
}

pub async fn a_second_default_class_is_refused(scope: &Scope) -> Result<()> {
    let first = scope.unique("first-default");
    let annotations = json!({ "storageclass.kubernetes.io/is-default-class": "true" });
    scope
        .create::<StorageClass>(json!({
            "metadata": { "name": first, "annotations": annotations }, "provisioner": "example.org/none" }))
        .await?;
    let attempt = || {
        let mut command = helm()?;
        command.args(["install", "latebind"]).arg(chart()).args(["--namespace", NAMESPACE, "--dry-run=server"]);
        command.args(["--set=provisioner.enabled=true", "--set=provisioner.storageClass.default=true"]);
        command.arg("--kubeconfig").arg(scope.cluster()?.kubeconfig());
        anyhow::Ok(command.output()?)
    };
    let output = attempt()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains(&first) && said.contains("default already"), "{said}");
    scope.all::<StorageClass>().delete(&first, &kube::api::DeleteParams::default()).await?;
    let output = attempt()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(String::from_utf8_lossy(&output.stdout).contains("is-default-class: \"true\""));
    Ok(())
}

pub async fn the_page_names_metrics_that_there_are(scope: &Scope) -> Result<()> {
    let mut registry = Registry::with_prefix("latebind");
    let live = LiveCluster::new(WatchedPods::Pending);
    let options = provision::Options::default();
    Provisioner::new(scope.client(), live, options, None, &mut registry).register_watches(&mut registry);
    AgentMetrics::default().register(&mut registry);
    let mut exported = String::new();
    prometheus_client::encoding::text::encode(&mut exported, &registry)?;
    let exported: BTreeSet<&str> =
        exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();

    let page = std::fs::read_to_string(latebind_cluster::project_root().join("docs/provisioner.md"))?;
    let (_, section) = page.split_once("## Metrics").context("a section about metrics")?;
    let (section, _) = section.split_once("\n## ").context("an end of it")?;
    let told: BTreeSet<&str> = named(section).map(|name| name.trim_end_matches("_total")).collect();
    let unknown: Vec<_> = told.difference(&exported).collect();
    ensure!(unknown.is_empty(), "nobody exports {unknown:?}");
    let untold: Vec<_> = exported.difference(&told).filter(|name| !name.starts_with("latebind_watch_")).collect();
    ensure!(untold.is_empty(), "the page does not tell of {untold:?}");
    Ok(())
}
