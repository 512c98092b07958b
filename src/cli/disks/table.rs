//! One line a disk.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::crd::{DiskReport, LocalDisk, LocalNode, Presence, READY, condition};
use crate::model::plain_path;
use crate::report::style::{Style, clean, columns};

/// A disk, and what has become of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub node: String,
    pub path: String,
    pub class: String,
    pub bytes: i64,
    /// In one word.
    pub state: &'static str,
    pub disk: String,
    /// What tells it from others, or what is wrong with it.
    pub about: String,
}

impl Row {
    /// Nobody has to do anything about it.
    pub fn is_well(&self) -> bool {
        matches!(self.state, "Available" | "Bound" | "Offered" | "New" | "Cleaning" | "Released")
    }
}

/// The disks of a cluster: those that are known, and what was found besides.
pub fn rows(nodes: &[LocalNode], disks: &[LocalDisk], phases: &BTreeMap<String, String>) -> Vec<Row> {
    let mut all: Vec<Row> =
        disks.iter().map(|disk| known(disk, phases.get(disk.volume_name()).map(String::as_str))).collect();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let found = node.status.iter().flat_map(|status| &status.disks);
        let is_known = |found: &DiskReport| {
            let mut here = disks.iter().filter(|disk| disk.spec.node_name == name);
            here.any(|disk| {
                plain_path(&disk.spec.path) == plain_path(&found.path) && disk.presence() == Presence::Present
            })
        };
        all.extend(found.filter(|found| !found.usable || !is_known(found)).map(|found| reported(name, found)));
    }
    all.sort_by(|one, two| (&one.node, &one.path, &one.disk).cmp(&(&two.node, &two.path, &two.disk)));
    all
}

/// The disks of this machine.
pub fn rows_of_machine(found: &[DiskReport]) -> Vec<Row> {
    found.iter().map(|found| reported("", found)).collect()
}

fn known(disk: &LocalDisk, phase: Option<&str>) -> Row {
    let (spec, status) = (&disk.spec, disk.status.clone().unwrap_or_default());
    let said =
        condition(&status.conditions, READY).filter(|ready| ready.status != "True").map(|ready| ready.message.clone());
    let is_cleaning = spec.clean.is_some() && !disk.is_cleaned();
    let state = match (status.presence, phase) {
        (Presence::Absent, _) => "NotThere",
        (Presence::Another, _) => "AnotherDisk",
        (Presence::Unknown, _) => "NotKnown",
        _ if is_cleaning && status.failures > 0 => "NotCleaned",
        _ if is_cleaning => "Cleaning",
        (_, Some("Available")) => "Available",
        (_, Some("Bound")) => "Bound",
        (_, Some("Released")) => "Released",
        (_, Some(_)) => "Offered",
        (_, None) if spec.unclean => "KeptBack",
        (_, None) if spec.not_offered.is_some() => "NotOffered",
        (_, None) => "New",
    };
    let owner = spec.claim.as_ref().map(|claim| format!("claim {}/{}", claim.namespace, claim.name));
    let progress = status.progress.as_ref().filter(|progress| is_cleaning && progress.total > 0);
    let progress = progress.map(|progress| format!("{}% done", progress.done.saturating_mul(100) / progress.total));
    let not_offered = spec.not_offered.clone().filter(|_| phase.is_none());
    let about = said.or(progress).or(not_offered).or(owner).unwrap_or_else(|| spec.identity.to_string());
    Row {
        node: spec.node_name.clone(),
        path: spec.path.clone(),
        class: spec.storage_class_name.clone(),
        bytes: status.capacity_bytes,
        state,
        disk: disk.name().to_owned(),
        about,
    }
}

fn reported(node: &str, found: &DiskReport) -> Row {
    let about = if found.usable { found.identity.to_string() } else { found.message.clone() };
    Row {
        node: node.to_owned(),
        path: found.path.clone(),
        class: found.storage_class_name.clone(),
        bytes: found.capacity_bytes,
        state: if found.usable { "New" } else { "NotOffered" },
        disk: String::new(),
        about,
    }
}

/// The list with what its readers know it by.
pub fn object(rows: &[Row]) -> Value {
    json!({
        "apiVersion": "latebind.dev/v1alpha1",
        "kind": "DiskList",
        "latebind": env!("CARGO_PKG_VERSION"),
        "disks": rows,
    })
}

/// For people.
pub fn text(rows: &[Row], style: Style) -> String {
    if rows.is_empty() {
        return "No disks were found: a LocalPool says where to look for them (`discover`)\n".to_owned();
    }
    let head = ["NODE", "PATH", "CLASS", "SIZE", "STATE", "DISK", ""].map(str::to_owned).to_vec();
    let cells = |row: &Row| {
        let cell = |text: &str| if text.is_empty() { "-".to_owned() } else { clean(text).into_owned() };
        let (node, path, class, disk) = (cell(&row.node), cell(&row.path), cell(&row.class), cell(&row.disk));
        vec![node, path, class, size(row.bytes), row.state.to_owned(), disk, clean(&row.about).into_owned()]
    };
    let table: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let lines = columns(&table, |line, column, cell| match (line.checked_sub(1), column) {
        (None, _) => style.faint(cell),
        (Some(line), 4) if !rows[line].is_well() => style.warning(cell),
        _ => cell.to_owned(),
    });
    let trimmed: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    trimmed.join("\n") + "\n"
}

/// As a quantity of Kubernetes, to one place.
fn size(bytes: i64) -> String {
    const UNITS: [(&str, i64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    let Some((unit, one)) = UNITS.into_iter().find(|(_, one)| bytes >= *one) else { return bytes.to_string() };
    let tenths = bytes.saturating_mul(10) / one;
    if tenths % 10 == 0 || tenths >= 1000 {
        format!("{}{unit}", tenths / 10)
    } else {
        format!("{}.{}{unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_kubernetes_writes_them() {
        for (bytes, text) in
            [(0, "0"), (1023, "1023"), (20 << 20, "20Mi"), ((1 << 30) + (1 << 29), "1.5Gi"), (3_i64 << 40, "3Ti")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
