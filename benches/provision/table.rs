//! The figures as one page.

use std::fmt::Write as _;
use std::time::Duration;

use latebind_test_support::machine::{machine, today};

use crate::audit::Who;
use crate::makers::Costs;
use crate::pace::Pace;

/// One provisioner, with as many rounds as it had.
pub struct Row {
    name: &'static str,
    rounds: Vec<Pace>,
    /// One claim at a time, in order of length.
    pub single: Vec<Duration>,
}

/// Everything.
pub struct Report {
    /// rancher's first, then null, ours, ours with the claim hook, and that with phases written.
    pub rows: Vec<Row>,
    /// Memory with many volumes.
    pub many: Costs,
    /// How many.
    pub volumes: usize,
}

const OWN: [Who; 2] = [Who::Provisioner, Who::Agents];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// In seconds; `part` in percent.
fn at(sorted: &[Duration], part: usize) -> f64 {
    sorted.get(sorted.len().saturating_sub(1) * part / 100).map_or(f64::NAN, Duration::as_secs_f64)
}

fn brief(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

#[allow(clippy::cast_precision_loss, reason = "hundreds")]
fn rate(pace: &Pace, took: Duration) -> f64 {
    pace.claims as f64 / took.as_secs_f64()
}

impl Row {
    /// Of nothing yet.
    pub fn new(name: &'static str) -> Self {
        Self { name, rounds: Vec::new(), single: Vec::new() }
    }

    /// One round more.
    pub fn add(&mut self, pace: Pace) {
        self.rounds.push(pace);
    }

    fn median(&self, of: impl Fn(&Pace) -> f64) -> f64 {
        median(self.rounds.iter().map(of).collect())
    }

    fn volumes(&self) -> f64 {
        self.median(|pace| rate(pace, pace.volumes))
    }

    fn bound(&self) -> f64 {
        self.median(|pace| rate(pace, pace.bound))
    }

    fn writes(&self) -> (f64, f64) {
        let making = self.median(|pace| pace.making.writes_a_volume(&OWN, pace.claims));
        (making, self.median(|pace| pace.removing.writes_a_volume(&OWN, pace.claims)))
    }

    /// The last round as one line, and who asked for what.
    pub fn tell(&self, when: &str) {
        let Some(pace) = self.rounds.last() else { return };
        println!(
            "{} ({when}): {} claims, last volume {:.1?}, all bound {:.1?}, all gone {:.1?}",
            self.name, pace.claims, pace.volumes, pace.bound, pace.gone
        );
        if std::env::var_os("LATEBIND_BENCH_REQUESTS").is_some() {
            println!("  requests a volume, making");
            pace.making.tell(pace.claims);
            println!("  requests a volume, removing");
            pace.removing.tell(pace.claims);
        }
    }

    fn line(&self) -> String {
        let making = |of: &[Who]| self.median(|pace| pace.making.a_volume(of, pace.claims));
        let removing = |of: &[Who]| self.median(|pace| pace.removing.a_volume(of, pace.claims));
        let to_volume = |part| self.median(|pace| at(&pace.to_volume, part));
        let costs = self.rounds.last().map(|pace| pace.costs.clone()).unwrap_or_default();
        let memory: Vec<String> = costs.iter().map(|(_, cost)| format!("{:.0}", cost.memory)).collect();
        let each = self.median(|pace| pace.seconds / f64::from(u32::try_from(pace.claims).unwrap()) * 1000.0);
        format!(
            "| {} | {} | {} / {} | {:.1} | {:.1} | {} | {} ({}) | {:.1} + {:.1} | {:.1} + {:.1} | {:.1} + {:.1} | {:.1} + {:.1} | {} | {each:.0} ms |",
            self.name,
            self.rounds.first().map_or(0, |pace| pace.claims),
            brief(to_volume(50)),
            brief(to_volume(99)),
            self.volumes(),
            self.bound(),
            brief(self.median(|pace| pace.gone.as_secs_f64())),
            brief(at(&self.single, 50)),
            self.single.len(),
            making(&OWN),
            removing(&OWN),
            self.writes().0,
            self.writes().1,
            making(&[Who::Binder]),
            removing(&[Who::Binder]),
            making(&[Who::Kubelets]),
            removing(&[Who::Kubelets]),
            memory.join(" + "),
        )
    }
}

impl Report {
    /// The page.
    pub fn page(&self) -> String {
        let mut page = String::from("# Provisioning: latebind, rancher local-path, and a provisioner of nothing\n\n");
        let rounds = self.rows.last().map_or(0, |row| row.rounds.len());
        let _written = write!(
            page,
            "{}, {}, {} build, Kubernetes {}. `LATEBIND_UPDATE=1 cargo bench --bench provision` writes this page anew.\n\n\
             All in one run on one cluster of two real nodes, the controller manager at its defaults (20 requests a \
             second), claims created with their selected node. latebind and null took turns, {rounds} rounds each; their \
             figures are medians of the rounds. rancher's provisioner gets fewer claims with its default flags unless the run \
             is a long one, since 100 take it six minutes; rates and costs are for one claim, and so can be compared. Its \
             version v0.0.30 has no flag for the rate of requests, so that workers are all there is to add. With the chart's \
             `claimHook` new claims are told who makes their volume, which the controller manager need not write then; with \
             `markBound` latebind also writes the phase of the volume while the controller manager is behind \
             (docs/provisioner.md). latebind runs from {}.\n\n\
             | provisioner | claims | selected node to volume, p50 / p99 | volumes/s | Bound/s | all gone after | one claim \
             alone, p50 (of) | its requests a volume, make + remove | of these writes, without events | requests of the \
             controller manager's binder | of kubelets | MiB resident | CPU a volume |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            today(),
            machine(),
            if cfg!(debug_assertions) { "debug" } else { "release" },
            latebind_cluster::Version::from_env().unwrap_or(latebind_cluster::Version::DEFAULT),
            if std::env::var_os("LATEBIND_BENCH_BINARY").is_some() {
                "the static binary that ships"
            } else {
                "the binary that was built with the benchmark"
            },
        );
        for row in &self.rows {
            page.push_str(&row.line());
            page.push('\n');
        }
        page.push_str(
            "\n\"All gone\" is from the deletion of the claims until no volume and, on the disks, no directory was left. Memory \
             is of each process with all volumes there: for latebind the controller and the two agents. CPU is of these \
             processes, for making and removing; the kubelets' work for rancher's helper Pods comes on top of it. Watches \
             and leases are not counted as requests.\n\n",
        );
        page.push_str(&self.wanted());
        page
    }

    fn wanted(&self) -> String {
        let mut text = String::from("| what | measured | wanted |\n| --- | --- | --- |\n");
        let mut row = |what: &str, measured: String, wanted: &str| {
            let _written = writeln!(text, "| {what} | {measured} | {wanted} |");
        };
        let [others @ .., null, ours, hooked, marked] = &self.rows[..] else { return text };
        if let [default, best, ..] = others {
            row(
                "volumes/s, of rancher's with default flags",
                format!("{:.0} times", ours.volumes() / default.volumes()),
                "≥ 50",
            );
            row(
                "volumes/s, of rancher's with 100 workers",
                format!("{:.0} times", ours.volumes() / best.volumes()),
                "",
            );
        }
        // Round by round, so that a disturbance of the machine falls on both.
        let ratio = |ours: &Row| {
            let rounds = ours.rounds.iter().zip(&null.rounds);
            let ratios = rounds.map(|(ours, null)| rate(ours, ours.bound) / rate(null, null.bound));
            format!("{:.2} times", median(ratios.collect()))
        };
        row("Bound/s, of the null provisioner's", ratio(ours), "≥ 1.5");
        row("the same with `claimHook`", ratio(hooked), "≥ 1.5");
        row("the same with `markBound` besides", ratio(marked), "≥ 1.5");
        row("one claim alone, p50", brief(at(&ours.single, 50)), "≤ 50 ms");
        row("writes to make a volume", format!("{:.1}", ours.writes().0), "≤ 3");
        row("the same with `markBound`", format!("{:.1}", marked.writes().0), "");
        row("writes to remove a volume", format!("{:.1}", ours.writes().1), "");
        let wanted = [("controller", "≤ 20 MiB"), ("agent", "≤ 10 MiB")];
        for (part, cost) in &self.many {
            let what = format!("memory of the {part} with {} volumes, all on one real node", self.volumes);
            let wanted = wanted.iter().find(|(name, _)| name == part).map_or("", |(_, wanted)| *wanted);
            row(&what, format!("{:.1} MiB", cost.memory), wanted);
        }
        text
    }
}
