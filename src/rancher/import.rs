//! From the configuration of another provisioner to pools and classes of ours, with an account of everything.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::account::{Account, Accounts, Loss, Outcome, lost};
use super::config::{Config, Location, Locations, NodePaths, checked};
use super::input::{GivenClass, GivenVolume, Input, Source, Uses};
use super::scripts::own_scripts;
use super::translate::{Translation, translate};
use super::{MICROK8S, MICROK8S_DIRECTORY};
use crate::crd::{LocalPool, LocalPoolSpec, Placement, PoolNodes, PoolPath, Room};
use crate::model::{Relation, plain_path};
use crate::volumes::PROVISIONER;

/// What an import gives.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Pools to create.
    pub pools: Vec<LocalPool>,
    /// Classes to create, in place of those of the same name.
    pub classes: Vec<StorageClass>,
    /// Provisioner names of the classes that were imported, for `--adopt`.
    pub adopt: BTreeSet<String>,
    /// What becomes of each thing of the input.
    pub accounts: Vec<Account>,
    /// What could not be kept, or is different now: one sentence each.
    pub notes: Vec<String>,
}

impl Import {
    /// Everything that is lost, but for what was accepted.
    pub fn lost<'a>(&'a self, accepted: &'a BTreeSet<Loss>) -> impl Iterator<Item = &'a Account> {
        lost(&self.accounts, accepted)
    }

    /// The directories that the agents have to be given (chart value `agent.basePaths`).
    #[must_use]
    pub fn base_paths(&self) -> BTreeSet<&str> {
        let nodes = self.pools.iter().flat_map(|pool| &pool.spec.nodes);
        nodes.flat_map(|nodes| &nodes.paths).map(|path| path.path.as_str()).collect()
    }
}

/// Translates one configuration and the classes that use it.
#[must_use]
pub fn import(config: &Config, classes: &[StorageClass]) -> Import {
    let mut input = Input::default();
    input.add_source(config.clone());
    for class in classes {
        input.add_class(class.clone());
    }
    import_all(&input)
}

/// Translates everything that was given.
#[must_use]
pub fn import_all(input: &Input) -> Import {
    let mut importing = Importing { input, made: Import::default(), accounts: Accounts::default(), used: Vec::new() };
    for given in &input.classes {
        importing.class(given);
    }
    for source in &input.sources {
        importing.source(source);
    }
    importing.volumes();
    for other in &input.others {
        importing.accounts.left_alone(other, "it is not imported");
    }
    if !importing.made.pools.is_empty() {
        importing.accounts.changed(
            "room",
            "sizes are not checked (`room: Ignore`), as before; `room: Free` refuses claims that are larger than what is free",
        );
    }
    let Importing { mut made, accounts, .. } = importing;
    made.accounts = accounts.into_vec();
    let differs = |account: &&Account| account.outcome != Outcome::Kept;
    made.notes = made.accounts.iter().filter(differs).map(ToString::to_string).collect();
    made
}

struct Importing<'a> {
    input: &'a Input,
    made: Import,
    accounts: Accounts,
    /// Configuration and class that uses it.
    used: Vec<(&'a str, &'a str)>,
}

/// The most entries of a pool and the most names of an entry, as the definition of LocalPool has them.
const MAX_ENTRIES: usize = 128;
const MAX_NAMES: usize = 1024;
const MAX_PATHS: usize = 64;
/// The most volumes that are named one by one: more lines than that nobody reads.
const MAX_VOLUMES: usize = 50;

impl<'a> Importing<'a> {
    fn class(&mut self, given: &'a GivenClass) {
        let name = given.name();
        let place = format!("class {name}");
        let provisioner = &given.class.provisioner;
        if !self.input.is_ours(given) {
            let why = if provisioner == PROVISIONER {
                "it is latebind's already".to_owned()
            } else {
                format!(
                    "it is of provisioner {provisioner} and left as it is; with --adopt {provisioner} it is imported"
                )
            };
            return self.accounts.left_alone(place, why);
        }
        if self.made.classes.iter().any(|made| made.name_any() == name) {
            let why = "another class of that name was given, which differs: give one of them";
            return self.accounts.lost(Loss::Entries, place, why);
        }
        if provisioner == MICROK8S {
            return self.microk8s(given);
        }
        match self.configured(given) {
            Ok((source, config)) => self.located(given, place, source, config),
            Err(why) => self.accounts.lost(Loss::Entries, place, why),
        }
    }

    /// Where a class is configured, and how.
    ///
    /// # Errors
    /// Why it is not known.
    fn configured(&mut self, given: &'a GivenClass) -> Result<(&'a Source, &'a Config), String> {
        let source = match self.input.source_of(given) {
            Uses::One(source) => source,
            Uses::Several(several) => {
                let several = several.join(" or ");
                return Err(format!(
                    "it may use {several}: import them one at a time, or give the Deployments of their provisioners too"
                ));
            }
            Uses::None if self.input.sources.is_empty() => {
                return Err("there is no config.json: give --config, or the ConfigMap that holds it".to_owned());
            }
            Uses::None => {
                let why = "it has no entry in storageClassConfigs, nor a configuration of its own: it was not served before either";
                return Err(why.to_owned());
            }
        };
        self.used.push((&source.place, given.name()));
        let config = source.config.as_ref().map_err(|_| format!("{} cannot be read", source.place))?;
        Ok((source, config))
    }

    /// Its paths become a pool, and it a class of ours.
    fn located(&mut self, given: &'a GivenClass, place: String, source: &'a Source, config: &'a Config) {
        let name = given.name();
        let location = match &config.locations {
            Locations::All(location) => Some((location, String::new())),
            Locations::ByClass(entries) => {
                entries.get(name).map(|entry| (entry, format!("storageClassConfigs: {name}: ")))
            }
        };
        match location {
            Some((Location::Shared(path), entry)) => {
                let what = format!("{}{entry}sharedFileSystemPath: {path}", within(source));
                self.shared(given, path, what, place);
            }
            Some((Location::Nodes(nodes), entry)) => {
                if let Some(pool) = pool(name, nodes) {
                    self.paths(source, &entry, nodes, name);
                    self.take(given, pool, Translation::rancher());
                } else {
                    let why = format!(
                        "its nodes have more than {MAX_ENTRIES} different lists of paths, or one of more than {MAX_PATHS} paths: \
                         make its LocalPool by labels"
                    );
                    self.accounts.lost(Loss::Entries, place, why);
                }
            }
            // `source_of` gives only configurations that list the class.
            None => {}
        }
    }

    /// A path that is the same on every node: one agent answers for it, and which one nobody but a person can say.
    fn shared(&mut self, given: &GivenClass, path: &str, what: String, place: String) {
        let Some(node) = self.input.shared_by() else {
            let why = format!(
                "it uses the shared path {path}, whose directories the agent of one node has to make: give --shared-by NODE, or keep the \
                 old provisioner for it"
            );
            self.accounts.lost(Loss::Entries, what, why.clone());
            return self.accounts.lost(Loss::Entries, place, why);
        };
        self.accounts
            .kept(what, format!("LocalPool {}, whose directories the agent of node {node} makes", given.name()));
        self.accounts.changed(
            format!("{path} on node {node}"),
            "it is used only while a file system is mounted there (`requireMount`): without one, directories would be made on that node's \
             own disk, and no other node would find them",
        );
        let paths = vec![PoolPath { path: path.to_owned(), require_mount: true }];
        let entry = PoolNodes { names: Some(vec![node.to_owned()]), paths, ..PoolNodes::default() };
        let spec = LocalPoolSpec {
            nodes: vec![entry],
            placement: Placement::RoundRobin,
            room: Room::Ignore,
            drain_policy: None,
        };
        self.take(given, LocalPool::new(given.name(), spec), Translation::of_shared());
    }

    fn microk8s(&mut self, given: &GivenClass) {
        let name = given.name();
        let directory =
            given.class.parameters.as_ref().and_then(|it| it.get("pvDir")).filter(|it| !it.trim().is_empty());
        let deployed =
            self.input.deployed.iter().filter(|it| it.provisioner == MICROK8S).find_map(|it| it.directory.as_ref());
        let path = directory.or(deployed).map_or(MICROK8S_DIRECTORY, String::as_str);
        let Ok(path) = checked(path) else {
            return self.accounts.lost(
                Loss::Entries,
                format!("class {name}"),
                format!("parameter pvDir (`{path}`) should be an absolute path below /"),
            );
        };
        self.accounts
            .kept(format!("class {name}: parameter pvDir: {path}"), format!("LocalPool {name}, on every node"));
        let nodes = [NodePaths { node: None, paths: vec![path] }];
        if let Some(pool) = pool(name, &nodes) {
            self.take(given, pool, Translation::microk8s());
        }
    }

    fn take(&mut self, given: &GivenClass, pool: LocalPool, translation: Translation) {
        self.accounts.kept(format!("class {}", given.name()), format!("class and LocalPool {}", given.name()));
        let class = translate(given, translation, &mut self.accounts);
        self.made.adopt.insert(given.class.provisioner.clone());
        self.made.pools.push(pool);
        self.made.classes.push(class);
    }

    fn paths(&mut self, source: &Source, entry: &str, nodes: &[NodePaths], class: &str) {
        for NodePaths { node, paths } in nodes {
            let node = node.as_deref().unwrap_or(super::config::OTHERS);
            let place = format!("{}{entry}nodePathMap: {node}", within(source));
            if paths.is_empty() {
                self.accounts.kept(place, format!("LocalPool {class}: no paths, so no volumes there"));
                continue;
            }
            for path in paths {
                self.accounts.kept(format!("{place}: {path}"), format!("LocalPool {class}"));
            }
        }
    }

    /// What a configuration says besides the paths of the classes that use it.
    fn source(&mut self, source: &'a Source) {
        let used: Vec<&str> =
            self.used.iter().filter(|(place, _)| *place == source.place).map(|(_, class)| *class).collect();
        let config = match &source.config {
            Ok(config) => config,
            Err(_) if !source.is_ours() => {
                self.accounts.left_alone(&source.place, "its config.json is of another program");
                return;
            }
            Err(error) => {
                self.accounts.lost(Loss::Entries, &source.place, error.to_string());
                return self.scripts(source, None);
            }
        };
        if used.is_empty() && !matches!(config.locations, Locations::ByClass(_)) {
            let why = "no class of the input uses it, and pools take their names from classes: give its class too";
            self.accounts.lost(Loss::Entries, &source.place, why);
        }
        if let Locations::ByClass(entries) = &config.locations {
            for name in entries.keys().filter(|name| !used.contains(&name.as_str())) {
                let place = format!("{}storageClassConfigs: {name}", within(source));
                let why = "its class is not in the input, or uses another configuration: give class and configuration together";
                self.accounts.lost(Loss::Entries, place, why);
            }
        }
        for (place, why) in &config.passed_over {
            self.accounts.not_needed(format!("{}{place}", within(source)), *why);
        }
        if let Some(seconds) = config.timeout {
            let place = format!("{}cmdTimeoutSeconds ({seconds})", within(source));
            self.accounts.not_needed(place, "there are no helper Pods to wait for");
        }
        self.scripts(source, Some(config));
    }

    /// What becomes of the volumes that are there: all of them go on; the question is who takes them away.
    fn volumes(&mut self) {
        let bases = self.made.base_paths();
        let is_beneath = |path: &str| {
            let path = plain_path(path);
            bases.iter().any(|base| Relation::of(&path, base) == Relation::Inside)
        };
        let ours = self.input.volumes.iter().filter(|volume| self.made.adopt.contains(&volume.provisioner));
        let (inside, outside): (Vec<&GivenVolume>, Vec<&GivenVolume>) =
            ours.partition(|volume| is_beneath(&volume.path));
        if !inside.is_empty() {
            let place = format!("volumes that are there: {}", inside.len());
            self.accounts.kept(
                place,
                "they go on as they are, and go with their directories when they are released under Delete",
            );
        }
        for volume in outside.iter().take(MAX_VOLUMES) {
            let why = format!(
                "it goes on as it is, but {} is beneath no path of a pool: its directory stays when it is released; add the path to a \
                 LocalPool and to agent.basePaths",
                volume.path
            );
            self.accounts.changed(format!("volume {}", volume.name), why);
        }
        if let Some(more @ 1..) = outside.len().checked_sub(MAX_VOLUMES) {
            self.accounts.changed(format!("{more} more volumes"), "they too are beneath no path of a pool");
        }
    }

    fn scripts(&mut self, source: &Source, config: Option<&Config>) {
        let own = own_scripts(&source.texts, config);
        for script in &own {
            let of_config = script.key.ends_with("Command");
            let place = if of_config { within(source) } else { format!("{}: ", source.place) };
            self.accounts.lost(Loss::Scripts, format!("{place}{}", script.key), script.note.clone());
        }
        for key in source.texts.keys().filter(|key| key.as_str() != "config.json") {
            let place = format!("{}: {key}", source.place);
            if own.iter().any(|script| script.key == *key) {
                continue;
            }
            match key.as_str() {
                "setup" | "teardown" => self.accounts.kept(place, "the stock script: the agent does the same"),
                "helperPod.yaml" => self.accounts.not_needed(place, "the stock template: there are no helper Pods"),
                _ => self.accounts.lost(
                    Loss::Scripts,
                    place,
                    "the old provisioner does not read it itself, a script of yours may: the agent runs none",
                ),
            }
        }
    }
}

/// The place of a key of `config.json`.
fn within(source: &Source) -> String {
    if source.name.is_some() { format!("{}: config.json: ", source.place) } else { format!("{}: ", source.place) }
}

/// A pool with these paths. Nodes with the same paths share an entry. `None` when it would be larger than a pool may be.
fn pool(name: &str, nodes: &[NodePaths]) -> Option<LocalPool> {
    let mut by_paths: BTreeMap<&[String], Vec<String>> = BTreeMap::new();
    for entry in nodes {
        if let Some(node) = &entry.node {
            by_paths.entry(&entry.paths).or_default().push(node.clone());
        }
    }
    let paths =
        |paths: &[String]| paths.iter().map(|path| PoolPath { path: path.clone(), require_mount: false }).collect();
    let mut entries: Vec<PoolNodes> = Vec::new();
    for entry in nodes.iter().filter(|entry| entry.node.is_none()) {
        entries.push(PoolNodes { paths: paths(&entry.paths), ..PoolNodes::default() });
    }
    for (its_paths, names) in by_paths {
        for names in names.chunks(MAX_NAMES) {
            entries.push(PoolNodes { names: Some(names.to_vec()), paths: paths(its_paths), ..PoolNodes::default() });
        }
    }
    let fits = entries.len() <= MAX_ENTRIES && nodes.iter().all(|entry| entry.paths.len() <= MAX_PATHS);
    let spec =
        LocalPoolSpec { nodes: entries, placement: Placement::RoundRobin, room: Room::Ignore, drain_policy: None };
    fits.then(|| LocalPool::new(name, spec))
}
