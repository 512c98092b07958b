//! Random histories against the decisions: whatever people, processes, disks, clocks and the store do, no data goes that was
//! not, at that moment, of a volume Released under Delete; nothing is forgotten that still lies on a disk; every history
//! ends. One claim is of a class that leaves its directory in its place, and takes it back: such data never goes at all, and what
//! is forgotten of it is marked as kept on its disk, or is the next claim's.

use std::time::Duration;

use super::world::{Counts, World};

/// How many are played where nobody says otherwise.
const HISTORIES: u64 = 10_000;
/// Later ones that found something once.
const FOUND: [u64; 1] = [
    // The order was taken back, and the directory made anew, before its removal was reported.
    10_785,
];
/// Steps of one history before everything is made good.
const STEPS: u64 = 100;
/// Rounds in which a history must come to rest.
const ROUNDS: usize = 60;

/// Plays them all; the first that goes wrong is told with what happened in it.
pub fn none_loses_data() -> Result<(), String> {
    let count = std::env::var("LATEBIND_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(HISTORIES);
    let only: Option<u64> = std::env::var("LATEBIND_HISTORY").ok().and_then(|text| text.parse().ok());
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let (first, last) = only.map_or((0, count), |only| (only, only + 1));
    let outcomes: Vec<Result<Counts, String>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || {
                    let mut counts = Counts::default();
                    let again = FOUND.into_iter().filter(|seed| only.is_none() && *seed >= last);
                    for seed in (first..last).chain(again).filter(|seed| seed % workers == worker) {
                        World::new(seed).play(&mut counts).map_err(|why| format!("LATEBIND_HISTORY={seed}: {why}"))?;
                    }
                    Ok(counts)
                })
            })
            .collect();
        running.into_iter().map(|it| it.join().unwrap_or_else(|_| Err("a history panicked".to_owned()))).collect()
    });
    let mut all = Counts::default();
    for outcome in outcomes {
        let counts = outcome?;
        all.removed += counts.removed;
        all.reclaimed += counts.reclaimed;
        all.withdrawn += counts.withdrawn;
        all.refused += counts.refused;
        all.taken_back += counts.taken_back;
    }
    // A model in which nothing ever happens would find nothing.
    let busy = only.is_some()
        || [all.removed, all.reclaimed, all.withdrawn, all.refused, all.taken_back].iter().all(|it| *it > count / 50);
    if busy { Ok(()) } else { Err(format!("the histories are too quiet: {all:?}")) }
}
impl World {
    pub fn play(mut self, counts: &mut Counts) -> Result<(), String> {
        // Histories begin with volumes in use: most of what can be lost is lost later.
        for name in ["c0", "c1"] {
            self.create_claim(name);
        }
        for _ in 0..4 {
            self.settle(counts).map_err(|why| self.told(&why))?;
        }
        self.write_files();
        for _ in 0..STEPS {
            let outcome = self.step(counts);
            self.observe();
            outcome.map_err(|why| self.told(&why))?;
        }
        self.make_good();
        let mut before = String::new();
        for round in 0..ROUNDS {
            self.settle(counts).map_err(|why| self.told(&why))?;
            let after = self.fingerprint();
            if after == before && round > 3 {
                counts.taken_back += self.disks.iter().map(|disk| disk.taken_back).sum::<u64>();
                return self.explained().map_err(|why| self.told(&why));
            }
            before = after;
        }
        Err(self.told("it does not come to rest"))
    }

    pub fn step(&mut self, counts: &mut Counts) -> Result<(), String> {
        // Watches are quick most of the time.
        if self.random.below(10) < 6 {
            self.listen();
        }
        match self.random.below(100) {
            0..10 => self.person(),
            10..15 => self.administrator(),
            15..18 => self.unusual(),
            18..24 => self.machine(),
            24..30 => self.store.bind(),
            30..34 => self.listen(),
            34..36 => self.now += Duration::from_secs(self.random.below(14)),
            36..60 => self.decide(counts),
            60..78 => return self.write(counts),
            78..92 => self.follow(),
            _ => return self.act(counts),
        }
        Ok(())
    }

    /// The right disk is back, and every process runs.
    pub fn make_good(&mut self) {
        self.note("everything is made good");
        self.mounted = 1;
    }

    /// Everybody does everything once.
    pub fn settle(&mut self, counts: &mut Counts) -> Result<(), String> {
        self.now += Duration::from_secs(9);
        self.store.bind();
        self.controller = self.store.clone();
        self.report = self.disks[self.mounted].kept();
        for claim in self.controller.claims.values().cloned().collect::<Vec<_>>() {
            self.decide_claim(&claim);
            self.write_all(counts)?;
        }
        for volume in self.controller.volumes.values().cloned().collect::<Vec<_>>() {
            self.decide_volume(&volume);
            self.write_all(counts)?;
        }
        self.settle_directories(counts)?;
        for local in self.store.locals.values().cloned().collect::<Vec<_>>() {
            self.follow_one(local);
        }
        // Asked and answered within one round, as it is when nothing stands in the way.
        self.settle_directories(counts)?;
        for local in self.store.locals.values().cloned().collect::<Vec<_>>() {
            self.follow_one(local);
        }
        while !self.doings.is_empty() {
            self.observe();
            self.act(counts)?;
        }
        Ok(())
    }

    pub fn settle_directories(&mut self, counts: &mut Counts) -> Result<(), String> {
        self.controller = self.store.clone();
        for local in self.controller.locals.values().cloned().collect::<Vec<_>>() {
            self.decide_directory(&local, counts);
            self.write_all(counts)?;
        }
        Ok(())
    }

    pub fn write_all(&mut self, counts: &mut Counts) -> Result<(), String> {
        while !self.writes.is_empty() {
            self.observe();
            self.write(counts)?;
        }
        Ok(())
    }
}
