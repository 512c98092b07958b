//! The process that outlives whoever started a cluster, and then removes the cluster.
//!
//! A guard holds the read end of a pipe whose other end only the starting program has. However that program ends,
//! the pipe closes and the guard tears everything down. It has its own process group, so Ctrl-C does not reach it. Should the
//! guard itself be killed, the kernel ends the supervisor with it, and what is left on disk is removed at the next start.
//!
//! Guard and supervisor are this same executable, started again with `ROLE` set: a `main` that uses this crate
//! calls [`take_role`] first.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::supervisor::Client;
use crate::{leftovers, supervisor};

pub(crate) const ROLE: &str = "LATEBIND_CLUSTER_ROLE";
pub(crate) const DIRECTORY: &str = "LATEBIND_CLUSTER_DIRECTORY";
/// The file whose lock a living guard holds.
pub(crate) const LOCK: &str = "lock";
/// The file with the guard's PID.
const PID: &str = "guard.pid";

/// What this executable was started again for, if it was: then the caller returns the exit code at once.
#[must_use]
pub fn take_role() -> Option<ExitCode> {
    let role = env::var(ROLE).ok()?;
    let outcome = serve(&role);
    Some(outcome.map_or_else(
        |error| {
            eprintln!("{role}: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    ))
}

/// A program that starts a cluster without asking for its role first would start itself again and again.
pub(crate) fn ensure_role_was_asked_for() -> Result<()> {
    ensure!(env::var_os(ROLE).is_none(), "`main` must begin with latebind_cluster::guard::take_role()");
    Ok(())
}

fn serve(role: &str) -> Result<()> {
    let directory = PathBuf::from(env::var_os(DIRECTORY).context("no directory given")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match role {
        "supervisor" => runtime.block_on(supervisor::serve(&directory)),
        "guard" => runtime.block_on(guard(&directory, false)),
        "guard-namespaced" => runtime.block_on(guard(&directory, true)),
        other => anyhow::bail!("unknown role {other}"),
    }
}

async fn guard(directory: &Path, namespaced: bool) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let _lock = take_lock(directory)?;
    fs::write(directory.join(PID), std::process::id().to_string())?;
    let mut supervisor = start_supervisor(directory, namespaced)?;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut lifeline = tokio::net::unix::pipe::Receiver::from_owned_fd(stdin)?;
    let mut byte = [0_u8; 1];
    let mut detached = false;
    loop {
        tokio::select! {
            read = lifeline.read(&mut byte), if !detached => match read {
                Ok(1) => detached = true,
                _ => break,
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(Duration::from_secs(2)) => {
                if supervisor.try_wait()?.is_some() {
                    break;
                }
            }
        }
    }
    end_supervisor(directory, &mut supervisor).await;
    leftovers::remove(directory)
}

/// The lock appears under its final name already locked, so that nobody takes a young cluster for a left-over.
fn take_lock(directory: &Path) -> Result<File> {
    let young = directory.join("lock.new");
    let lock = File::create(&young)?;
    lock.lock()?;
    fs::rename(young, directory.join(LOCK))?;
    Ok(lock)
}

/// Whether a living guard watches over `directory`.
pub(crate) fn is_held(directory: &Path) -> bool {
    match OpenOptions::new().write(true).open(directory.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_err(),
        // Another user's; that one may remove it.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => true,
        // Before the guard has its lock the directory is young; nobody else's business for a minute.
        Err(_) => fs::metadata(directory)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age < Duration::from_secs(60))),
    }
}

fn start_supervisor(directory: &Path, namespaced: bool) -> Result<Child> {
    let executable = env::current_exe()?;
    let log = OpenOptions::new().create(true).append(true).open(directory.join("logs/supervisor.log"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if namespaced {
        command.args(NAMESPACES);
        command.arg("--net");
    }
    command.arg(executable).env(ROLE, "supervisor").env(DIRECTORY, directory).process_group(0);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("`setpriv` (Debian package util-linux) does not start")
}

/// How a supervisor gets its own PID, mount, UTS and IPC namespaces, and dies with the process that waits for it.
pub(crate) const NAMESPACES: [&str; 9] = [
    "unshare",
    "--fork",
    "--kill-child=KILL",
    "--pid",
    "--mount",
    "--mount-proc",
    "--propagation=private",
    "--uts",
    "--ipc",
];

async fn end_supervisor(directory: &Path, supervisor: &mut Child) {
    // Asked to exit, PID 1 takes its namespaces with it before `unshare` returns: then nothing holds a file any more.
    let asked = tokio::time::timeout(Duration::from_secs(2), Client::new(directory).exit()).await;
    let polite = matches!(asked, Ok(Ok(())));
    for _ in 0..100 {
        if !polite || matches!(supervisor.try_wait(), Ok(Some(_)) | Err(_)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Both fail only when it has ended already.
    supervisor.kill().ok();
    supervisor.wait().ok();
}

/// A guard as its parent sees it.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard over `directory`, which it will remove in the end.
    pub(crate) fn start(directory: &Path, namespaced: bool) -> Result<Self> {
        let log = File::create(directory.join("logs/guard.log"))?;
        let mut command = Command::new(env::current_exe()?);
        command.env(ROLE, if namespaced { "guard-namespaced" } else { "guard" }).env(DIRECTORY, directory);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn()?;
        let lifeline = child.stdin.take();
        Ok(Self { child, lifeline })
    }

    /// Lets the cluster live on after this process.
    pub(crate) fn detach(mut self) -> Result<()> {
        if let Some(mut lifeline) = self.lifeline.take() {
            lifeline.write_all(b"d")?;
        }
        Ok(())
    }

    /// Why the guard ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Tears the cluster down and waits until nothing is left.
    pub(crate) async fn end(mut self) -> Result<()> {
        drop(self.lifeline.take());
        let status = tokio::task::spawn_blocking(move || self.child.wait()).await??;
        ensure!(status.success(), "the cluster's guard ended with {status}; its log is kept");
        Ok(())
    }
}

/// Tells the guard over `directory` to tear it down, and waits until it has.
pub(crate) async fn take_down(directory: &Path) -> Result<()> {
    let pid: i32 = fs::read_to_string(directory.join(PID)).context("no such cluster runs")?.trim().parse()?;
    let pid = rustix::process::Pid::from_raw(pid).context("PID 0")?;
    ensure!(is_held(directory), "the guard of {} is gone", directory.display());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    crate::eventually("the cluster to be gone", Duration::from_secs(60), async || {
        Ok((!directory.exists()).then_some(()))
    })
    .await
}
