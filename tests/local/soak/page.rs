//! What the long run saw, for people: `docs/results/soak.md`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use latebind_cluster::{Version, project_root};
use latebind_test_support::machine::{machine, today};

use super::faults::{Fault, Faults};
use super::load::Load;
use super::memory::{LONG_LIFE, WARM};
use super::times::FELT;
use super::{AT_MOST, Plan, RETAINED, clock};

/// What is watched, in the order of the victims.
pub const PROCESSES: [&str; 2] = ["controller", "agent"];

/// One run.
pub struct Page<'a> {
    pub plan: &'a Plan,
    pub lasted: Duration,
    pub faults: &'a Faults<'a>,
    pub load: &'a Arc<Load>,
}

/// Says how far it is.
pub fn progress(at: Duration, fault: Fault, faults: &Faults<'_>, load: &Load) {
    let now = faults.lives.each_ref().map(|lives| lives.now().map_or(0.0, |memory| memory.anonymous));
    let counts = [&load.counts.created, &load.counts.deleted, &load.counts.given_back].map(|count| count.load(Relaxed));
    let there = [load.living(), load.released()];
    eprintln!("{:>6} s {counts:?} of them {there:?}, {now:.2?} MiB: {}", at.as_secs(), fault.name());
}

fn seconds(sorted: &[Duration], part: usize) -> String {
    let at = sorted.get(sorted.len().saturating_sub(1) * part / 1000);
    at.map_or_else(|| "-".to_owned(), |took| format!("{:.2} s", took.as_secs_f64()))
}

impl Page<'_> {
    /// Prints it, or as far as it got.
    pub fn tell(&self, went_well: bool) {
        let said = if went_well { "" } else { "FAILED. Of what follows only the figures hold.\n" };
        eprintln!("{said}{}", self.text());
    }

    /// Writes it, if this was a long run that is to be kept.
    pub fn publish(&self) -> Result<()> {
        if self.plan.time.is_none() || std::env::var_os("LATEBIND_UPDATE").is_none() {
            return Ok(());
        }
        let name = version().suffix();
        Ok(std::fs::write(project_root().join(format!("docs/results/soak{name}.md")), self.text())?)
    }

    fn text(&self) -> String {
        let mut text = self.head();
        self.load_rows(&mut text);
        self.fault_rows(&mut text);
        self.memory_rows(&mut text);
        text
    }

    fn head(&self) -> String {
        let build = match std::env::var_os("LATEBIND_BENCH_BINARY") {
            Some(_) => "the static binary that ships",
            None if cfg!(debug_assertions) => "a debug build",
            None => "a release build",
        };
        format!(
            "# Soak: claims that come and go while everything fails\n\n\
             {}, {}, Kubernetes {}, {build}, {:.0} minutes, seed {}. `make soak` writes this page anew, for `LATEBIND_SOAK_MINUTES` \
             (480) and from `LATEBIND_SOAK_SEED`.\n\n\
             A controller and an agent run as processes beside a control plane, with the variables that the chart gives them; the node is simulated and its disk is an ext4 of \
             64 MiB on a loop device. Twenty times a second a claim is created or deleted, as long as there are no more than {} claims and volumes \
             that wait to be removed. Into the directory of each that is \
             bound goes a file with its UID, and the file is read before the claim is deleted. {RETAINED} volumes at most, spread \
             over the run, are retained, and their files are read at the end.\n\n\
             **Nothing was lost**: every file was there. **Nothing was left**: once all claims were deleted there were, beside what \
             was retained, no volume, no LocalVolume, no directory, no marker and no trash; and nothing at all once that was \
             released for deletion too.\n\n",
            today(),
            machine(),
            version(),
            self.lasted.as_secs_f64() / 60.0,
            self.plan.seed,
            AT_MOST.0,
        )
    }

    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn load_rows(&self, text: &mut String) {
        let counts = &self.load.counts;
        let number = |count: &AtomicU64| count.load(Relaxed);
        let (all, calm) = self.load.took();
        let pace = (number(&counts.created) + number(&counts.deleted)) as f64 / self.lasted.as_secs_f64();
        let quantiles = |took: &[Duration]| {
            let [half, most, nearly, last] = [500, 900, 990, 1000].map(|part| seconds(took, part));
            format!("{half} / {most} / {nearly} / {last} ({})", took.len())
        };
        let rows = [
            ("creates and deletes a second, of 20 that were wanted", format!("{pace:.1}")),
            ("claims created", number(&counts.created).to_string()),
            ("of these seen Bound", number(&counts.bound).to_string()),
            ("claims deleted", number(&counts.deleted).to_string()),
            ("of these before they were seen Bound", number(&counts.unserved).to_string()),
            ("files that were read before their claim was deleted, lost", format!("{}, 0", number(&counts.checked))),
            ("volumes retained, lost", format!("{}, 0", self.load.kept().len())),
            ("nodes given back, and selected again by the test", number(&counts.given_back).to_string()),
            ("turns without a create, since there were enough claims and volumes", number(&counts.held).to_string()),
            ("requests of the test itself that failed and were sent again", number(&counts.failed).to_string()),
            ("from the request to Bound, p50 / p90 / p99 / longest (of)", quantiles(&all)),
            ("the same where no fault was felt", quantiles(&calm)),
        ];
        text.push_str("| load | |\n| --- | --- |\n");
        for (what, seen) in rows {
            let _written = writeln!(text, "| {what} | {seen} |");
        }
        let _written = write!(
            text,
            "\nWhat an API server that is away has cost is not made up for, so that the pace is below what was wanted. A fault is \
             felt until {} s after its end.\n\n",
            FELT.as_secs()
        );
    }

    fn fault_rows(&self, text: &mut String) {
        text.push_str("| fault | times | seconds in all |\n| --- | --- | --- |\n");
        for (fault, done) in &self.faults.done {
            let _written = writeln!(text, "| {} | {} | {:.0} |", fault.name(), done.times, done.lasted.as_secs_f64());
        }
        let (killed, refused) = (self.faults.killed_meanwhile, self.faults.refused);
        let _written = write!(
            text,
            "\n{killed} processes were killed in the midst of another fault. {refused:.0} requests of controller and agent were \
             answered with 429. Processes are ended in the first third of every two hours, or of the run if that is shorter, \
             and live on after it.",
        );
        text.push_str(if clock::CAN_BE_SET {
            " A clock is set for one process alone, from two hours behind the machine's to a day ahead: its vDSO is \
             replaced, through which a program reads the time. The clocks of the API server and of the machine stay.\n\n"
        } else {
            " Clocks were not set to another time: how to do that for one process is not known on this architecture.\n\n"
        });
    }

    fn memory_rows(&self, text: &mut String) {
        text.push_str(
            "| process | lives | most, resident / allocated | a long life | resident, first / last quarter | allocated, first / \
             last quarter | growth |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for (name, lives) in PROCESSES.iter().zip(&self.faults.lives) {
            let most = lives.most();
            let start = format!("| {name} | {} | {:.1} / {:.1} MiB", lives.count(), most.resident, most.anonymous);
            let all = lives.growth();
            for growth in &all {
                let [resident, anonymous] = growth.ratios().map(|ratio| (ratio - 1.0) * 100.0);
                let _written = writeln!(
                    text,
                    "{start} | {:.0} minutes | {:.2} / {:.2} MiB | {:.2} / {:.2} MiB | {resident:+.1} %, {anonymous:+.1} % |",
                    growth.age.as_secs_f64() / 60.0,
                    growth.first.resident,
                    growth.last.resident,
                    growth.first.anonymous,
                    growth.last.anonymous,
                );
            }
            if all.is_empty() {
                let _written = writeln!(text, "{start} | none | | | |");
            }
        }
        let _written = write!(
            text,
            "\nMemory is looked at every second. A life of {} minutes or more is compared with itself: the median of the first \
             quarter, from the age of {} minutes on, with that of the last, which may be at most a tenth more. All faults that end \
             no process go on during such a life.\n",
            LONG_LIFE.as_secs() / 60,
            WARM.as_secs() / 60,
        );
    }
}

fn version() -> Version {
    Version::from_env().unwrap_or(Version::DEFAULT)
}
