//! The map in CONTRIBUTING.md is true: which room of `src` may use which, and no files that use each other in a circle.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use source::Sources;

/// One row of the table.
struct Room {
    uses: BTreeSet<String>,
    pure: bool,
}

/// The rows of the table, by the name of the room.
fn rooms() -> BTreeMap<String, Room> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md")).unwrap();
    let quoted = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(|name| name.trim_start_matches("src/").to_owned()).collect()
    };
    let mut rooms = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `src/")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "the row has four cells: {row}");
        for name in quoted(cells[1]) {
            let room = Room { uses: quoted(cells[3]), pure: cells[4].starts_with("no") };
            assert!(rooms.insert(name.clone(), room).is_none(), "{name} stands twice in the table");
        }
    }
    assert!(rooms.len() > 10, "the table was not found");
    rooms
}

#[test]
fn the_table_names_every_room_and_no_other() {
    let named: BTreeSet<String> = rooms().into_keys().collect();
    let found: BTreeSet<String> = Sources::read().rooms();
    assert_eq!(named, found, "left: CONTRIBUTING.md, right: src");
}

#[test]
fn rooms_use_only_what_the_table_lets_them() {
    let (rooms, sources) = (rooms(), Sources::read());
    let mut wrong = Vec::new();
    for (file, used) in sources.uses() {
        let (from, to) = (Sources::room(file), Sources::room(used));
        let allowed = from == to || rooms[from].uses.contains(to);
        if !allowed {
            wrong.push(format!("{file} uses {used}, but `{from}` may not use `{to}`"));
        }
    }
    assert!(wrong.is_empty(), "against the table in CONTRIBUTING.md:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_circles() {
    let rooms = rooms();
    let edges = rooms.iter().map(|(name, room)| (name.as_str(), room.uses.iter().map(String::as_str).collect()));
    assert_eq!(circles(&edges.collect()), Vec::<Vec<&str>>::new());
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let sources = Sources::read();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, used) in sources.uses() {
        edges.entry(file).or_default().insert(used);
    }
    assert_eq!(circles(&edges), Vec::<Vec<&str>>::new());
}

#[test]
fn rooms_without_a_clock_neither_wait_nor_read_files() {
    let (rooms, sources) = (rooms(), Sources::read());
    let waits = ["tokio::", "std::fs", "kube::Client", "Client,", "::now()", "SystemTime", ".await"];
    let mut wrong = Vec::new();
    for (file, text) in sources.texts() {
        if rooms[Sources::room(file)].pure {
            let found = waits.iter().filter(|word| text.contains(*word));
            wrong.extend(found.map(|word| format!("{file} has {word:?}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let edges = BTreeMap::from([
        ("a", BTreeSet::from(["b"])),
        ("b", BTreeSet::from(["c", "d"])),
        ("c", BTreeSet::from(["a"])),
        ("d", BTreeSet::new()),
    ]);
    assert_eq!(circles(&edges), [["a", "b", "c"]]);
}

/// Groups that reach each other along the edges, each sorted.
fn circles<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reached = |from: &'a str| {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = edges.get(from).into_iter().flatten().copied().collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(edges.get(next).into_iter().flatten());
            }
        }
        reached
    };
    let reach: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|from| (*from, reached(from))).collect();
    let mut found = BTreeSet::new();
    for (from, to) in reach.iter().filter(|(from, to)| to.contains(*from)) {
        let circle: Vec<&str> =
            to.iter().copied().filter(|other| reach.get(other).is_some_and(|back| back.contains(from))).collect();
        found.insert(circle);
    }
    found.into_iter().collect()
}
