//! The harness of integration tests: one cluster for each tier in one process, tests side by side in namespaces.
//!
//! A test file has `harness = false` in `Cargo.toml` and a `main` that builds a [`Suite`] and returns [`Suite::run`].
//! What cannot run on this machine is skipped by name, loudly; with `CI=true` it fails.

use std::any::Any;
use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use kube::Client;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, RwLock, Semaphore, SemaphorePermit};

use crate::{Cluster, Options, Scope, guard, prerequisites};

/// How long a test may take, and how long in its long form, which `LATEBIND_LONG_TESTS` asks for.
const LIMITS: (Duration, Duration) = (Duration::from_secs(240), Duration::from_secs(1800));
/// Tests mostly wait; this many keep two cores busy.
const SIDE_BY_SIDE: usize = 12;

/// What a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// An API server with its controllers and scheduler, whosever it is: also the user's, with `LATEBIND_E2E=existing`.
    Api,
    /// A control plane of our own: the test reaches into it, or has it call a webhook on this host.
    ControlPlane,
    /// Real nodes.
    Nodes,
}

/// Whether tests that have a long form are to take it.
#[must_use]
pub fn long() -> bool {
    env::var_os("LATEBIND_LONG_TESTS").is_some()
}

type Body = Box<dyn FnOnce(&Runtime, &Scope) -> Result<()> + Send>;

struct Test {
    name: String,
    needs: Needs,
    alone: bool,
    body: Body,
}

/// The clusters of the tests with the same needs: one, unless tests that are to be alone have more to choose from.
struct Tier {
    options: Options,
    clusters: Vec<Shared>,
    /// Those that no test has for itself. The last is taken first: the first one may have tests side by side.
    free: (Semaphore, Mutex<Vec<usize>>),
}

/// A cluster that tests share, started by the first of them.
#[derive(Default)]
struct Shared {
    cell: OnceCell<Result<Arc<Cluster>, String>>,
    /// Read by tests side by side, written by a test that is to be alone.
    company: RwLock<()>,
}

/// The tests of one file.
pub struct Suite {
    control_plane: Options,
    nodes: Options,
    clusters: usize,
    tests: Vec<Test>,
}

impl Suite {
    /// An empty suite; `name` appears in the paths of its clusters' logs.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let control_plane = Options::new(&format!("{name}-control-plane"));
        Self { control_plane, nodes: Options::new(&format!("{name}-nodes")).nodes(2), clusters: 1, tests: Vec::new() }
    }

    /// Gives the tests that need nodes and must be alone so many clusters: as many of them run at a time, each alone on one.
    /// Such tests mostly wait, and a second cluster costs some ten seconds of one core.
    #[must_use]
    pub fn clusters_with_nodes(mut self, count: usize) -> Self {
        self.clusters = count.max(1);
        self
    }

    /// Changes the cluster of the tests that need no nodes.
    #[must_use]
    pub fn control_plane(mut self, change: impl FnOnce(Options) -> Options) -> Self {
        self.control_plane = change(self.control_plane);
        self
    }

    /// Changes the cluster of the tests that need nodes.
    #[must_use]
    pub fn nodes(mut self, change: impl FnOnce(Options) -> Options) -> Self {
        self.nodes = change(self.nodes);
        self
    }

    /// Adds a test that runs beside others. The macro [`crate::tests`] adds many.
    pub fn test(&mut self, needs: Needs, name: &str, body: impl AsyncFnOnce(&Scope) -> Result<()> + Send + 'static) {
        self.add((needs, false), name, limit(), body);
    }

    /// Adds a test that nothing else may run beside, since it hurts the cluster. It must leave it healthy.
    pub fn alone(&mut self, needs: Needs, name: &str, body: impl AsyncFnOnce(&Scope) -> Result<()> + Send + 'static) {
        self.add((needs, true), name, limit(), body);
    }

    /// The same for a test that takes as long as it is told to, and must have ended within a time of its own.
    pub fn alone_within(
        &mut self,
        needs: Needs,
        name: &str,
        limit: Duration,
        body: impl AsyncFnOnce(&Scope) -> Result<()> + Send + 'static,
    ) {
        self.add((needs, true), name, limit, body);
    }

    fn add(
        &mut self,
        (needs, alone): (Needs, bool),
        name: &str,
        limit: Duration,
        body: impl AsyncFnOnce(&Scope) -> Result<()> + Send + 'static,
    ) {
        let body: Body = Box::new(move |runtime, scope| {
            runtime.block_on(async { tokio::time::timeout(limit, body(scope)).await.context("it took too long")? })
        });
        let name = name.replace(' ', "");
        self.tests.push(Test { name, needs, alone, body });
    }

    /// Runs the tests that the command line selects, and removes the clusters.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Some(code) = guard::take_role() {
            return code;
        }
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(SIDE_BY_SIDE);
        let runtime = match Runtime::new() {
            Ok(runtime) => Arc::new(runtime),
            Err(error) => {
                eprintln!("no runtime: {error}");
                return ExitCode::FAILURE;
            }
        };
        let (own, real) = (tier(self.control_plane, 1), tier(self.nodes, self.clusters));
        let mut reasons = BTreeMap::new();
        let mut trials = Vec::new();
        for test in self.tests {
            let reason = reasons.entry(test.needs).or_insert_with(|| impossible(test.needs, arguments.list)).clone();
            let tier = Arc::clone(if test.needs == Needs::Nodes { &real } else { &own });
            trials.push(trial(test, reason, tier, Arc::clone(&runtime)));
        }
        let code = libtest_mimic::run(&arguments, trials).exit_code();
        let mut is_clean = true;
        for shared in [own, real].iter().flat_map(|tier| &tier.clusters) {
            if let Some(Ok(cluster)) = shared.cell.get()
                && let Err(error) = runtime.block_on(cluster.end())
            {
                eprintln!("removing the cluster: {error:#}");
                is_clean = false;
            }
        }
        if is_clean { code } else { ExitCode::FAILURE }
    }
}

/// How long a test may take that has no time of its own.
fn limit() -> Duration {
    if long() { LIMITS.1 } else { LIMITS.0 }
}

fn tier(options: Options, clusters: usize) -> Arc<Tier> {
    let free = (Semaphore::new(clusters), Mutex::new((0..clusters).collect()));
    Arc::new(Tier { options, clusters: (0..clusters).map(|_| Shared::default()).collect(), free })
}

/// A cluster that one test has for itself, given back when it ends.
struct Taken<'a> {
    place: usize,
    tier: &'a Tier,
    _permit: SemaphorePermit<'a>,
}

impl<'a> Taken<'a> {
    async fn from(tier: &'a Tier) -> Result<Self> {
        let permit = tier.free.0.acquire().await?;
        let place = tier.free.1.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Self { place: place.context("as many permits as clusters")?, tier, _permit: permit })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.tier.free.1.lock().unwrap_or_else(PoisonError::into_inner).push(self.place);
    }
}

/// Whether the user brings the cluster.
fn is_existing() -> bool {
    env::var("LATEBIND_E2E").is_ok_and(|value| value == "existing")
}

/// Why tests with these needs cannot run here.
fn impossible(needs: Needs, only_listing: bool) -> Option<String> {
    match (is_existing(), needs) {
        (true, Needs::Api) => return None,
        (true, _) => return Some("LATEBIND_E2E=existing runs only what any cluster can do".to_owned()),
        (false, _) => {}
    }
    let missing = || match needs {
        Needs::Nodes => prerequisites::missing_for_nodes(),
        Needs::Api | Needs::ControlPlane => prerequisites::missing_for_control_plane(),
    };
    let mut lacking = missing();
    if !lacking.is_empty() && !only_listing && prerequisites::install(&lacking).unwrap_or(false) {
        lacking = missing();
    }
    (!lacking.is_empty()).then(|| prerequisites::explain(&lacking))
}

fn trial(test: Test, reason: Option<String>, tier: Arc<Tier>, runtime: Arc<Runtime>) -> Trial {
    match reason {
        Some(reason) if env::var("CI").is_ok_and(|value| value == "true") => {
            Trial::test(test.name, move || Err(Failed::from(format!("it may not be skipped in CI: {reason}"))))
        }
        Some(reason) => {
            eprintln!("SKIPPED {}: {reason}", test.name);
            Trial::test(test.name, || Ok(())).with_ignored_flag(true)
        }
        None => Trial::test(test.name.clone(), move || {
            run_one(&runtime, &tier, &test.name, (test.needs, test.alone), test.body)
                .map_err(|error| Failed::from(format!("{error:#}")))
        }),
    }
}

fn run_one(runtime: &Runtime, tier: &Tier, name: &str, (needs, alone): (Needs, bool), body: Body) -> Result<()> {
    let taken = alone.then(|| runtime.block_on(Taken::from(tier))).transpose()?;
    let shared = &tier.clusters[taken.as_ref().map_or(0, |taken| taken.place)];
    let (_read, _written);
    if alone {
        _written = runtime.block_on(shared.company.write());
    } else {
        _read = runtime.block_on(shared.company.read());
    }
    let scope = runtime.block_on(open((tier, shared), needs))?;
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| body(runtime, &scope)));
    let of_body = start.elapsed();
    let outcome = outcome.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", message(&*panic))));
    let outcome = outcome.map_err(|error| {
        // The whole of it comes when all tests have ended; whoever waits, or reads a record that was cut, has it here.
        eprintln!("FAILED {name}: {error:#}");
        let mut told = runtime.block_on(scope.describe());
        if let Ok(cluster) = scope.cluster() {
            told.push_str(&cluster.log_tails(8));
        }
        anyhow!("{error:#}\n{told}")
    });
    let closed = runtime.block_on(scope.close()).context("cleaning up after the test");
    // Where a suite's time goes; of those side by side each has waited for the others too.
    let (test, after) = (of_body.as_secs_f32(), start.elapsed().saturating_sub(of_body).as_secs_f32());
    eprintln!("took {test:.1} s, and {after:.1} s to clean up: {name}");
    outcome.and(closed)
}

async fn open((tier, shared): (&Tier, &Shared), needs: Needs) -> Result<Scope> {
    if needs == Needs::Api && is_existing() {
        // Fails when a provider is installed already, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        return Scope::open(Client::try_default().await.context("LATEBIND_E2E=existing needs KUBECONFIG")?, None).await;
    }
    let started = shared.cell.get_or_init(|| async {
        let start = Instant::now();
        let cluster = Cluster::start(tier.options.clone()).await.map_err(|error| format!("{error:#}"))?;
        let (version, nodes) = (cluster.binaries().version(), cluster.nodes().len());
        eprintln!("Kubernetes {version} with {nodes} nodes is ready after {:.1} s", start.elapsed().as_secs_f32());
        Ok(Arc::new(cluster))
    });
    let cluster = started.await.as_ref().map_err(|error| anyhow!("the cluster did not start: {error}"))?;
    Scope::open(cluster.client(), Some(Arc::clone(cluster))).await
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// Adds functions `async fn(&Scope) -> anyhow::Result<()>` to a suite under their own paths as names:
/// `tests!(suite, Needs::Api, [a_claim_binds, rows::a_pod_waits])`.
#[macro_export]
macro_rules! tests {
    ($suite:ident, $needs:expr, [$($test:path),* $(,)?]) => {
        $($suite.test($needs, stringify!($test), $test);)*
    };
}
