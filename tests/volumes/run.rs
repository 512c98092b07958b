//! Runs a case: reads its objects, has the decision made, compares.

use std::collections::BTreeMap;
use std::sync::Arc;

use latebind::binding::Lookup;
use latebind::crd::{Kept, LocalNode, LocalPool, LocalVolume, OnDelete};
use latebind::model::{Claim, Class, LOCAL_VOLUME, Node, Pod, Text, Volume, plain_path};
use latebind::volumes::{
    Asked, ClaimStep, ClassParameters, DirectoryFacts, DirectoryStep, Earlier, NodeObstacle, NodeOrder, Order,
    OrphanFacts, PROVISIONER, Past, Patience, Permit, Request, Search, StorageView, Taken, TakenByPath, VolumeSet,
    VolumeStep, orphan_kept, orphan_order, plan_claim, plan_directory, plan_volume, removal, standing,
};
use latebind::{crd, rancher};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::format::{Case, Expect};

/// Everything that is read of a case.
#[derive(Default)]
struct Objects {
    claims: Vec<Claim>,
    classes: Vec<Class>,
    volumes: Vec<Arc<Volume>>,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    pools: BTreeMap<String, Arc<Kept<LocalPool>>>,
    reports: BTreeMap<String, Arc<Kept<LocalNode>>>,
    locals: BTreeMap<String, Arc<Kept<LocalVolume>>>,
    unknown: Vec<String>,
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|error| format!("{error} in {object}"))
}

impl Objects {
    fn of(case: &Case) -> Result<Self, String> {
        let mut all = Self { unknown: case.unknown.iter().cloned().collect(), ..Self::default() };
        for object in &case.objects {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            match object["kind"].as_str().unwrap_or_default() {
                "PersistentVolumeClaim" => all.claims.push(read(object)?),
                "StorageClass" => all.classes.push(read(object)?),
                "PersistentVolume" => all.volumes.push(Arc::new(read(object)?)),
                "Node" => all.nodes.push(Arc::new(read(object)?)),
                "Pod" => all.pods.push(Arc::new(read(object)?)),
                "LocalPool" => drop(all.pools.insert(name, Arc::new(read::<LocalPool>(object)?.into()))),
                "LocalNode" => drop(all.reports.insert(name, Arc::new(read::<LocalNode>(object)?.into()))),
                "LocalVolume" => {
                    let local: LocalVolume = read(&local(object))?;
                    all.locals.insert(local.name().to_owned(), Arc::new(local.into()));
                }
                kind => return Err(format!("{kind:?} is not a kind that decisions read")),
            }
        }
        Ok(all)
    }

    fn known<T>(&self, kind: &str, found: T) -> Lookup<T> {
        if self.unknown.iter().any(|unknown| unknown == kind) { Lookup::Unknown } else { Lookup::Found(found) }
    }

    fn found<T: Clone>(&self, kind: &str, found: Option<&T>) -> Lookup<T> {
        match self.known(kind, ()) {
            Lookup::Unknown => Lookup::Unknown,
            _ => Lookup::found_or(found.cloned(), Lookup::Absent),
        }
    }

    fn claim_of(&self, uid: Option<&str>) -> Lookup<Claim> {
        let Some(uid) = uid else { return Lookup::Unknown };
        self.found("claims", self.claims.iter().find(|claim| claim.metadata.uid.as_deref() == Some(uid)))
    }

    fn class(&self, claim: &Claim) -> Option<&Class> {
        self.classes.iter().find(|class| Some(class.name()) == claim.class_name())
    }

    fn set(&self) -> VolumeSet {
        self.volumes.iter().map(|volume| (**volume).clone()).collect()
    }

    fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name() == name).map(AsRef::as_ref)
    }
}

/// A LocalVolume without what every one of them has.
fn local(object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!("latebind.dev/v1alpha1");
    let spec = &object["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = LocalVolume::name_for(&text(&spec["claim"]["uid"]), &text(&spec["nodeName"]));
    let metadata = &mut object["metadata"];
    for (key, value) in [("name", json!(name)), ("uid", json!("lv-1")), ("finalizers", json!([crd::FINALIZER]))] {
        if metadata[key].is_null() {
            metadata[key] = value;
        }
    }
    object
}

impl StorageView for Objects {
    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.found("volumes", self.volumes.iter().find(|volume| volume.name() == name))
    }

    fn volumes_at(&self, path: &str) -> Lookup<Vec<Arc<Volume>>> {
        let here = |volume: &&Arc<Volume>| volume.path().map(plain_path).as_deref() == Some(path);
        self.known("volumes", self.volumes.iter().filter(here).cloned().collect())
    }

    fn foreign_volumes_on(&self, _: &Node, limit: usize) -> Lookup<Vec<Arc<Volume>>> {
        let foreign =
            |volume: &&Arc<Volume>| volume.path().is_some() && volume.metadata.annotation(LOCAL_VOLUME).is_none();
        self.known("volumes", self.volumes.iter().filter(foreign).take(limit).cloned().collect())
    }

    fn label_twin(&self, node: &Node, key: &str) -> Lookup<String> {
        let is_twin = |other: &&Arc<Node>| {
            other.name() != node.name() && node.label(key).is_some() && other.label(key) == node.label(key)
        };
        self.found("nodes", self.nodes.iter().find(is_twin).map(|twin| twin.name().to_owned()).as_ref())
    }

    fn best_node(&self, search: &Search<'_>, bytes: i64) -> Lookup<Result<Arc<Node>, NodeObstacle>> {
        let mut order = NodeOrder::default();
        for node in &self.nodes {
            order.set(node.name(), standing(search, node, self));
        }
        let best = order.best(&search.parameters.pool, search.pool.spec.room, bytes);
        let node = |name: &str| self.nodes.iter().find(|node| node.name() == name).cloned();
        self.known("nodes", best.map(|name| node(name).unwrap()))
    }

    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        self.found("nodes", self.nodes.iter().find(|node| node.name() == name))
    }

    fn pool(&self, name: &str) -> Lookup<Arc<Kept<LocalPool>>> {
        self.found("pools", self.pools.get(name))
    }

    fn report(&self, node: &str) -> Lookup<Arc<Kept<LocalNode>>> {
        self.found("reports", self.reports.get(node))
    }

    fn local(&self, name: &str) -> Lookup<Arc<Kept<LocalVolume>>> {
        self.found("locals", self.locals.get(name))
    }

    fn locals_of(&self, claim_uid: &str) -> Vec<Arc<Kept<LocalVolume>>> {
        self.locals.values().filter(|local| local.spec.claim.uid == claim_uid).cloned().collect()
    }

    fn earlier(&self, claim: &Claim) -> Lookup<Earlier> {
        let (namespace, name) = (claim.namespace(), claim.name());
        let same = |local: &&Arc<Kept<LocalVolume>>| {
            let spec = &local.spec;
            spec.on_delete == OnDelete::KeepPath && (spec.claim.namespace == namespace) && spec.claim.name == name
        };
        let mut kept = Vec::new();
        for (node, report) in &self.reports {
            let listed = report.status.iter().flat_map(|status| &status.kept);
            let ours = listed.filter(|directory| directory.namespace == namespace && directory.name == name);
            kept.extend(ours.map(|directory| (node.clone(), directory.clone())));
        }
        self.known("locals", Earlier { locals: self.locals.values().filter(same).cloned().collect(), kept })
    }

    fn taken(&self, node: &str, base: &str) -> Taken {
        self.locals.values().map(|local| &***local).collect::<TakenByPath>().of(node, base)
    }

    fn pinned_node(&self, claim: &Claim) -> Lookup<Option<String>> {
        let declares = |pod: &&Arc<Pod>| {
            let named = |name: &Text| *name == *claim.name();
            let sources = pod.spec.volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
            sources.map(|source| &source.claim_name).any(named)
        };
        let mut pinned = self.pods.iter().filter(declares).filter_map(|pod| pod.pinned_node());
        self.known("pods", pinned.next().map(str::to_owned))
    }
}

/// What came out, in the words of a case.
#[derive(Default)]
struct Outcome {
    step: String,
    why: String,
    told: bool,
    written: Value,
}

impl Outcome {
    fn new(step: impl Into<String>) -> Self {
        Self { step: step.into(), ..Self::default() }
    }

    fn why(step: &str, why: &str, told: bool) -> Self {
        Self { step: step.to_owned(), why: why.to_owned(), told, ..Self::default() }
    }

    fn writes(step: &str, written: Value) -> Self {
        Self { step: step.to_owned(), written, ..Self::default() }
    }
}

/// Runs a case; the error holds every difference.
pub fn run(case: &Case) -> Result<(), String> {
    let objects = Objects::of(case)?;
    let outcome = if let Some(name) = &case.claim {
        claim(name, case, &objects)?
    } else if let Some(name) = &case.directory {
        directory(name, &objects)?
    } else if let Some(name) = &case.volume {
        volume(name, &objects)?
    } else if let Some(name) = &case.removal {
        removed(name, &objects)?
    } else {
        let orphan = case.orphan.as_ref().ok_or("nothing is decided about")?;
        let volumes = objects.set();
        let facts = OrphanFacts { volumes: &volumes, claims: &objects.claims, node: objects.node_named("node-a") };
        match orphan_kept(orphan, &facts) {
            Some(why) => Outcome::why("keep", &why, true),
            None => Outcome::writes("order Delete", json!(orphan_order(orphan, "node-a", "uid-a"))),
        }
    };
    compare(&outcome, &case.expect)
}

fn compare(outcome: &Outcome, expect: &Expect) -> Result<(), String> {
    let mut differences = Vec::new();
    if outcome.step != expect.step {
        differences.push(format!("step: expected {}, got {} ({})", expect.step, outcome.step, outcome.why));
    }
    if let Some(why) = expect.why.as_ref().filter(|why| !outcome.why.contains(why.as_str())) {
        differences.push(format!("why: expected {why:?} in {:?}", outcome.why));
    }
    if expect.told.is_some_and(|told| told != outcome.told) {
        differences.push(format!("told: got {}", outcome.told));
    }
    for (pointer, expected) in &expect.fields {
        let found = outcome.written.pointer(pointer).unwrap_or(&Value::Null);
        if found != expected {
            differences.push(format!("{pointer}: expected {expected}, got {found}"));
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}

fn claim(name: &str, case: &Case, objects: &Objects) -> Result<Outcome, String> {
    let (namespace, name) = name.split_once('/').ok_or("a claim is given as namespace/name")?;
    let claim = objects.claims.iter().find(|claim| claim.namespace() == namespace && claim.name() == name);
    let claim = claim.ok_or("there is no such claim")?;
    let class = objects.class(claim).ok_or("the class of the claim is not listed")?;
    let parameters =
        if class.provisioner == PROVISIONER { ClassParameters::of(class) } else { rancher::parameters(class) };
    let parameters = parameters.map_err(|error| error.to_string());
    let request = Request { claim, class, parameters: parameters.as_ref().map_err(String::as_str) };
    let past =
        Past { created: case.past.created, reserved: case.past.reserved.clone(), silent: case.past.silent.clone() };
    let mut step = plan_claim(&request, objects, &past, &Asked::default());
    // The loop asks the API server, which knows what is listed here.
    if let ClaimStep::AskForNode(name) = &step
        && !case.unknown.contains("nodes")
    {
        let node = Some(objects.node(name));
        step = plan_claim(&request, objects, &past, &Asked { node });
    }
    Ok(match step {
        ClaimStep::Nothing => Outcome::new("nothing"),
        ClaimStep::Wait(patience) => Outcome::new(match patience {
            Patience::Caches => "wait for the caches",
            Patience::Moment => "wait a moment",
            Patience::Agent(_) => "wait for the agent",
            Patience::Person => "wait",
        }),
        ClaimStep::Refuse(refused) => Outcome::why("refuse", &refused.why, true),
        ClaimStep::Reserve(local) => Outcome::writes("order a directory", json!(local)),
        ClaimStep::Publish(publication) => Outcome::writes("make the volume", json!(publication.volume())),
        ClaimStep::GiveBack { why, .. } => Outcome::why("give the node back", &why, true),
        ClaimStep::AskForNode(_) => Outcome::new("ask for the node"),
    })
}

fn permitted(step: &str, permit: &Permit) -> Outcome {
    let written = json!({ "volume": permit.volume(), "otherPaths": permit.other_paths() });
    Outcome { step: format!("{step} {:?}", permit.disposal()), written, ..Outcome::default() }
}

fn directory(name: &str, objects: &Objects) -> Result<Outcome, String> {
    let local = objects.locals.get(name).ok_or("there is no such LocalVolume")?;
    if local.is_disposed() {
        let recorded = local.spec.persistent_volume.as_ref().map(|seen| seen.name.as_str()).unwrap_or_default();
        let volume = StorageView::volume(objects, recorded).map(|volume| (*volume).clone());
        let forget = latebind::volumes::may_forget(local, &volume);
        return Ok(Outcome::new(if forget { "forget" } else { "keep the record" }));
    }
    let volumes = objects.set();
    let owner = match volumes.of(local).as_slice() {
        [volume] => objects.claim_of(volume.claim_uid()),
        _ => Lookup::Unknown,
    };
    let maker = objects.claim_of(Some(&local.spec.claim.uid));
    let class = match &maker {
        Lookup::Found(claim) => objects.class(claim),
        Lookup::Absent | Lookup::Unknown => None,
    };
    let node = objects.node_named(&local.spec.node_name);
    let facts = DirectoryFacts { volumes: &volumes, owner: &owner, maker: &maker, class, node };
    Ok(match plan_directory(local, &facts) {
        DirectoryStep::Keep(kept) => Outcome::why("keep", &kept.why, kept.tell),
        DirectoryStep::Withdraw(kept) => Outcome::why("take the order back", &kept.why, kept.tell),
        DirectoryStep::Order(Order::Retained) => Outcome::new("say that it is retained"),
        DirectoryStep::Order(Order::Permitted(permit)) => permitted("order", &permit),
        DirectoryStep::Confirm { attempt, permit } => {
            let mut outcome = permitted("confirm", &permit);
            outcome.written["attempt"] = json!(attempt);
            outcome
        }
    })
}

fn volume(name: &str, objects: &Objects) -> Result<Outcome, String> {
    let volume = objects.volumes.iter().find(|volume| volume.name() == name).ok_or("there is no such volume")?;
    let local = volume.metadata.annotation(LOCAL_VOLUME).unwrap_or_default();
    let local = objects.locals.get(local).map(|local| &***local);
    let local = objects.known("locals", ()).map(|()| local);
    let local = match local {
        Lookup::Found(Some(local)) => Lookup::Found(local),
        Lookup::Found(None) | Lookup::Absent => Lookup::Absent,
        Lookup::Unknown => Lookup::Unknown,
    };
    Ok(match plan_volume(volume, &local) {
        VolumeStep::Nothing => Outcome::new("nothing"),
        VolumeStep::Recover(local) => Outcome::writes("make its LocalVolume again", json!(local)),
        VolumeStep::Record { seen, at_once } => {
            Outcome::writes(if at_once { "record it at once" } else { "record it" }, json!(seen))
        }
        VolumeStep::Hold => Outcome::new("set the finalizer"),
        VolumeStep::Release => Outcome::new("lift the finalizer"),
        VolumeStep::Remove => Outcome::new("let it go"),
        VolumeStep::Tell(why) => Outcome::why("keep", &why, true),
    })
}

fn removed(name: &str, objects: &Objects) -> Result<Outcome, String> {
    let volume = objects.volumes.iter().find(|volume| volume.name() == name).ok_or("there is no such volume")?;
    let local = objects.locals.values().next().ok_or("there is no LocalVolume")?;
    Ok(match removal(volume, local) {
        Ok(_) => Outcome::new("delete the volume"),
        Err(why) => Outcome::why("keep", &why, true),
    })
}
