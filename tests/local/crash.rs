//! kill -9, of controller and agent alike, while claims come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use latebind::crd::{LocalPool, LocalVolume};
use latebind_cluster::{Scope, eventually, project_root};
use latebind_test_support::numbers::Numbers;
use latebind_test_support::{objects, process};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use latebind_test_support::local::{install, path_of};

const PATIENCE: Duration = Duration::from_secs(180);

/// A process of ours, that is killed without a word.
pub struct Victim {
    child: Child,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    kubeconfig: PathBuf,
    log: PathBuf,
    lives: u32,
}

impl Victim {
    fn start(kubeconfig: &Path, log: &Path, part: &str, arguments: &[&str]) -> Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let environment = environment(part)?;
        let child = spawn((kubeconfig, log), &arguments, &environment, 0)?;
        Ok(Self { child, arguments, environment, kubeconfig: kubeconfig.to_owned(), log: log.to_owned(), lives: 0 })
    }

    /// A controller that provisions. `{life}` in an option is the number of times that it was killed.
    pub fn controller(kubeconfig: &Path, log: &Path, options: &[&str]) -> Result<Self> {
        let arguments = [
            "run",
            "--role=controller",
            "--provisioner=on",
            "--metrics-listen=127.0.0.1:0",
            "--lease-namespace=default",
        ];
        Self::start(kubeconfig, log, "controller", &[&arguments, options].concat())
    }

    /// The agent of a node, which may work beneath a directory.
    pub fn agent(kubeconfig: &Path, log: &Path, node: &str, allowed: &Path) -> Result<Self> {
        let allowed = allowed.to_str().context("a path in UTF-8")?;
        let arguments = ["--metrics-listen=127.0.0.1:0", "--node-name", node, "--base-path", allowed];
        Self::start(kubeconfig, log, "agent", &[&["run", "--role=agent"], &arguments[..]].concat())
    }

    /// An error with its log if it has ended.
    pub fn ensure_alive(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "it ended by itself: {}", fs::read_to_string(&self.log)?);
        Ok(())
    }

    fn kill_and_start_again(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait()?;
        self.start_next()
    }

    /// Its PID in this life.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How often it was started again.
    pub fn lives(&self) -> u32 {
        self.lives
    }

    /// Sends it a signal. An error with its log if it has ended by itself.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.ensure_alive()?;
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("a PID")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Starts it again when it has ended, as a signal told it: at once, unless a disk holds it in a system call.
    pub async fn start_again(&mut self) -> Result<()> {
        eventually("a process to end", PATIENCE, async || Ok(self.child.try_wait()?)).await?;
        self.start_next()
    }

    fn start_next(&mut self) -> Result<()> {
        self.lives += 1;
        self.child = spawn((&self.kubeconfig, &self.log), &self.arguments, &self.environment, self.lives)?;
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The variables that the chart gives to a part, such as for its heap.
fn environment(part: &str) -> Result<Vec<(String, String)>> {
    let rendered = project_root().join("webhook-manifests/provisioner.yaml");
    let text = fs::read_to_string(&rendered).with_context(|| rendered.display().to_string())?;
    let role = format!("--role={part}");
    let object = text.split("\n---\n").find(|object| object.contains(&role)).context("an object of the part")?;
    let fixed = |line: &str| {
        let (name, value) = line.trim().strip_prefix("- {name: ")?.strip_suffix('}')?.split_once(", value: ")?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    };
    let found: Vec<(String, String)> = object.lines().filter_map(fixed).collect();
    ensure!(found.iter().any(|(name, _)| name == "MALLOC_ARENA_MAX"), "{found:?}");
    Ok(found)
}

fn spawn(
    (kubeconfig, log): (&Path, &Path),
    arguments: &[String],
    environment: &[(String, String)],
    life: u32,
) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(log)?;
    let arguments = arguments.iter().map(|word| word.replace("{life}", &life.to_string()));
    let mut command = Command::new(process::under_test(env!("CARGO_BIN_EXE_latebind")));
    command.args(arguments).envs(environment.iter().cloned()).env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
    Ok(command.stdout(log.try_clone()?).stderr(log).spawn()?)
}

pub async fn everything_agrees_after_random_kills(scope: &Scope) -> Result<()> {
    let claims: u64 = if std::env::var_os("LATEBIND_LONG_TESTS").is_some() { 300 } else { 60 };
    install(&scope.client(), latebind::crd::definitions()).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let (base, class) = (directory.path().join("base"), scope.unique("class"));
    scope
        .create::<LocalPool>(json!({ "metadata": { "name": class },
            "spec": { "nodes": [{ "names": [node.name()], "paths": [{ "path": base }] }] } }))
        .await?;
    scope.create::<StorageClass>(objects::class(&class, "local.latebind.dev")).await?;
    let kubeconfig = scope.cluster()?.kubeconfig();
    let logs = [directory.path().join("controller.log"), directory.path().join("agent.log")];
    // The Lease of the dead would have to run out first; that is not what this is about.
    let lease = format!("--lease-name={class}-{{life}}");
    let mut victims = [
        Victim::controller(kubeconfig, &logs[0], &["--agent-patience=60s", &lease])?,
        Victim::agent(kubeconfig, &logs[1], node.name(), directory.path())?,
    ];

    let mut numbers = Numbers(claims);
    let mut kept = BTreeSet::new();
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for number in 0..claims {
        let name = format!("claim{number}");
        let claim = objects::selected(objects::claim(&name, &class, "1Mi"), node.name());
        scope.create::<PersistentVolumeClaim>(claim).await?;
        kept.insert(name);
        if numbers.below(3) == 0 {
            write_into_bound(scope, &mut files).await?;
        }
        if numbers.below(2) == 0 {
            let index = usize::try_from(numbers.below(kept.len() as u64))?;
            let chosen = kept.iter().nth(index).cloned().context("one is kept")?;
            scope.api::<PersistentVolumeClaim>().delete(&chosen, &DeleteParams::default()).await?;
            kept.remove(&chosen);
            files.remove(&chosen);
        }
        if numbers.below(4) == 0 {
            let which = usize::try_from(numbers.below(2))?;
            victims[which].kill_and_start_again()?;
        }
        // Not a wait for anything: the moment of the next kill is to be any.
        tokio::time::sleep(Duration::from_millis(numbers.below(120))).await;
    }
    let outcome = agree(scope, &base, &kept, &files).await;
    let lives = (victims[0].lives, victims[1].lives);
    drop(victims);
    outcome.with_context(|| {
        let tail = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().rev().take(20).collect::<Vec<_>>().join("\n")
        };
        format!("after {lives:?} kills\n{}\n{}", tail(&logs[0]), tail(&logs[1]))
    })?;
    ensure!(lives.0 > 2 && lives.1 > 2, "hardly ever killed: {lives:?}");
    for name in &kept {
        scope.api::<PersistentVolumeClaim>().delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}

/// Data goes into what is bound by now.
async fn write_into_bound(scope: &Scope, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let claims = scope.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
    for claim in claims {
        let (name, volume) = (claim.name_any(), claim.spec.and_then(|spec| spec.volume_name));
        let (Some(volume), None) = (volume, claim.metadata.deletion_timestamp) else { continue };
        if files.contains_key(&name) {
            continue;
        }
        let Some(volume) = scope.all::<PersistentVolume>().get_opt(&volume).await? else { continue };
        let file = path_of(&volume).join("data");
        fs::write(&file, &name).with_context(|| format!("{} of a bound claim", file.display()))?;
        files.insert(name, file);
    }
    Ok(())
}

/// Directories, markers, LocalVolumes, PersistentVolumes and claims name the same volumes, and no data is lost.
async fn agree(scope: &Scope, base: &Path, kept: &BTreeSet<String>, files: &BTreeMap<String, PathBuf>) -> Result<()> {
    for name in kept {
        scope.claim_phase(name, "Bound", PATIENCE).await?;
    }
    eventually("everything to agree", PATIENCE, async || {
        let claims = scope.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
        let uids: BTreeSet<String> = claims.iter().filter_map(|it| it.metadata.uid.clone()).collect();
        ensure!(uids.len() == kept.len(), "{} claims, not {}", uids.len(), kept.len());
        are_volumes_of(scope, base, &uids).await.map(Some)
    })
    .await?;
    for (name, file) in files {
        ensure!(fs::read_to_string(file)? == *name, "the data of {name} is lost");
    }
    Ok(())
}

/// The volumes beneath a base, as objects and on the disk, are those of the claims with these UIDs, and nothing is on its way.
pub async fn are_volumes_of(scope: &Scope, base: &Path, uids: &BTreeSet<String>) -> Result<()> {
    let volumes = scope.all::<PersistentVolume>().list(&ListParams::default()).await?;
    let ours = |it: &&PersistentVolume| path_of(it).starts_with(base);
    let volumes: BTreeSet<String> =
        volumes.iter().filter(ours).map(|it| it.name_any().replacen("pvc-", "", 1)).collect();
    let locals = scope.all::<LocalVolume>().list(&ListParams::default()).await?;
    let locals: BTreeSet<String> =
        locals.iter().filter(|it| Path::new(&it.spec.base) == base).map(|it| it.spec.claim.uid.clone()).collect();
    let names = |path: &str| -> Vec<String> {
        let entries = fs::read_dir(base.join(path)).into_iter().flatten().flatten();
        entries.map(|it| it.file_name().into_string().unwrap()).collect()
    };
    let directories: BTreeSet<String> = names("")
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .map(|name| name["pvc-".len()..].split('_').next().unwrap().to_owned())
        .collect();
    let markers: BTreeSet<String> = names(".latebind/volumes").into_iter().collect();
    for (what, found) in
        [("volumes", volumes), ("LocalVolumes", locals), ("directories", directories), ("markers", markers)]
    {
        ensure!(found == *uids, "{what} differ from claims: {:?}", found.symmetric_difference(uids));
    }
    let left = (names(".trash").len(), names(".latebind/new").len());
    ensure!(left == (0, 0), "trash and half-made: {left:?}");
    Ok(())
}
