//! `latebind plan drain --from`: what a dump says of each Pod, and what it does not.

use serde_json::{Value, json};

use super::{matches_golden, run, run_with};

const DUMP: &str = "tests/data/plan/node-a.yaml";

#[test]
fn each_pod_is_told_what_a_drain_does_to_it() {
    let run = run(&["plan", "drain", "node-a", "--from", DUMP, "--complete"]);
    assert_eq!((run.code, run.stderr.as_str()), (1, ""), "{}", run.stdout);
    matches_golden("plan-drain.txt", &run.stdout);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/drain.md")).unwrap();
    assert!(page.contains(&format!("```text\n{}```\n", run.stdout)), "docs/drain.md shows it: {}", run.stdout);
}

#[test]
fn yaml_and_json_say_the_same() {
    let plan = |format: &str| run(&["plan", "drain", "node-a", "--from", DUMP, "--complete", "-o", format]).stdout;
    let json: Value = serde_json::from_str(&plan("json")).unwrap();
    assert_eq!(json, serde_saphyr::from_str::<Value>(&plan("yaml")).unwrap());
    assert_eq!(
        (&json["kind"], &json["node"], &json["cordoned"]),
        (&json!("DrainPlan"), &json!("node-a"), &json!(false))
    );
    assert_eq!(
        json["pods"][0],
        json!({ "namespace": "db", "pod": "pg-0", "controller": "statefulset/pg", "outcome": "WaitsForThisNode",
            "why": "volume local-pv-1 of claim data-pg-0 is on this node alone", "deletedClaims": [], "held": [{
                "claim": "data-pg-0", "volume": "local-pv-1", "path": "/mnt/disks/vol1", "deletedWithClaim": true,
                "madeAnew": true }] })
    );
}

#[test]
fn a_dump_that_may_lack_something_proves_nothing() {
    let partial = run(&["plan", "drain", "node-a", "--from", DUMP, "-o", "json"]);
    assert_eq!(partial.code, 5, "{}", partial.stderr);
    let plan: Value = serde_json::from_str(&partial.stdout).unwrap();
    assert_eq!(plan["notKnown"][0], "some Pods may be missing in the dump");
    let outcome = |name: &str| {
        let pods = plan["pods"].as_array().unwrap();
        pods.iter().find(|pod| pod["pod"] == name).unwrap()["outcome"].as_str().unwrap().to_owned()
    };
    // Another node may reach the volume; that one can take the other is known.
    assert_eq!((outcome("pg-0").as_str(), outcome("front-1").as_str()), ("NotKnown", "StartsElsewhere"));
    // A Node that cannot be read may be the one.
    let malformed = "kind: Node\napiVersion: v1\nmetadata: {name: node-d}\nspec: {taints: 7}\n";
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(DUMP, directory.path().join("a.yaml")).unwrap();
    std::fs::write(directory.path().join("d.yaml"), malformed).unwrap();
    let unread = run(&["plan", "drain", "node-a", "--from", directory.path().to_str().unwrap(), "--complete"]);
    assert!(unread.code == 5 && unread.stderr.contains("d.yaml"), "{}", unread.stderr);
    assert!(!unread.stdout.contains("WaitsForThisNode") && !unread.stdout.contains("alone"), "{}", unread.stdout);
    let empty =
        run_with(&["plan", "drain", "a", "--from", "-"], b"kind: Node\napiVersion: v1\nmetadata: {name: a}\n", &[]);
    assert!(empty.code == 5 && empty.stdout.contains("of what is known, a drain evicts no Pod"), "{}", empty.stdout);
    let absent = run(&["plan", "drain", "node-z", "--from", DUMP]);
    assert_eq!((absent.code, absent.stdout.as_str()), (2, ""));
    assert!(absent.stderr.contains("node/node-z was not found: some Nodes may be missing"), "{}", absent.stderr);
    let gone = run(&["plan", "drain", "node-z", "--from", DUMP, "--complete"]);
    assert!(gone.code == 2 && gone.stderr.contains("there is no node/node-z"), "{}", gone.stderr);
}

#[test]
fn names_that_are_none_and_inputs_that_are_none_are_told() {
    let wrong = run(&["plan", "drain", "a,metadata.name=b", "--from", DUMP]);
    assert!(wrong.code == 2 && wrong.stderr.contains("is not the name of a node"), "{}", wrong.stderr);
    let missing = run(&["plan", "drain"]);
    assert!(missing.code == 2 && missing.stderr.contains("<NODE>"), "{}", missing.stderr);
    let hostile = "kind: Node\napiVersion: v1\nmetadata: {name: a}\n---\nkind: Pod\napiVersion: v1\nmetadata: {name: \"p\\u001b[2J\"}\nspec: {nodeName: a}\n";
    let run = run_with(&["plan", "drain", "a", "--from", "-", "--complete"], hostile.as_bytes(), &[]);
    assert!(run.code == 1 && !run.stdout.contains('\u{1b}'), "{:?}", run.stdout);
}

#[test]
fn a_claim_is_missing_only_where_all_claims_are_known() {
    let dump = "kind: Node\napiVersion: v1\nmetadata: {name: a}\n---\nkind: PersistentVolumeClaim\napiVersion: v1\nmetadata: {name: other, namespace: team}\n---\n\
        kind: Pod\napiVersion: v1\nmetadata:\n  name: p\n  namespace: team\n  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: u, controller: true}]\n\
        spec: {nodeName: a, volumes: [{name: v, persistentVolumeClaim: {claimName: gone}}]}\nstatus: {phase: Running}\n";
    let outcome = |args: &[&str]| {
        let run =
            run_with(&[&["plan", "drain", "a", "--from", "-", "-o", "json"], args].concat(), dump.as_bytes(), &[]);
        let plan: Value = serde_json::from_str(&run.stdout).unwrap();
        (run.code, plan["pods"][0]["outcome"].as_str().unwrap().to_owned())
    };
    assert_eq!(outcome(&["--complete"]), (1, "StartsNowhere".to_owned()));
    assert_eq!(outcome(&[]), (5, "NotKnown".to_owned()));
}
