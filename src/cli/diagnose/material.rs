//! What a diagnosis is made of: facts and record, from a cluster or from a dump.

use std::collections::BTreeSet;
use std::io::Write as _;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;

use crate::binding::{self, ClusterView as _, Rules};
use crate::cli::dump;
use crate::cli::snapshot::{CLUSTER_EVENTS, Snapshot};
use crate::crd::GROUP;
use crate::diagnosis::{Kind, Known, Record, Source, Subject};
use crate::facts::files::{Input, Manifests, Object, Request};
use crate::facts::server::anti_affinity_pods;
use crate::facts::{Fact, Facts, Unlisted};
use crate::report::style::{Style, clean};

/// Objects that could not be read and are named; more of them are counted.
const MOST_PROBLEMS: usize = 5;

/// Facts, record, and what was wrong with some objects.
pub(in crate::cli) struct Material {
    facts: Facts,
    record: Record,
    rules: Rules,
    problems: Vec<String>,
    /// Groups and kinds of which an object could not be read: it may be the one that is looked for.
    malformed: BTreeSet<(String, String)>,
}

/// One that is missing may be the one that counts: then none is known.
fn is_policies(group: &str, kind: &str) -> bool {
    (group, kind) == (GROUP, "PinPolicy")
}

impl Material {
    fn new(source: Source) -> Self {
        Self {
            facts: Facts::new(Unlisted::Unknown),
            record: Record::new(source),
            rules: Rules::default(),
            problems: Vec::new(),
            malformed: BTreeSet::new(),
        }
    }

    /// What was read from a cluster.
    pub fn of_snapshot(snapshot: &Snapshot) -> Self {
        let mut material = Self::new(Source::Cluster);
        for list in &snapshot.lists {
            let (group, kind) = (list.kind.group.as_str(), list.kind.kind.as_str());
            for object in &list.objects {
                material.add_fact(group, kind, object);
                material.add_record(group, kind, object);
            }
            if !list.is_whole {
                if is_policies(group, kind) {
                    material.facts.add(Fact::PoliciesNotTold);
                }
                let why = format!("there are too many {}, and only the first were read", list.kind.plural);
                material.is_partial(group, kind, why);
                continue;
            }
            if material.malformed.contains(&(group.to_owned(), kind.to_owned())) {
                material.is_partial(group, kind, format!("some objects of kind {kind} could not be read"));
                continue;
            }
            if let Some(kind) = binding::Kind::of(group, kind) {
                material.facts.complete(kind);
            }
            match (Kind::of(group, kind), list.about) {
                (Some(kind), None) => material.is_whole(kind, list.namespace.as_deref()),
                // The part of a namespace's events that is about objects of the whole cluster.
                (Some(kind), Some(_)) => material.record.is_whole(kind, Some("")),
                (None, _) => {}
            }
        }
        for missing in &snapshot.not_read {
            if is_policies(&missing.kind.group, &missing.kind.kind) {
                material.facts.add(Fact::PoliciesNotTold);
            }
            material.is_partial(&missing.kind.group, &missing.kind.kind, missing.why.clone());
        }
        material.record.set_time(snapshot.taken);
        material
    }

    /// What a file or a directory holds, and whether some of it could not be read, which is said on stderr. Where it `is_complete`,
    /// what is not there does not exist.
    pub fn of_dump(name: &str, namespace: Option<String>, is_complete: bool) -> anyhow::Result<(Self, bool)> {
        let request = Request { files: vec![Input::of(name)], recursive: true, namespace, ..Request::default() };
        let manifests = Manifests::read(&request)?;
        let style = Style::of_stderr();
        for problem in &manifests.problems {
            writeln!(anstream::stderr(), "{} {}", style.error("error:"), clean(&problem.to_string()))?;
        }
        let mut material = Self::of_manifests(&manifests);
        if is_complete {
            material.is_complete();
        }
        let is_partial = material.tell_problems()? || !manifests.problems.is_empty();
        Ok((material, is_partial))
    }

    /// What files hold.
    fn of_manifests(manifests: &Manifests) -> Self {
        let mut material = Self::new(Source::Dump);
        material.facts = manifests.facts().clone();
        material.malformed.clone_from(&manifests.malformed);
        for object in &manifests.objects {
            material.add_record(&object.group, &object.kind, &object.value);
        }
        for (group, kind) in material.malformed.clone() {
            material.is_partial(&group, &kind, format!("some objects of kind {kind} could not be read"));
        }
        let is_index = |object: &&Object| (object.group.as_str(), object.kind.as_str()) == (dump::GROUP, dump::KIND);
        let mut taken = None;
        for object in manifests.objects.iter().filter(is_index) {
            taken = material.read_index(&object.value).or(taken);
        }
        for list in &manifests.lists {
            let Some(kind) = Kind::of(&list.group, &list.kind) else { continue };
            for namespace in &list.namespaces {
                material.is_whole(kind, Some(namespace));
            }
        }
        for kind in [Kind::LocalNodes, Kind::LocalVolumes, Kind::Leases] {
            if manifests.lists.iter().any(|list| Kind::of(&list.group, &list.kind) == Some(kind)) {
                material.is_whole(kind, None);
            }
        }
        material.take_over_completeness();
        match taken {
            Some(taken) => material.record.set_time(taken),
            None => material.record.estimate_time(),
        }
        material
    }

    /// Of which kinds of the whole cluster everything is known, the facts tell.
    fn take_over_completeness(&mut self) {
        for (of_facts, of_record) in [
            (binding::Kind::Nodes, Kind::Nodes),
            (binding::Kind::Volumes, Kind::Volumes),
            (binding::Kind::Classes, Kind::Classes),
        ] {
            if self.facts.knows_all(of_facts) {
                self.record.is_whole(of_record, None);
            }
        }
    }

    /// When a dump of latebind's was taken, and what it says could not be read.
    fn read_index(&mut self, index: &Value) -> Option<Timestamp> {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        for missing in index.get("notRead").and_then(Value::as_array).into_iter().flatten() {
            self.is_partial(&text(missing, "group"), &text(missing, "kind"), text(missing, "why"));
        }
        for whole in index.get("everywhere").and_then(Value::as_array).into_iter().flatten() {
            if let Some(kind) = Kind::of(&text(whole, "group"), &text(whole, "kind")) {
                self.is_whole(kind, None);
            }
        }
        if index.get("clusterEvents").and_then(Value::as_bool) == Some(true) {
            self.record.is_whole(Kind::Events, Some(""));
        }
        text(index, "taken").parse().ok()
    }

    /// Every object of the kinds that are there is there.
    fn is_complete(&mut self) {
        for kind in Kind::ALL {
            if self.record.has_any(kind) {
                self.is_whole(kind, None);
            }
        }
        let found = [
            (Kind::Nodes, binding::Kind::Nodes),
            (Kind::Volumes, binding::Kind::Volumes),
            (Kind::Classes, binding::Kind::Classes),
        ];
        for (of_record, of_facts) in found {
            if self.record.has_any(of_record) && !self.lacks(of_record) {
                self.facts.complete(of_facts);
            }
        }
    }

    fn add_fact(&mut self, group: &str, kind: &str, object: &Value) {
        match Fact::read(group, kind, object) {
            Some(Ok(fact)) => self.facts.add(fact),
            Some(Err(error)) => {
                if is_policies(group, kind) {
                    self.facts.add(Fact::PoliciesNotTold);
                }
                self.problem((group, kind), object, &error);
            }
            None => {}
        }
    }

    fn add_record(&mut self, group: &str, kind: &str, object: &Value) {
        if let Err(error) = self.record.add(group, kind, object) {
            self.problem((group, kind), object, &error);
        }
    }

    fn problem(&mut self, (group, kind): (&str, &str), object: &Value, error: &serde_json::Error) {
        self.malformed.insert((group.to_owned(), kind.to_owned()));
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
        let told = format!("{}/{name}: {error}", kind.to_lowercase());
        if !self.problems.contains(&told) {
            self.problems.push(told);
        }
    }

    /// An object of the kind could not be read.
    fn lacks(&self, kind: Kind) -> bool {
        self.malformed.iter().any(|(group, of)| Kind::of(group, of) == Some(kind))
    }

    /// All objects of a kind are known that could be read: of one namespace, or of all.
    fn is_whole(&mut self, kind: Kind, namespace: Option<&str>) {
        if self.lacks(kind) {
            return;
        }
        self.record.is_whole(kind, namespace);
        if kind == Kind::Events && namespace == Some(CLUSTER_EVENTS) {
            self.record.is_whole(kind, Some(""));
        }
    }

    fn is_partial(&mut self, group: &str, kind: &str, why: String) {
        if let Some(kind) = Kind::of(group, kind) {
            self.record.is_partial(kind, why);
        }
    }

    /// Whether a Pod may be rewritten hangs on the Pods of all namespaces that keep others away. Where they cannot be listed,
    /// that stays unknown.
    pub async fn add_anti_affinity(&mut self, client: &Client) {
        if let Ok(pods) = anti_affinity_pods(client).await {
            for pod in pods {
                self.facts.add(pod);
            }
            self.facts.complete(binding::Kind::AntiAffinityPods);
        }
    }

    /// Names what could not be read on stderr. Answers whether there was anything.
    pub fn tell_problems(&self) -> std::io::Result<bool> {
        let (style, mut stderr) = (Style::of_stderr(), anstream::stderr().lock());
        for problem in self.problems.iter().take(MOST_PROBLEMS) {
            writeln!(stderr, "{} {}", style.error("error:"), clean(problem))?;
        }
        if let Some(more @ 1..) = self.problems.len().checked_sub(MOST_PROBLEMS) {
            writeln!(stderr, "{} {more} more objects could not be read", style.error("error:"))?;
        }
        Ok(!self.problems.is_empty())
    }

    /// The namespace of the only object of this kind and name; `default` where there are several or none.
    pub fn namespace_of(&self, subject: &Subject) -> String {
        let named = |name: &str| name == subject.name;
        let namespaces: Vec<&str> = match subject.kind.as_str() {
            "Pod" => self.record.pods().filter(|pod| named(pod.display_name())).map(|pod| pod.namespace()).collect(),
            "PersistentVolumeClaim" => {
                self.record.claims().filter(|claim| named(claim.name())).map(|claim| claim.namespace()).collect()
            }
            _ => return String::new(),
        };
        match namespaces.as_slice() {
            [only] => (*only).to_owned(),
            _ => "default".to_owned(),
        }
    }

    /// What the diagnosis looks at.
    pub fn known(&self) -> Known<'_> {
        Known { view: &self.facts, rules: &self.rules, record: &self.record }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::api::ApiResource;
    use serde_json::json;

    use super::*;
    use crate::binding::Lookup;
    use crate::cli::snapshot::List;

    #[test]
    fn of_a_kind_with_an_object_that_cannot_be_read_nothing_is_absent() {
        let known = |objects: Vec<Value>| {
            let list = List {
                kind: ApiResource::erase::<Node>(&()),
                namespace: None,
                resource_version: "7".to_owned(),
                objects,
                about: None,
                is_whole: true,
            };
            Material::of_snapshot(&Snapshot { lists: vec![list], not_read: vec![], taken: Timestamp::UNIX_EPOCH })
        };
        let read = json!({ "metadata": { "name": "a" } });
        let whole = known(vec![read.clone()]);
        assert!(matches!(whole.known().node("b"), Lookup::Absent));
        let part = known(vec![read, json!({ "metadata": { "name": "b" }, "spec": { "taints": 7 } })]);
        assert!(matches!(part.known().node("a"), Lookup::Found(_)));
        assert!(matches!(part.known().node("b"), Lookup::Unknown));
        assert_eq!(
            part.known().missing(Kind::Nodes, ""),
            Some("some objects of kind Node could not be read".to_owned())
        );
        assert!(!part.known().view.knows_all(binding::Kind::Nodes));
    }
}
