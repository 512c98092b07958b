//! From ConfigMaps and classes of the old provisioner to pools, with an account of everything.

use std::collections::BTreeSet;

use serde_json::Value;

use super::config::{ClassConfig, Config};
use super::input::{GivenConfig, Input, text};
use super::problem::{Problem, Problems};
use super::{nodes, rule, settings};
use crate::crd::{DiskRule, LocalPool, LocalPoolSpec};
use crate::model::{NO_PROVISIONER, Relation};
use crate::rancher::{Account, Accounts, Loss};

/// What an import gives.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Pools to create, one for each ConfigMap.
    pub pools: Vec<LocalPool>,
    /// The classes of their rules as they are in the input, without what the API server writes.
    pub classes: Vec<Value>,
    /// What becomes of each thing of the input.
    pub accounts: Vec<Account>,
}

impl Import {
    /// The directories that the agents have to be given (chart value `agent.diskPaths`).
    #[must_use]
    pub fn disk_paths(&self) -> BTreeSet<&str> {
        self.rules().map(|rule| rule.directory.as_str()).collect()
    }

    /// Whether the agents have to be given devices (chart value `agent.diskDevices`): a rule is for them.
    #[must_use]
    pub fn needs_devices(&self) -> bool {
        self.rules().any(|rule| rule.allow_data)
    }

    fn rules(&self) -> impl Iterator<Item = &DiskRule> {
        self.pools.iter().flat_map(|pool| &pool.spec.nodes).flat_map(|nodes| &nodes.discover)
    }
}

/// Translates everything that was given.
///
/// # Errors
/// Everything that cannot be used. The old provisioner does not run with most of it either.
pub fn import(input: &Input) -> Result<Import, Problems> {
    let configs = configs(input)?;
    let mut importing = Importing { input, made: Import::default(), accounts: Accounts::default() };
    for (given, config) in &configs {
        importing.config(given, config);
    }
    importing.across(&configs);
    importing.others(&configs);
    let Importing { mut made, accounts, .. } = importing;
    made.accounts = accounts.into_vec();
    Ok(made)
}

/// Every ConfigMap, read.
fn configs(input: &Input) -> Result<Vec<(&GivenConfig, Config)>, Problems> {
    let (mut read, mut problems): (Vec<(&GivenConfig, Config)>, _) = (Vec::new(), Vec::new());
    problems.extend(input.classes_with_two_contents().map(|name| Problem::Twice { place: format!("class {name}") }));
    for given in &input.configs {
        if read.iter().any(|(other, _)| other.place() == given.place()) {
            problems.push(Problem::Twice { place: given.place() });
            continue;
        }
        match Config::parse(&given.place(), &given.data) {
            Ok(config) => {
                problems.extend(overlaps(given, &config));
                read.push((given, config));
            }
            Err(Problems(found)) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(read) } else { Err(Problems(problems)) }
}

/// Classes of one ConfigMap that would offer the same disks.
fn overlaps(given: &GivenConfig, config: &Config) -> Vec<Problem> {
    let shown = |class: &ClassConfig| format!("{}: hostDir {}", class_place(given, class), class.directory);
    let mut found = Vec::new();
    for (at, one) in config.classes.iter().enumerate() {
        let later = config.classes.iter().skip(at + 1);
        for other in later.filter(|other| Relation::of(&one.directory, &other.directory).overlaps()) {
            found.push(Problem::Overlap { one: shown(one), other: shown(other) });
        }
    }
    found
}

fn class_place(given: &GivenConfig, class: &ClassConfig) -> String {
    format!("{}: {}: {}", given.place(), super::CLASS_MAP, class.name)
}

struct Importing<'a> {
    input: &'a Input,
    made: Import,
    accounts: Accounts,
}

impl Importing<'_> {
    fn config(&mut self, given: &GivenConfig, config: &Config) {
        let place = given.place();
        let mut rules: Vec<DiskRule> = Vec::new();
        for class in &config.classes {
            if self.class(&class.name) {
                rules.push(rule::rule(class, config, &class_place(given, class), &mut self.accounts));
            }
        }
        settings::account(config, &place, &mut self.accounts);
        for unknown in &config.unknown {
            self.accounts.not_needed(
                unknown,
                "the old provisioner knows no such key, and passed over it: is it a typing error?",
            );
        }
        if !config.labels.is_empty() {
            self.accounts.kept(format!("{place}: labelsForPV"), "`labels` of every rule");
        }
        if !config.node_labels.is_empty() {
            self.accounts.kept(format!("{place}: nodeLabelsForPV"), "`nodeLabels` of every rule");
        }
        if rules.is_empty() {
            let why = "it has no class that can be imported";
            return self.accounts.lost(Loss::Entries, format!("{place}: {}", super::CLASS_MAP), why);
        }
        let nodes = nodes::entries(given, &self.input.daemon_sets, &rules, &mut self.accounts);
        if nodes.is_empty() {
            return;
        }
        let name = self.pool_name(given);
        self.accounts.kept(format!("{place}: {}", super::CLASS_MAP), format!("LocalPool {name}"));
        self.made.pools.push(LocalPool::new(&name, LocalPoolSpec { nodes, ..LocalPoolSpec::default() }));
    }

    /// The name of the ConfigMap, with its namespace where another one has the same.
    fn pool_name(&self, given: &GivenConfig) -> String {
        let same = self.input.configs.iter().filter(|other| other.name == given.name).count();
        if same > 1 { format!("{}-{}", given.namespace, given.name) } else { given.name.clone() }
    }

    /// Takes over the class of a rule. False when there can be no rule for it.
    fn class(&mut self, name: &str) -> bool {
        let place = format!("class {name}");
        let Some(object) = self.input.classes.iter().find(|class| class["metadata"]["name"] == name) else {
            let why = if self.input.is_whole_cluster {
                "the cluster has no such class, and without it no volume is made: make it, with provisioner \
                 kubernetes.io/no-provisioner and volumeBindingMode WaitForFirstConsumer"
            } else {
                "it is not in the input: what it says is not known here, and it stays as it is"
            };
            self.accounts.left_alone(place, why);
            return true;
        };
        if !matches!(object["reclaimPolicy"].as_str(), None | Some("Delete" | "Retain")) {
            let policy = text(&object["reclaimPolicy"]);
            let why =
                format!("the volumes of a disk are Delete or Retain, and not `{policy}`: it had none before either");
            self.accounts.lost(Loss::Entries, format!("{place}: reclaimPolicy"), why);
            return false;
        }
        if object["provisioner"] != NO_PROVISIONER {
            let provisioner = text(&object["provisioner"]);
            let why = format!(
                "it is {provisioner}, and stays: a claim that no disk is large enough for waits for a program of that name; for \
                 disks alone it is {NO_PROVISIONER}"
            );
            self.accounts.changed(format!("{place}: provisioner"), why);
        }
        self.take(object, place);
        true
    }

    fn take(&mut self, object: &Value, place: String) {
        let is_of_helm = object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm";
        let note = if is_of_helm {
            "unchanged; Helm removes it with the release that made it: apply it afterwards"
        } else {
            "unchanged"
        };
        self.accounts.kept(place, note);
        if !self.made.classes.contains(object) {
            self.made.classes.push(object.clone());
        }
    }

    /// Directories that several ConfigMaps have: whether they are for the same nodes only a person knows.
    fn across(&mut self, configs: &[(&GivenConfig, Config)]) {
        let all: Vec<(&GivenConfig, &ClassConfig)> =
            configs.iter().flat_map(|(given, config)| config.classes.iter().map(|class| (*given, class))).collect();
        for (at, (one, class)) in all.iter().enumerate() {
            let later = all.iter().skip(at + 1).filter(|(other, _)| other.place() != one.place());
            for (other, same) in later.filter(|(_, it)| Relation::of(&class.directory, &it.directory).overlaps()) {
                let why = format!(
                    "it overlaps with {} of {}: see to it that no node is in both pools",
                    same.directory,
                    other.place()
                );
                self.accounts.changed(format!("{}: hostDir", class_place(one, class)), why);
            }
        }
    }

    /// What nothing of the import is about.
    fn others(&mut self, configs: &[(&GivenConfig, Config)]) {
        for other in &self.input.others {
            self.accounts.left_alone(other, "it is not imported");
        }
        let named: BTreeSet<&str> =
            configs.iter().flat_map(|(_, config)| &config.classes).map(|class| class.name.as_str()).collect();
        let classes = self.input.classes.iter().filter(|_| !self.input.is_whole_cluster);
        for name in classes.map(|class| text(&class["metadata"]["name"])) {
            if !named.contains(name.as_str()) {
                self.accounts.left_alone(format!("class {name}"), "no storageClassMap of the input names it");
            }
        }
    }
}
