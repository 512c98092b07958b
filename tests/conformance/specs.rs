//! Builds the suite, gives it its images and a definition of latebind as a driver, runs it, and holds the outcome against what is known.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use latebind_cluster::image::{self, Image};
use latebind_cluster::{Cluster, Scope, Version, project_root, storage_suite};
use serde_json::{Value, json};

use super::page;
use super::report::{Report, Spec};

/// The image that the manifest names, built from this tree.
const LATEBIND: &str = "ghcr.io/latebind/latebind:0.1.0";
/// The image that the spec of volume populators deploys. Its name and version are in that spec's manifests.
const POPULATOR: &str = "registry.k8s.io/sig-storage/hello-populator:v1.0.1";
/// The pool that the manifest makes.
const POOL: &str = "latebind-local";
/// Specs mostly wait for Pods: this many at a time keep two cores busy.
const SIDE_BY_SIDE: &str = "--procs=8";

/// A spec that fails, and why.
pub struct Known {
    /// The end of its text.
    pub spec: &'static str,
    /// Why it cannot pass.
    pub why: &'static str,
}

/// All that may fail. One that passes all the same is to be taken out.
pub const KNOWN: [Known; 1] = [Known {
    spec: "should mount multiple PV pointing to the same storage on the same node",
    why: "it makes PersistentVolumes of its own from the first one's source, of type `local` and without a node affinity, which the API \
          server refuses",
}];

/// The specs that apply, side by side and one at a time: what is skipped must not become more in silence.
const APPLY: (usize, usize) = (41, 3);

/// One run of the suite's specs.
struct Run {
    name: &'static str,
    selection: &'static [&'static str],
}

/// Restarting a node's kubelet over SSH, which `Disruptive` specs do, is not possible on these nodes.
const RUNS: [Run; 2] = [
    Run {
        name: "parallel",
        selection: &[SIDE_BY_SIDE, "--focus=External.Storage", r"--skip=\[Disruptive\]|\[Serial\]"],
    },
    Run {
        name: "serial",
        selection: &["--procs=1", r"--focus=External.Storage.*\[Serial\]", r"--skip=\[Disruptive\]"],
    },
];

pub async fn all_that_apply_pass_but_those_that_cannot(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let version = cluster.binaries().version();
    ensure!(
        version == Version::DEFAULT,
        "the suite is that of Kubernetes {}, and cannot judge {version}: unset KUBE_VERSION",
        Version::DEFAULT
    );
    let programs = tokio::task::spawn_blocking(storage_suite).await??;
    let directory = cluster.directory().join("conformance");
    fs::create_dir(&directory)?;
    // ginkgo takes nothing for a suite that is not called so, and writes beside it.
    let suite = directory.join("e2e.test");
    symlink(programs.join("suite"), &suite)?;
    give_images(cluster, &programs, &suite, &directory).await?;
    install(cluster).await?;
    let driver = write_driver(&directory)?;
    let mut reports = Vec::new();
    for run in &RUNS {
        reports.push(specs(cluster, run, &programs, &suite, &driver).await?);
    }
    let (parallel, serial) = (&reports[0], &reports[1]);
    let known = KNOWN.iter().map(|known| known.spec);
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        page::write(&release(cluster).await?, parallel, serial)?;
    }
    let failed: BTreeSet<&str> = reports.iter().flat_map(Report::failed).map(|spec| spec.text.as_str()).collect();
    let told: Vec<String> = reports.iter().flat_map(Report::failed).map(Spec::complaint).collect();
    ensure!(
        failed == known.collect(),
        "not those that are known to fail did; all that ginkgo printed is beside the other logs:\n{}",
        told.join("\n")
    );
    let applied = (parallel.applied(), serial.applied());
    ensure!(applied == APPLY, "{applied:?} specs applied, side by side and one at a time, and not {APPLY:?}");
    left_nothing(scope).await
}

/// `v1.37.2`, as the API server says.
async fn release(cluster: &Cluster) -> Result<String> {
    Ok(cluster.client().apiserver_version().await?.git_version)
}

/// Runs specs to their end, whether they pass or not.
async fn specs(cluster: &Cluster, run: &Run, programs: &Path, suite: &Path, driver: &Path) -> Result<Report> {
    let directory = suite.parent().context("a directory")?;
    let (name, file) = (format!("conformance-{}", run.name), format!("{}.json", run.name));
    let path = |path: &Path| path.display().to_string();
    let own = [
        path(&programs.join("ginkgo")),
        "--no-color".to_owned(),
        "--keep-going".to_owned(),
        "--timeout=25m".to_owned(),
        format!("--json-report={file}"),
        format!("--output-dir={}", path(directory)),
    ];
    let theirs = [
        path(suite),
        "--".to_owned(),
        format!("--storage.testdriver={}", path(driver)),
        format!("--kubeconfig={}", path(cluster.kubeconfig())),
        format!("--kubectl-path={}", path(&cluster.binaries().path("kubectl"))),
        "--provider=local".to_owned(),
        "--num-nodes=2".to_owned(),
        "--dump-logs-on-failure=false".to_owned(),
    ];
    let selection = run.selection.iter().map(|&word| word.to_owned());
    let argv: Vec<String> = own.into_iter().chain(selection).chain(theirs).collect();
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    cluster.start_process(&name, &argv, &[]).await?;
    let ended = cluster.wait_for_process(&name).await?;
    let report = directory.join(file);
    let text = fs::read(&report)
        .with_context(|| format!("{} wrote no report and {ended}: {}", name, last_of(cluster, &name)))?;
    Report::parse(&text)
}

fn last_of(cluster: &Cluster, name: &str) -> String {
    let log = cluster.log(name).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Brings the images that the specs' Pods name to every node, made here of what was built here.
async fn give_images(cluster: &Cluster, programs: &Path, suite: &Path, directory: &Path) -> Result<()> {
    let suite = suite.display().to_string();
    let listed =
        cluster.run(&[suite.as_str(), "--list-images"]).await?.success().context("listing the suite's images")?;
    let mut images = vec![
        Image::new(POPULATOR).file("/hello-populator", programs.join("populator")).entrypoint(&["/hello-populator"]),
    ];
    for name in listed.lines() {
        let stem = name.rsplit('/').next().and_then(|last| last.split(':').next()).unwrap_or_default();
        match stem {
            // Its Pods run its shell as well as itself.
            "agnhost" => images.push(
                Image::new(name)
                    .busybox()?
                    .file("/agnhost", programs.join("agnhost"))
                    .entrypoint(&["/agnhost"])
                    .command(&["pause"]),
            ),
            // Of these the specs want a shell and its commands.
            "busybox" | "nginx" | "glibc-dns-testing" => images.push(Image::new(name).busybox()?.command(&["/bin/sh"])),
            _ => {}
        }
    }
    let archive = directory.join("images.tar");
    image::archive(&images, &archive)?;
    for node in cluster.nodes() {
        node.import(&archive).await?;
    }
    Ok(fs::remove_file(archive)?)
}

/// latebind with local volumes, by the manifest as it is.
async fn install(cluster: &Cluster) -> Result<()> {
    let archive = tokio::task::spawn_blocking(|| image::latebind(LATEBIND)).await??;
    for node in cluster.nodes() {
        node.import(&archive).await?;
    }
    let manifest = project_root().join("webhook-manifests/provisioner.yaml").display().to_string();
    cluster.kubectl(&["apply", "-f", &manifest]).await?.success()?;
    for (namespace, workload) in [
        ("latebind-system", "deployment/latebind-controller"),
        ("latebind-system", "deployment/latebind-webhook"),
        ("latebind-agent", "daemonset/latebind-agent"),
    ] {
        let rollout = ["--namespace", namespace, "rollout", "status", "--timeout=120s", workload];
        cluster.kubectl(&rollout).await?.success().with_context(|| workload.to_owned())?;
    }
    Ok(())
}

/// latebind as a storage driver: what a class of ours promises, and what the suite therefore tests.
fn write_driver(directory: &Path) -> Result<PathBuf> {
    let (class, driver) = (directory.join("class.json"), directory.join("driver.json"));
    let provisioner = latebind::volumes::PROVISIONER;
    let definition = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": POOL },
        "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer", "parameters": { "pool": POOL },
    });
    fs::write(&class, definition.to_string())?;
    fs::write(&driver, definition_of(provisioner, &class).to_string())?;
    Ok(driver)
}

fn definition_of(provisioner: &str, class: &Path) -> Value {
    let capabilities = [
        "persistence",
        "exec",
        "multipods",
        "singleNodeVolume",
        "fsGroup",
        "readWriteOncePod",
        "topology",
        "capReadOnlyMany",
        "multiplePVsSameID",
    ];
    let capabilities: Value = capabilities.into_iter().map(|name| (name.to_owned(), json!(true))).collect();
    json!({
        "StorageClass": { "FromFile": class },
        "DriverInfo": {
            "Name": provisioner,
            "SupportedSizeRange": { "Min": "1Mi", "Max": "1Gi" },
            "SupportedFsType": { "": {} },
            "TopologyKeys": ["kubernetes.io/hostname"],
            "Capabilities": capabilities,
            "StressTestOptions": { "NumPods": 4, "NumRestarts": 4 },
        },
        // Else a spec waits 20 minutes for a volume that does not go.
        "Timeouts": { "PVDeleteSlow": Duration::from_secs(120).as_secs().to_string() + "s" },
    })
}

/// All that the specs made is gone: no volume, no object of ours, and no directory on a node.
async fn left_nothing(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    latebind_cluster::eventually("nothing to be left", Duration::from_secs(90), async || {
        let objects = cluster.kubectl(&["get", "persistentvolumes,localvolumes", "--output=name"]).await?.success()?;
        let mut left: Vec<String> = objects.lines().map(str::to_owned).collect();
        for node in cluster.nodes() {
            let script = "ls -d /var/lib/latebind/volumes/* /var/lib/latebind/volumes/.trash/* \
                          /var/lib/latebind/volumes/.latebind/volumes/* 2>/dev/null || true";
            left.extend(node.shell(script).await?.lines().map(|path| format!("{}:{path}", node.name())));
        }
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(Some(()))
    })
    .await
}
