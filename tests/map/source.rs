//! Which file of `src` uses which, read from `use` lines and from paths that begin with `crate`, `self` or `super`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module, by its path from the crate.
type Module = Vec<String>;

/// The files of `src`, without tests and comments.
pub struct Sources {
    files: BTreeMap<Module, File>,
    /// What a module passes on from others, by name.
    passed_on: BTreeMap<Module, BTreeMap<String, Module>>,
    /// User and used.
    uses: BTreeSet<(Module, Module)>,
}

struct File {
    name: String,
    text: String,
}

impl Sources {
    pub fn read() -> Self {
        let mut files = BTreeMap::new();
        collect(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("src"), &mut files);
        let mut sources = Self { files, passed_on: BTreeMap::new(), uses: BTreeSet::new() };
        let paths = |module: &Module, file: &File| -> Vec<(bool, Module)> {
            let found = paths(&file.text);
            let absolute = |(public, path): (bool, Module)| Some((public, sources.absolute(module, &path)?));
            found.into_iter().filter_map(absolute).collect()
        };
        let all: Vec<(Module, Vec<(bool, Module)>)> =
            sources.files.iter().map(|(module, file)| (module.clone(), paths(module, file))).collect();
        for (module, found) in &all {
            let passed_on = found.iter().filter(|(public, _)| *public);
            let names = passed_on.filter_map(|(_, path)| Some((path.last()?.clone(), path.clone()))).collect();
            sources.passed_on.insert(module.clone(), names);
        }
        let mut uses = BTreeSet::new();
        for (module, found) in all {
            let targets = found.iter().filter(|(public, _)| !public).filter_map(|(_, path)| sources.owner(path, 0));
            uses.extend(targets.filter(|used| *used != module).map(|used| (module.clone(), used)));
        }
        sources.uses = uses;
        sources
    }

    pub fn rooms(&self) -> BTreeSet<String> {
        self.files.keys().map(|module| module[0].clone()).collect()
    }

    /// The room of a file.
    pub fn room(file: &str) -> &str {
        let inside = file.strip_prefix("src/").unwrap();
        inside.split_once('/').map_or(inside.trim_end_matches(".rs"), |(room, _)| room)
    }

    /// Files, and those that they use.
    pub fn uses(&self) -> impl Iterator<Item = (&str, &str)> {
        self.uses.iter().map(|(from, to)| (self.files[from].name.as_str(), self.files[to].name.as_str()))
    }

    /// Files and their texts.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.values().map(|file| (file.name.as_str(), file.text.as_str()))
    }

    /// The same path from the crate; `None` for paths into other crates.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module.as_slice(), rest].concat()),
            "super" => {
                let climbs = path.iter().take_while(|step| *step == "super").count();
                let above = module.len().checked_sub(climbs)?;
                Some([&module[..above], &path[climbs..]].concat())
            }
            _ => {
                let inside = [module.as_slice(), std::slice::from_ref(first)].concat();
                self.files.contains_key(&inside).then(|| [module.as_slice(), path].concat())
            }
        }
    }

    /// The module in which the thing of a path stands, behind whatever passes it on.
    fn owner(&self, path: &[String], depth: usize) -> Option<Module> {
        let known = (1..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
        let (module, rest) = path.split_at(known);
        let next = rest.first().and_then(|name| self.passed_on.get(module)?.get(name));
        match next {
            Some(next) if depth < 8 => self.owner(&[next.as_slice(), &rest[1..]].concat(), depth + 1),
            _ => Some(module.to_vec()),
        }
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<Module, File>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, files);
            continue;
        }
        let name = path.to_str().unwrap().to_owned();
        let Some(stem) = name.strip_prefix("src/").and_then(|name| name.strip_suffix(".rs")) else { continue };
        if stem.ends_with("tests") || ["lib", "main"].contains(&stem) {
            continue;
        }
        let module = stem.trim_end_matches("/mod").split('/').map(str::to_owned).collect();
        let text = fs::read_to_string(root.join(&path)).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        files.insert(module, File { name, text: code.join("\n") });
    }
}

/// Every path that the text uses, and whether it passes it on to others.
fn paths(text: &str) -> Vec<(bool, Module)> {
    let mut found = Vec::new();
    let mut code = String::new();
    let mut statement: Option<(bool, String)> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let (public, after) = match trimmed.strip_prefix("pub") {
            Some(rest) => (true, rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |it| it.1)),
            None => (false, trimmed),
        };
        match (&mut statement, after.trim_start().strip_prefix("use ")) {
            (Some((_, open)), _) => open.push_str(trimmed),
            (None, Some(path)) => statement = Some((public, path.to_owned())),
            (None, None) => {
                code.push_str(line);
                code.push('\n');
            }
        }
        if let Some((public, tree)) = statement.take_if(|(_, tree)| tree.ends_with(';')) {
            found.extend(expand(tree.trim_end_matches(';')).into_iter().map(|path| (public, path)));
        }
    }
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    for word in code.split(|letter: char| !is_part(letter)) {
        let path: Module = word.split("::").map(str::to_owned).collect();
        if path.len() > 1 && ["crate", "self", "super"].contains(&path[0].as_str()) {
            found.push((false, path));
        }
    }
    found
}

/// The paths of a use tree.
fn expand(tree: &str) -> Vec<Module> {
    let Some((before, inside)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.split("::").map(|step| step.trim().to_owned()).collect()];
    };
    let inside = &inside[..inside.rfind('}').unwrap()];
    let (mut depth, mut start, mut found) = (0_usize, 0, Vec::new());
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inside[start..at].trim();
                if !part.is_empty() {
                    found.extend(expand(&format!("{before}{part}")));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn use_trees_are_expanded() {
    let text = "use crate::a::{self, b::{C, D as E}};\npub(crate) use super::f;\nfn g() { crate::h::i::<u8>(); }";
    let found: Vec<String> =
        paths(text).into_iter().map(|(public, path)| format!("{public} {}", path.join("::"))).collect();
    assert_eq!(
        found,
        [
            "false crate::a::self",
            "false crate::a::b::C",
            "false crate::a::b::D",
            "true super::f",
            "false crate::h::i::"
        ]
    );
}
