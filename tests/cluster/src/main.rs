//! `latebind-cluster`: a real Kubernetes on this machine, for looking around.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use latebind_cluster::{Binaries, Cluster, Options, Version, guard, image, prerequisites};

/// Starts a real Kubernetes on this machine.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what is missing on this machine and, as root on Debian, installs it.
    Setup {
        /// What only tests use too: programs that make file systems.
        #[arg(long)]
        tests: bool,
    },
    /// Builds the Kubernetes binaries of one version (`KUBE_VERSION`), or of all.
    Build {
        /// Build every release that the tests run on.
        #[arg(long)]
        all: bool,
        /// Build what only tests use too: helm, the provisioner that they migrate from, and what restores etcd.
        #[arg(long)]
        tools: bool,
    },
    /// Says where built binaries are kept.
    Cache,
    /// Starts a cluster that stays until `down`.
    Up {
        /// How many nodes to start; they need root.
        #[arg(long, default_value_t = 0)]
        nodes: u8,
        /// The cluster's name.
        #[arg(long, default_value = "latebind")]
        name: String,
        /// Import the image of latebind, built from this tree, under this name.
        #[arg(long, value_name = "IMAGE")]
        with_latebind: Option<String>,
    },
    /// Ends a cluster and removes all of it.
    Down {
        /// The cluster's name.
        #[arg(long, default_value = "latebind")]
        name: String,
    },
    /// Shows what runs.
    Status {
        /// The cluster's name.
        #[arg(long, default_value = "latebind")]
        name: String,
    },
    /// Builds latebind's image as an OCI archive, without a builder.
    Image {
        /// The image's name.
        name: String,
    },
}

fn main() -> ExitCode {
    if let Some(code) = guard::take_role() {
        return code;
    }
    let outcome =
        tokio::runtime::Runtime::new().map_err(Into::into).and_then(|it| it.block_on(run(Arguments::parse())));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Setup { tests } => set_up(tests),
        Command::Build { all, tools } => {
            let releases = Version::ALL.into_iter().filter(|version| !version.is_preview());
            let versions = if all { releases.collect() } else { vec![Version::from_env()?] };
            for version in versions {
                println!("{}", Binaries::ensure(version)?.directory().display());
            }
            if tools {
                println!("{}", latebind_cluster::helm()?.display());
                println!("{}", latebind_cluster::krew()?.display());
                println!("{}", latebind_cluster::rancher_provisioner()?.display());
                println!("{}", latebind_cluster::etcd_snapshot()?.display());
            }
            Ok(())
        }
        Command::Cache => {
            println!("{}", latebind_cluster::cache().display());
            Ok(())
        }
        Command::Up { nodes, name, with_latebind } => up(&name, nodes, with_latebind).await,
        Command::Down { name } => Cluster::take_down(&name).await,
        Command::Status { name } => status(&name).await,
        Command::Image { name } => {
            println!("{}", image::latebind(&name)?.display());
            Ok(())
        }
    }
}

fn set_up(tests: bool) -> Result<()> {
    let lacking = || {
        let mut missing = prerequisites::missing_for_nodes();
        if tests {
            missing.extend(prerequisites::missing_for_disks());
        }
        missing
    };
    let mut missing = lacking();
    if prerequisites::install(&missing)? {
        missing = lacking();
    }
    ensure!(missing.is_empty(), prerequisites::explain(&missing));
    println!("all is here");
    Ok(())
}

async fn up(name: &str, nodes: u8, with_latebind: Option<String>) -> Result<()> {
    Binaries::ensure(Version::from_env()?)?;
    let mut options = Options::new(name).nodes(nodes);
    if let Some(image) = with_latebind {
        options = options.image(image::latebind(&image)?);
    }
    let started = Instant::now();
    eprintln!("starting Kubernetes {} with {nodes} nodes", Version::from_env()?);
    let cluster = Cluster::start_lasting(options).await?;
    eprintln!(
        "ready after {:.1} s; `latebind-cluster down` (make cluster-down) ends it",
        started.elapsed().as_secs_f32()
    );
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("export PATH={}:$PATH", cluster.binaries().directory().display());
    println!("export LATEBIND_HOST_ADDRESS={}", cluster.host_address());
    Ok(())
}

async fn status(name: &str) -> Result<()> {
    let cluster = Cluster::attach(name).await?;
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    for process in cluster.processes().await? {
        println!("{:24} {}", process.name, state(process.pid, process.ended.as_deref()));
    }
    for node in cluster.nodes() {
        for process in node.processes().await? {
            println!(
                "{:24} {}",
                format!("{} {}", node.name(), process.name),
                state(process.pid, process.ended.as_deref())
            );
        }
    }
    cluster.ready(std::time::Duration::from_secs(2)).await?;
    println!("the API server is ready");
    Ok(())
}

fn state(pid: Option<u32>, ended: Option<&str>) -> String {
    pid.map_or_else(|| format!("ended: {}", ended.unwrap_or("not started")), |pid| format!("runs as {pid}"))
}
