//! What the cluster promises to tests, checked on a cluster.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use kube::api::{DeleteParams, ListParams};
use latebind_cluster::image::{self, Image};
use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::{
    Cluster, Component, NodeComponent, Options, Scope, Signal, eventually, holds_for, target_directory, tests,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut suite = Suite::new("cluster").control_plane(Options::audit);
    tests!(
        suite,
        Needs::ControlPlane,
        [
            a_simulated_node_stays_ready_beyond_the_grace_period,
            the_audit_log_shows_requests,
            a_client_can_act_as_somebody_else,
            a_test_that_dies_leaves_nothing_behind,
            what_a_killed_guard_leaves_is_removed_at_the_next_start,
        ]
    );
    suite.alone(Needs::ControlPlane, "every_component_is_killed_and_started_again", every_component);
    suite.alone(Needs::ControlPlane, "a_paused_api_server_answers_nothing", a_paused_api_server_answers_nothing);
    suite.alone(Needs::ControlPlane, "a_restarted_api_server_has_its_new_flags", new_flags);
    suite.alone(Needs::ControlPlane, "etcd_is_restored_to_what_was_saved", restored);
    tests!(
        suite,
        Needs::Nodes,
        [
            a_service_is_reached_from_pods_and_from_the_api_server,
            a_pod_can_be_executed_into_and_its_log_read,
            a_pod_reaches_the_api_server_with_its_token,
            what_a_pod_writes_to_a_host_path_stays_on_its_node,
            a_second_cluster_with_nodes_lives_beside_the_first,
            a_killed_start_with_nodes_leaves_nothing_behind,
            a_program_beside_the_control_plane_is_reached_from_this_host_and_from_pods,
            an_image_made_of_one_binary_runs_as_its_user,
        ]
    );
    suite.alone(Needs::Nodes, "a_node_that_loses_power_restarts_its_pods", power_cycle);
    suite.alone(Needs::Nodes, "a_disconnected_node_is_unreachable_while_its_pods_run_on", disconnected);
    suite.alone(Needs::Nodes, "pods_outlive_their_kubelet_and_runtime", pods_outlive);
    suite.run()
}

async fn restored(scope: &Scope) -> Result<()> {
    const BUMP: u64 = 1_000_000_000;
    let (cluster, maps) = (scope.cluster()?, scope.api::<ConfigMap>());
    let map = |name: &str| json!({ "metadata": { "name": name } });
    scope.create::<ConfigMap>(map("before")).await?;
    let directory = tempfile::tempdir()?;
    let backup = directory.path().join("backup.db");
    cluster.save_etcd(&backup).await?;
    for (round, bump) in [0, BUMP].into_iter().enumerate() {
        let after = format!("after-{round}");
        scope.create::<ConfigMap>(map(&after)).await?;
        maps.delete("before", &DeleteParams::default()).await?;
        cluster.restore_etcd(&backup, bump).await?;
        ensure!(maps.get_opt("before").await?.is_some(), "what was deleted after the snapshot is not there again");
        ensure!(maps.get_opt(&after).await?.is_none(), "what was made after the snapshot is still there");
        let version = maps.list(&ListParams::default()).await?.metadata.resource_version.context("a version")?;
        let raised = version.parse::<u64>()? > BUMP;
        ensure!(raised == (bump == BUMP), "version {version}, raised by {bump}");
    }
    Ok(())
}

fn pod(name: &str, node: &str, command: &str) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "name": name } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
                "command": ["sh", "-c", command],
            }],
        },
    })
}

async fn run(scope: &Scope, name: &str, node: &str, command: &str) -> Result<()> {
    scope.create::<Pod>(pod(name, node, command)).await?;
    scope.pod_phase(name, "Running", PATIENCE).await.map(drop)
}

async fn a_simulated_node_stays_ready_beyond_the_grace_period(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    // The control plane gives up on a silent node after 50 s.
    let taints = holds_for("the number of the node's taints", Duration::from_secs(70), async || {
        let node = scope.all::<Node>().get(node.name()).await?;
        Ok(node.spec.and_then(|spec| spec.taints).unwrap_or_default().len())
    });
    ensure!(taints.await? == 0, "it is tainted");
    Ok(())
}

async fn the_audit_log_shows_requests(scope: &Scope) -> Result<()> {
    let log = scope.cluster()?.audit_log()?;
    let created = |event: &Value| event["verb"] == "create" && event["objectRef"]["resource"] == "namespaces";
    ensure!(log.iter().any(created), "no creation of a namespace among {} events", log.len());
    Ok(())
}

async fn a_client_can_act_as_somebody_else(scope: &Scope) -> Result<()> {
    let client = scope.cluster()?.client_as("alice", &["visitors"]).await?;
    let refused = kube::Api::<Pod>::namespaced(client, scope.namespace()).list(&ListParams::default()).await;
    let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(text.contains("alice"), "not refused as alice: {text}");
    Ok(())
}

async fn a_program_beside_the_control_plane_is_reached_from_this_host_and_from_pods(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let directory = cluster.directory().join("served");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("index.html"), "served")?;
    let argv = ["/bin/busybox", "httpd", "-f", "-p", "8099", "-h", &directory.display().to_string()];
    cluster.start_process("httpd", &argv, &[]).await?;
    let url = format!("http://{}:8099/", cluster.process_address()?);
    eventually("this host to be answered", PATIENCE, async || {
        let output = Command::new("/bin/busybox").args(["wget", "-qO-", &url]).output()?;
        Ok((output.stdout == b"served").then_some(()))
    })
    .await?;
    run(scope, "client", "node-b", "sleep infinity").await?;
    let answer = scope.kubectl(&["exec", "client", "--", "timeout", "5", "wget", "-qO-", &url]).await?.success()?;
    ensure!(answer == "served", "a Pod got {answer}");
    cluster.signal_process("httpd", Signal::Kill).await?;
    let ended = cluster.wait_for_process("httpd").await?;
    ensure!(ended == "killed by signal 9", "{ended}");
    Ok(())
}

async fn an_image_made_of_one_binary_runs_as_its_user(scope: &Scope) -> Result<()> {
    let (cluster, name) = (scope.cluster()?, "localhost/one-binary:1");
    let archive = cluster.directory().join("one-binary.tar");
    let entrypoint = ["/bin/busybox", "sleep", "infinity"];
    let image = Image::new(name).file("bin/busybox", "/bin/busybox").entrypoint(&entrypoint).user(65532);
    image::archive(&[image], &archive)?;
    cluster.node("node-b")?.import(&archive).await?;
    let mut wanted = pod("pod", "node-b", "");
    wanted["spec"]["containers"][0] = json!({
        "name": "main", "image": name, "imagePullPolicy": "Never", "securityContext": { "runAsNonRoot": true },
    });
    scope.create::<Pod>(wanted).await?;
    scope.pod_phase("pod", "Running", PATIENCE).await?;
    let user = scope.kubectl(&["exec", "pod", "--", "/bin/busybox", "id", "-u"]).await?.success()?;
    ensure!(user.trim() == "65532", "it runs as {user}");
    Ok(())
}

async fn every_component(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    for component in [Component::Scheduler, Component::ControllerManager, Component::ApiServer, Component::Etcd] {
        cluster.kill(component).await?;
        cluster.start_component(component).await?;
        cluster.ready(PATIENCE).await.with_context(|| format!("after killing {}", component.name()))?;
    }
    // All of them together still bring a Pod to a node.
    let node = scope.simulated_node("node", &[]).await?;
    let mut wanted = pod("pod", node.name(), "true");
    wanted["spec"]["nodeName"] = Value::Null;
    scope.create::<Pod>(wanted).await?;
    eventually("the Pod to be scheduled", PATIENCE, async || {
        Ok(scope.pod("pod").await?.spec.and_then(|spec| spec.node_name).map(drop))
    })
    .await
}

async fn a_paused_api_server_answers_nothing(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    cluster.pause(Component::ApiServer).await?;
    let silent = cluster.ready(Duration::from_secs(3)).await;
    cluster.resume(Component::ApiServer).await?;
    ensure!(silent.is_err(), "it answered");
    cluster.ready(PATIENCE).await
}

async fn new_flags(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let plugins = "--enable-admission-plugins=NodeRestriction,AlwaysPullImages";
    cluster.reconfigure(|options| options.api_server_flag(plugins))?;
    cluster.restart(Component::ApiServer).await?;
    let created: Pod = scope.create(pod("pod", "nowhere", "true")).await?;
    let policy = created.spec.and_then(|spec| spec.containers.into_iter().next()).and_then(|it| it.image_pull_policy);
    cluster.reconfigure(|options| options.api_server_flag("--enable-admission-plugins=NodeRestriction"))?;
    cluster.restart(Component::ApiServer).await?;
    ensure!(policy.as_deref() == Some("Always"), "the plugin does not act: {policy:?}");
    Ok(())
}

async fn a_service_is_reached_from_pods_and_from_the_api_server(scope: &Scope) -> Result<()> {
    run(scope, "server", "node-a", "echo it works > /tmp/index.html; exec httpd -f -p 8080 -h /tmp").await?;
    let spec = json!({ "selector": { "name": "server" }, "ports": [{ "port": 80, "targetPort": 8080 }] });
    let service: Service = scope.create(json!({ "metadata": { "name": "service" }, "spec": spec })).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("cluster IP")?;
    for node in ["node-a", "node-b"] {
        let name = format!("client-{node}");
        run(scope, &name, node, "sleep infinity").await?;
        eventually(&format!("the Service to answer on {node}"), PATIENCE, async || {
            let url = format!("http://{address}/");
            // Debian's static wget crashes on its own option -T.
            let asked = scope.kubectl(&["exec", &name, "--", "timeout", "2", "wget", "-qO-", &url]).await?;
            ensure!(asked.stdout.trim() == "it works", "{asked:?}");
            Ok(Some(()))
        })
        .await?;
    }
    let path = format!("/api/v1/namespaces/{}/services/service/proxy/", scope.namespace());
    let answer = scope.kubectl(&["get", "--raw", &path]).await?.success()?;
    ensure!(answer.trim() == "it works", "through the API server: {answer}");
    Ok(())
}

async fn a_pod_can_be_executed_into_and_its_log_read(scope: &Scope) -> Result<()> {
    run(scope, "pod", "node-a", "echo spoken; sleep infinity").await?;
    let output = scope.kubectl(&["exec", "pod", "--", "sh", "-c", "hostname"]).await?.success()?;
    ensure!(output.trim() == "pod", "{output}");
    let log = scope.kubectl(&["logs", "pod"]).await?.success()?;
    ensure!(log.trim() == "spoken", "{log}");
    Ok(())
}

/// By its Service address, over a certificate that the Pod's own CA file verifies.
async fn a_pod_reaches_the_api_server_with_its_token(scope: &Scope) -> Result<()> {
    let kubectl = scope.cluster()?.binaries().path("kubectl");
    let mut with_kubectl = pod("pod", "node-b", "sleep infinity");
    with_kubectl["spec"]["volumes"] = json!([{ "name": "tool", "hostPath": { "path": kubectl, "type": "File" } }]);
    with_kubectl["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "tool", "mountPath": "/kubectl" }]);
    scope.create::<Pod>(with_kubectl).await?;
    scope.pod_phase("pod", "Running", PATIENCE).await?;
    let asked = scope.kubectl(&[
        "exec",
        "pod",
        "--",
        "/kubectl",
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ]);
    let user = asked.await?.success()?;
    ensure!(user == format!("system:serviceaccount:{}:default", scope.namespace()), "{user}");
    Ok(())
}

async fn what_a_pod_writes_to_a_host_path_stays_on_its_node(scope: &Scope) -> Result<()> {
    for (name, above) in [("opt", "/opt"), ("var", "/var")] {
        stays_on_its_node(scope, name, &format!("{above}/{}", scope.namespace())).await?;
    }
    Ok(())
}

async fn stays_on_its_node(scope: &Scope, name: &str, directory: &str) -> Result<()> {
    let mut writer = pod(name, "node-a", "echo kept > /data/file; sleep infinity");
    writer["spec"]["volumes"] =
        json!([{ "name": "data", "hostPath": { "path": directory, "type": "DirectoryOrCreate" } }]);
    writer["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    scope.create::<Pod>(writer).await?;
    let file = format!("{directory}/file");
    eventually("the file on the node", PATIENCE, async || {
        let output = scope.cluster()?.node("node-a")?.run(&["cat", &file]).await?;
        Ok((output.stdout.trim() == "kept").then_some(()))
    })
    .await?;
    ensure!(!Path::new(directory).exists(), "{directory} is on the host too");
    let other = scope.cluster()?.node("node-b")?.run(&["ls", directory]).await?;
    ensure!(other.code != Some(0), "{directory} is on the other node too");
    Ok(())
}

async fn power_cycle(scope: &Scope) -> Result<()> {
    let node = scope.cluster()?.node("node-a")?;
    run(scope, "pod", "node-a", "sleep infinity").await?;
    node.shell("echo kept > /opt/after-power-cycle").await?;
    node.power_off().await?;
    ensure!(node.run(&["true"]).await.is_err(), "it still runs commands");
    node.power_on().await?;
    ensure!(node.shell("cat /opt/after-power-cycle").await?.trim() == "kept", "its disk was lost");
    eventually("the Pod to have been restarted", PATIENCE, async || {
        let statuses = scope.pod("pod").await?.status.and_then(|status| status.container_statuses).unwrap_or_default();
        Ok(statuses.iter().any(|status| status.restart_count > 0 && status.ready).then_some(()))
    })
    .await
}

async fn disconnected(scope: &Scope) -> Result<()> {
    let node = scope.cluster()?.node("node-b")?;
    run(scope, "pod", "node-b", "while true; do date +%s > /tmp/now; sleep 0.2; done").await?;
    node.disconnect().await?;
    let asked = scope.kubectl(&["exec", "--request-timeout=3s", "pod", "--", "true"]).await?;
    let processes = node.shell("pgrep -f '[t]mp/now'").await;
    node.connect().await?;
    ensure!(asked.code != Some(0), "it was reached");
    ensure!(processes.is_ok(), "the Pod stopped: {processes:?}");
    eventually("the node to be reached again", PATIENCE, async || {
        Ok((scope.kubectl(&["exec", "pod", "--", "true"]).await?.code == Some(0)).then_some(()))
    })
    .await
}

async fn pods_outlive(scope: &Scope) -> Result<()> {
    let node = scope.cluster()?.node("node-a")?;
    run(scope, "pod", "node-a", "echo $$ > /tmp/self; exec sleep 98765").await?;
    let before = node.shell("pgrep -f 'sleep 9876[5]'").await?;
    for component in [NodeComponent::Kubelet, NodeComponent::Containerd, NodeComponent::KubeProxy] {
        node.kill(component).await?;
    }
    for component in [NodeComponent::Containerd, NodeComponent::Kubelet, NodeComponent::KubeProxy] {
        node.start(component).await?;
    }
    eventually("the kubelet to answer again", PATIENCE, async || {
        Ok((scope.kubectl(&["exec", "pod", "--", "true"]).await?.code == Some(0)).then_some(()))
    })
    .await?;
    let after = node.shell("pgrep -f 'sleep 9876[5]'").await?;
    ensure!(before == after, "the container was restarted: {before} {after}");
    Ok(())
}

async fn a_second_cluster_with_nodes_lives_beside_the_first(scope: &Scope) -> Result<()> {
    let second = Cluster::start(Options::new("second").nodes(1)).await?;
    let pods = kube::Api::<Pod>::namespaced(second.client(), "default");
    let wanted = serde_json::from_value(pod("pod", "node-a", "sleep infinity"))?;
    pods.create(&kube::api::PostParams::default(), &wanted).await?;
    eventually("a Pod of the second cluster to run", PATIENCE, async || {
        let phase = pods.get("pod").await?.status.and_then(|status| status.phase);
        Ok((phase.as_deref() == Some("Running")).then_some(()))
    })
    .await?;
    let directory = second.directory().to_path_buf();
    second.shut_down().await?;
    gone(&directory).await?;
    scope.cluster()?.ready(PATIENCE).await
}

/// Starts a cluster in another process, which is killed when `after` exists in the cluster's directory.
async fn start_and_kill(name: &str, nodes: &str, after: &str) -> Result<()> {
    let mut starter = Command::new(env!("CARGO_BIN_EXE_latebind-cluster"));
    starter.args(["up", "--name", name, "--nodes", nodes]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut starter = starter.spawn()?;
    let sign = directory(name).join(after);
    eventually("the cluster to be half way up", PATIENCE, async || Ok(sign.exists().then_some(()))).await?;
    // SIGKILL: nothing in the process has a chance to clean up.
    starter.kill()?;
    starter.wait()?;
    Ok(())
}

fn directory(name: &str) -> std::path::PathBuf {
    target_directory().join("cluster").join(name)
}

async fn a_test_that_dies_leaves_nothing_behind(_: &Scope) -> Result<()> {
    start_and_kill("killed", "0", "logs/kube-apiserver.log").await?;
    gone(&directory("killed")).await
}

async fn a_killed_start_with_nodes_leaves_nothing_behind(_: &Scope) -> Result<()> {
    start_and_kill("killed-nodes", "1", "nodes/node-a/containerd").await?;
    gone(&directory("killed-nodes")).await
}

async fn what_a_killed_guard_leaves_is_removed_at_the_next_start(_: &Scope) -> Result<()> {
    let directory = directory("orphan");
    let cluster = Cluster::start_lasting(Options::new("orphan")).await?;
    let guard = fs::read_to_string(directory.join("guard.pid"))?;
    ensure!(Command::new("kill").args(["-KILL", guard.trim()]).status()?.success(), "no guard to kill");
    drop(cluster);
    eventually("the components to die with their guard", PATIENCE, async || {
        Ok(processes(&directory)?.is_empty().then_some(()))
    })
    .await?;
    ensure!(directory.exists(), "who removed it?");
    Cluster::start(Options::new("next")).await?.shut_down().await?;
    gone(&directory).await
}

/// Checks that nothing on this machine tells of the cluster any more.
async fn gone(directory: &Path) -> Result<()> {
    eventually("every trace of the cluster to be gone", PATIENCE, async || {
        let left = processes(directory)?;
        let cgroups = fs::read_to_string("/proc/self/mountinfo")?.contains(&directory.display().to_string());
        Ok((left.is_empty() && !cgroups && !directory.exists()).then_some(()))
    })
    .await
}

/// The command lines that mention the directory.
fn processes(directory: &Path) -> Result<Vec<String>> {
    let needle = format!("{}/", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&needle) {
            found.push(line);
        }
    }
    Ok(found)
}
