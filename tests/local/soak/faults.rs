//! What is done to processes, to the API server, to its store, to the disk and to clocks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use latebind_cluster::{Component, Scope, eventually};
use latebind_test_support::numbers::Numbers;
use rustix::process::Signal;

use super::clock;
use super::disk::Disk;
use super::memory::Lives;
use super::refusals::Refusals;
use super::times::FaultTimes;
use crate::crash::Victim;

/// Their places among the victims.
const CONTROLLER: usize = 0;
const AGENT: usize = 1;
/// How long what was away may take to come back, on a machine that has other work too.
const PATIENCE: Duration = Duration::from_secs(300);
/// Steps of a wall clock in seconds: a correction, a wrong zone, a board without a battery. The API server's certificate is
/// valid for an hour before it was made, so that a clock two hours behind calls it invalid.
const STEPS: [i32; 6] = [-7200, -600, -30, 30, 600, 86_400];

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillController,
    KillAgent,
    KillBoth,
    EndBoth,
    HoldController,
    HoldAgent,
    RestartApiServer,
    KillApiServer,
    HoldStore,
    Refuse,
    FillDisk,
    HangDisk,
    StepController,
    StepAgent,
}

use Fault::{
    EndBoth, FillDisk, HangDisk, HoldAgent, HoldController, HoldStore, KillAgent, KillApiServer, KillBoth,
    KillController, Refuse, RestartApiServer, StepAgent, StepController,
};

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        KillController,
        KillAgent,
        KillBoth,
        EndBoth,
        HoldController,
        HoldAgent,
        RestartApiServer,
        KillApiServer,
        HoldStore,
        Refuse,
        FillDisk,
        HangDisk,
        StepController,
        StepAgent,
    ];

    /// What is done.
    pub fn name(self) -> &'static str {
        match self {
            KillController => "the controller is killed (SIGKILL) and started again",
            KillAgent => "the agent is killed and started again",
            KillBoth => "both are killed and started again",
            EndBoth => "both are asked to end (SIGTERM) and started again",
            HoldController => "the controller is held (SIGSTOP)",
            HoldAgent => "the agent is held",
            RestartApiServer => "the API server is restarted",
            KillApiServer => "the API server is killed and started again",
            HoldStore => "etcd is held",
            Refuse => "the API server answers controller and agent with 429",
            FillDisk => "the disk is full",
            HangDisk => "the disk hangs (`fsfreeze`)",
            StepController => "the controller's wall clock is set to another time, and back",
            StepAgent => "the agent's wall clock is set to another time, and back",
        }
    }

    /// Whether it ends a process of ours.
    pub fn ends_processes(self) -> bool {
        matches!(self, KillController | KillAgent | KillBoth | EndBoth)
    }

    /// Whether it sets a clock to another time.
    pub fn steps_clocks(self) -> bool {
        matches!(self, StepController | StepAgent)
    }

    /// The longest time that it lasts in the long form, in seconds; nothing for what is over at once.
    fn longest(self) -> u64 {
        match self {
            KillController | KillAgent | KillBoth | EndBoth | RestartApiServer | KillApiServer => 0,
            // Past the time after which a Lease is lost.
            HoldController | HoldAgent | Refuse => 25,
            HoldStore => 15,
            // Past the time after which the agent says that the disk hangs.
            HangDisk => 75,
            FillDisk | StepController | StepAgent => 40,
        }
    }
}

/// How often a fault was done, and for how long in all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub times: u64,
    pub lasted: Duration,
}

/// Who does the faults.
pub struct Faults<'a> {
    pub scope: &'a Scope,
    /// The controller and the agent.
    pub victims: [Victim; 2],
    pub lives: [Lives; 2],
    pub disk: Disk,
    pub refusals: Refusals,
    pub times: Arc<FaultTimes>,
    pub numbers: Numbers,
    /// Faults last for a second or two.
    pub short: bool,
    /// How often each was done.
    pub done: BTreeMap<Fault, Done>,
    /// Requests that were answered with 429.
    pub refused: f64,
    /// Processes that were killed in the midst of another fault.
    pub killed_meanwhile: u64,
}

impl Faults<'_> {
    /// Does one, and maybe kills a process in the midst of it.
    pub async fn fault(&mut self, fault: Fault, may_kill: bool) -> Result<()> {
        let seconds = if self.short { 1 } else { 2 + self.numbers.below(fault.longest().max(1)) };
        let victim = usize::try_from(self.numbers.below(2))?;
        let kill = (may_kill && fault.longest() > 0 && self.numbers.below(3) == 0).then_some(victim);
        let step = STEPS[usize::try_from(self.numbers.below(STEPS.len() as u64))?];
        let began = Instant::now();
        self.times.begin();
        let outcome = self.act(fault, seconds, step, kill).await;
        self.times.end();
        outcome.with_context(|| format!("{}, for {seconds} s, step {step} s, kill {kill:?}", fault.name()))?;
        let (done, lasted) = (self.done.entry(fault).or_default(), began.elapsed());
        done.times += 1;
        done.lasted += lasted;
        self.killed_meanwhile += u64::from(kill.is_some());
        self.alive()
    }

    async fn act(&mut self, fault: Fault, seconds: u64, step: i32, kill: Option<usize>) -> Result<()> {
        let (cluster, time) = (self.scope.cluster()?, Duration::from_secs(seconds));
        match fault {
            KillController => self.end(&[CONTROLLER], Signal::KILL).await,
            KillAgent => self.end(&[AGENT], Signal::KILL).await,
            KillBoth => self.end(&[CONTROLLER, AGENT], Signal::KILL).await,
            EndBoth => self.end(&[CONTROLLER, AGENT], Signal::TERM).await,
            HoldController => self.hold(CONTROLLER, time, kill).await,
            HoldAgent => self.hold(AGENT, time, kill).await,
            StepController => self.step(CONTROLLER, step, time, kill).await,
            StepAgent => self.step(AGENT, step, time, kill).await,
            RestartApiServer => {
                cluster.stop(Component::ApiServer).await?;
                cluster.start_component(Component::ApiServer).await?;
                cluster.ready(PATIENCE).await
            }
            KillApiServer => {
                cluster.kill(Component::ApiServer).await?;
                cluster.start_component(Component::ApiServer).await?;
                cluster.ready(PATIENCE).await
            }
            HoldStore => {
                cluster.pause(Component::Etcd).await?;
                let outcome = self.meanwhile(time, kill).await;
                cluster.resume(Component::Etcd).await?;
                cluster.ready(PATIENCE).await.and(outcome)
            }
            Refuse => {
                let (refused, outcome) = tokio::join!(
                    self.refusals.refuse(self.scope, time),
                    meanwhile(&mut self.victims, &self.lives, time, kill)
                );
                self.refused += refused?;
                outcome
            }
            FillDisk => {
                let meanwhile = meanwhile(&mut self.victims, &self.lives, time, kill);
                let (filled, outcome) = tokio::join!(self.disk.fill(time), meanwhile);
                filled.and(outcome)
            }
            HangDisk => {
                let meanwhile = meanwhile(&mut self.victims, &self.lives, time, kill);
                let (hung, outcome) = tokio::join!(self.disk.hang(seconds), meanwhile);
                hung.and(outcome)
            }
        }
    }

    async fn meanwhile(&mut self, time: Duration, kill: Option<usize>) -> Result<()> {
        meanwhile(&mut self.victims, &self.lives, time, kill).await
    }

    /// Sends the signal to all of them before the first is started again.
    async fn end(&mut self, which: &[usize], signal: Signal) -> Result<()> {
        for victim in which {
            self.victims[*victim].signal(signal)?;
        }
        for victim in which {
            self.victims[*victim].start_again().await?;
            self.lives[*victim].begin(self.victims[*victim].pid());
        }
        Ok(())
    }

    /// Waits until the Lease was renewed at a time so many seconds from now.
    async fn renews_at(&self, seconds: i32) -> Result<()> {
        let (leases, name) = (Api::<Lease>::namespaced(self.scope.client(), "default"), self.lease());
        eventually("the controller to tell another time", PATIENCE, async || {
            let renewed = leases.get(&name).await?.spec.and_then(|spec| spec.renew_time).context("a time")?;
            let ahead = renewed.0.as_second() - Timestamp::now().as_second();
            ensure!((ahead - i64::from(seconds)).abs() <= 10, "it is {ahead} s ahead, not {seconds} s");
            Ok(Some(()))
        })
        .await
    }

    /// The Lease of the controller that lives. In the short form there is no time for that of a dead one to run out.
    fn lease(&self) -> String {
        lease(self.scope, self.short).replace("{life}", &self.victims[CONTROLLER].lives().to_string())
    }

    async fn hold(&mut self, which: usize, time: Duration, kill: Option<usize>) -> Result<()> {
        self.victims[which].signal(Signal::STOP)?;
        self.meanwhile(time, kill).await?;
        self.victims[which].signal(Signal::CONT)
    }

    async fn step(&mut self, which: usize, seconds: i32, time: Duration, kill: Option<usize>) -> Result<()> {
        clock::set(self.victims[which].pid(), seconds).await?;
        self.meanwhile(time, kill).await?;
        // The premise: it tells that other time, where it tells any that can be seen from here.
        if which == CONTROLLER && kill.is_none() {
            self.renews_at(seconds).await?;
        }
        // One that was started meanwhile has the right time anyway.
        clock::set(self.victims[which].pid(), 0).await
    }

    /// An error if a process has ended by itself.
    pub fn alive(&mut self) -> Result<()> {
        self.victims.iter_mut().try_for_each(Victim::ensure_alive)
    }
}

/// The name of the controller's Lease, as it is given to it.
pub fn lease(scope: &Scope, short: bool) -> String {
    format!("{}{}", scope.unique("soak"), if short { "-{life}" } else { "" })
}

/// Lets the time pass, and kills a process in the midst of it.
async fn meanwhile(victims: &mut [Victim; 2], lives: &[Lives; 2], time: Duration, kill: Option<usize>) -> Result<()> {
    tokio::time::sleep(time / 2).await;
    if let Some(victim) = kill {
        victims[victim].signal(Signal::KILL)?;
        victims[victim].start_again().await?;
        lives[victim].begin(victims[victim].pid());
    }
    tokio::time::sleep(time / 2).await;
    Ok(())
}
