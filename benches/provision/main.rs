//! Provisioning by latebind, by rancher's local-path provisioner and by one that posts volumes and makes nothing, in one
//! run on one cluster with two real nodes: `cargo bench --bench provision`.
//!
//! The controller manager has its defaults, which cap everybody. rancher's provisioner gets fewer claims than the others
//! unless `LATEBIND_LONG_TESTS` is set or `--long` given: with its default flags 100 claims take it six minutes. With
//! `LATEBIND_UPDATE` set the figures become docs/results/provision.md, with `LATEBIND_BENCH_REQUESTS` every kind of request is
//! listed, and `LATEBIND_BENCH_ROUNDS=1` makes it shorter.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that cannot run has failed")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use latebind_cluster::{Cluster, Options, guard, prerequisites};

mod audit;
mod makers;
mod null;
mod pace;
mod seen;
mod table;

use makers::Values;
use pace::{Ground, Way};
use seen::Seen;
use table::Row;

/// How much is measured.
struct Plan {
    claims: usize,
    /// Claims for rancher's provisioner with its default flags.
    few: usize,
    single: usize,
    single_of_rancher: usize,
    /// latebind and the null provisioner take turns, so that a disturbance of the machine falls on both.
    rounds: usize,
    /// Volumes at which memory is read.
    many: usize,
}

const SHORT: Plan = Plan { claims: 100, few: 20, single: 20, single_of_rancher: 5, rounds: 3, many: 1_000 };
const LONG: Plan = Plan { few: 100, single_of_rancher: 20, ..SHORT };
/// To see that it works, with `LATEBIND_BENCH_SMALL` set.
const GLIMPSE: Plan = Plan { claims: 20, few: 4, single: 3, single_of_rancher: 1, rounds: 1, many: 40 };

fn main() -> Result<ExitCode> {
    // The cluster's guard is this program again, and so is the null provisioner.
    if let Some(code) = guard::take_role().or_else(null::take_role) {
        return Ok(code);
    }
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
    if !given("--bench") {
        return Ok(ExitCode::SUCCESS);
    }
    let lacking = prerequisites::missing_for_nodes();
    if !lacking.is_empty() {
        println!("nothing measured; {}", prerequisites::explain(&lacking));
        return Ok(ExitCode::SUCCESS);
    }
    let mut plan = if std::env::var_os("LATEBIND_BENCH_SMALL").is_some() {
        GLIMPSE
    } else if latebind_cluster::suite::long() || given("--long") {
        LONG
    } else {
        SHORT
    };
    if let Some(rounds) = std::env::var("LATEBIND_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()) {
        plan.rounds = rounds;
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(measure(&plan))?;
    let page = report.page();
    println!("\n{page}");
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        std::fs::write(latebind_cluster::project_root().join("docs/results/provision.md"), page)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(plan: &Plan) -> Result<table::Report> {
    // Kubernetes' own defaults; tests raise them.
    let defaults = ["--kube-api-qps=20", "--kube-api-burst=30"];
    let options = Options::new("bench-provision").nodes(2).audit();
    let cluster = Cluster::start(defaults.into_iter().fold(options, Options::controller_manager_flag)).await?;
    let seen = Seen::start(&cluster.client()).await;
    let ground = Ground { cluster, seen };
    let mut rows = Vec::new();
    // For a look at latebind alone, as while it is worked on.
    if std::env::var_os("LATEBIND_BENCH_WITHOUT_RANCHER").is_none() {
        rows = rancher(&ground, plan).await?;
    }
    let mut last = [
        Row::new("null: posts volumes, makes nothing"),
        Row::new("latebind"),
        Row::new("latebind, with `claimHook`"),
        Row::new("the same, with `markBound`"),
    ];
    let (of_null, of_ours) = (makers::null(&ground.cluster).await?, makers::latebind(&ground.cluster).await?);
    let ways = [
        Way { maker: &of_null, values: Values::default() },
        Way { maker: &of_ours, values: Values::default() },
        Way { maker: &of_ours, values: Values { hook: true, mark: false } },
        Way { maker: &of_ours, values: Values { hook: true, mark: true } },
    ];
    for round in 1..=plan.rounds {
        for (row, way) in last.iter_mut().zip(ways) {
            setting(&ground, way).await?;
            row.add(ground.pace(way, plan.claims).await?);
            row.tell(&format!("round {round}"));
        }
    }
    for (row, way) in last.iter_mut().zip(ways) {
        setting(&ground, way).await?;
        row.single = ground.single(way, plan.single).await?;
    }
    setting(&ground, ways[2]).await?;
    let many = many(&ground, ways[2], plan.many).await?;
    drop(of_null);
    ground.cluster.shut_down().await?;
    rows.extend(last);
    Ok(table::Report { rows, many, volumes: plan.many })
}

/// Has latebind run as a way wants it. The one that was there before has ended then, and the new one leads.
async fn setting(ground: &Ground, way: Way<'_>) -> Result<()> {
    if !matches!(way.maker, makers::Maker::Latebind) {
        return Ok(());
    }
    makers::set(&ground.cluster, way.values).await?;
    ground.single(way, 1).await.map(drop)
}

async fn rancher(ground: &Ground, plan: &Plan) -> Result<Vec<Row>> {
    let maker = makers::rancher(&ground.cluster).await?;
    let way = Way { maker: &maker, values: Values::default() };
    let mut default = Row::new("rancher v0.0.30, default flags");
    default.add(ground.pace(way, plan.few).await?);
    default.tell("default flags");
    default.single = ground.single(way, plan.single_of_rancher).await?;
    makers::with_best_flags(&ground.cluster).await?;
    let mut best = Row::new("rancher v0.0.30, 100 workers");
    best.add(ground.pace(way, plan.claims).await?);
    best.tell("100 workers");
    best.single = ground.single(way, plan.single_of_rancher).await?;
    makers::remove_rancher(&ground.cluster).await?;
    Ok(vec![default, best])
}

/// Memory with many volumes, all on one node.
async fn many(ground: &Ground, way: Way<'_>, count: usize) -> Result<makers::Costs> {
    let nodes = [ground.cluster.nodes()[0].name()];
    let created = ground.create(way, count, &nodes).await?;
    ground.bound(&created).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let costs = way.maker.costs(&ground.cluster).await?;
    // The costs come node by node, controller first, and the agent of the node without volumes tells nothing.
    let most = |part: &str| {
        costs.iter().filter(|(name, _)| *name == part).copied().max_by(|a, b| a.1.memory.total_cmp(&b.1.memory))
    };
    Ok(["controller", "agent"].into_iter().filter_map(most).collect())
}
