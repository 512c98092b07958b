//! One kind's objects in memory, by name and by index, as a watch reports them.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Display, Formatter, Write};
use std::hash::Hash;
use std::sync::Arc;

use kube::Resource;
use kube::runtime::watcher::Event;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

use crate::binding::Lookup;
use crate::model::{ModelObject, OrMalformed, Text, Texts};

/// A kind that is kept in memory.
pub(crate) trait Cached: ModelObject {
    /// What objects are looked up by, besides their name.
    type Index: Clone + Eq + Hash + Send + Sync;

    /// Bytes of one object as it is kept, by the text of its `Debug` form, which is about what it takes in memory. One that
    /// is larger counts as not known. Administrators write most kinds, and may write what the API server takes.
    const MOST_KEPT: usize = 1 << 20;

    /// An API server may be without the kind. Then it is not waited for, and of its objects nothing is known.
    const MAY_BE_MISSING: bool = false;

    /// False for an object of which nothing is to be kept: it counts as one that does not exist.
    fn is_kept(&self) -> bool {
        true
    }

    /// Leaves out what makes an object too large to be kept, where the rest still tells something.
    fn cut(&mut self) {}

    /// The namespace of which an object must be to be found by the index; nothing where it may be of any. One that is not known
    /// could be one of them, were it known.
    fn namespace_of(_index: &Self::Index) -> Option<&Text> {
        None
    }

    /// Drops everything that no decision reads, and shares texts that many objects have.
    fn trim(&mut self, texts: &mut Texts);

    /// What the object is to be found by.
    fn indexes(&self) -> Vec<Self::Index>;
}

/// Namespace, empty where there is none, and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub namespace: Text,
    name: Text,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    fn of_wire(object: &impl Resource) -> Self {
        let metadata = object.meta();
        let part = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        Self { namespace: part(&metadata.namespace), name: part(&metadata.name) }
    }

    fn of(object: &impl ModelObject) -> Self {
        let identity = object.identity();
        Self { namespace: identity.namespace.unwrap_or_default(), name: identity.name.unwrap_or_default() }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What a watch brings.
pub(crate) enum CacheEvent<K> {
    /// An object came, changed or went; the cache shows it already.
    Changed(Changed<K>),
    /// All objects were listed anew, each of them reported as a change before.
    Listed,
}

/// An object before and after a change. Absent before: it appeared; absent after: it vanished.
#[derive(Clone, Debug)]
pub struct Changed<K> {
    /// As it was.
    pub before: Option<Arc<K>>,
    /// As it is.
    pub after: Option<Arc<K>>,
}

/// What a watch event did to a store.
pub(super) enum Outcome<K> {
    /// An object changed, or nothing did.
    Changed(Option<Changed<K>>),
    /// A new list has ended: these objects were not in it.
    Listed(Vec<Changed<K>>),
    /// An object is too large, and was kept without what makes it so.
    Cut { name: Key, change: Changed<K> },
    /// An object could not be read and is not known from now on.
    Malformed { name: Key, error: String, gone: Option<Changed<K>> },
}

struct Entry<K> {
    object: Arc<K>,
    /// The list in which the object was last seen.
    generation: u64,
}

/// Objects with one index, in the order of their names. Most have theirs alone.
enum Found<K> {
    One(Arc<K>),
    Many(Vec<Arc<K>>),
}

impl<K: ModelObject> Found<K> {
    fn as_slice(&self) -> &[Arc<K>] {
        match self {
            Self::One(object) => std::slice::from_ref(object),
            Self::Many(objects) => objects,
        }
    }

    fn insert(&mut self, object: Arc<K>) {
        let key = Key::of(&*object);
        match self {
            Self::One(only) if Key::of(&**only) == key => *only = object,
            Self::One(only) => {
                let mut both = vec![Arc::clone(only), object];
                both.sort_by_key(|object| Key::of(&**object));
                *self = Self::Many(both);
            }
            Self::Many(objects) => match objects.binary_search_by_key(&key, |object| Key::of(&**object)) {
                Ok(place) => objects[place] = object,
                Err(place) => objects.insert(place, object),
            },
        }
    }

    /// True when nothing is left.
    fn remove(&mut self, key: &Key) -> bool {
        match self {
            Self::One(only) => Key::of(&**only) == *key,
            Self::Many(objects) => {
                if let Ok(place) = objects.binary_search_by_key(key, |object| Key::of(&**object)) {
                    objects.remove(place);
                }
                objects.is_empty()
            }
        }
    }
}

/// A writer that keeps nothing, and fails once more has been written than there was room for.
struct Left(usize);

impl Write for Left {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(fmt::Error)?;
        Ok(())
    }
}

fn fits<K: Cached>(object: &K) -> bool {
    write!(Left(K::MOST_KEPT), "{object:?}").is_ok()
}

struct Objects<K: Cached> {
    by_name: HashMap<Key, Entry<K>>,
    by_index: HashMap<K::Index, Found<K>>,
    /// Objects that exist but could not be read.
    malformed: BTreeSet<Key>,
    texts: Texts,
    generation: u64,
    synced: bool,
}

/// The objects of one kind.
pub(super) struct Store<K: Cached> {
    objects: RwLock<Objects<K>>,
    synced: watch::Sender<bool>,
}

impl<K: Cached> Default for Store<K> {
    fn default() -> Self {
        let objects = Objects {
            by_name: HashMap::new(),
            by_index: HashMap::new(),
            malformed: BTreeSet::new(),
            texts: Texts::default(),
            generation: 0,
            synced: false,
        };
        Self { objects: RwLock::new(objects), synced: watch::Sender::new(false) }
    }
}

impl<K: Cached> Store<K> {
    /// Takes in a watch event.
    ///
    /// Objects of a new list are visible at once, and those that it lacks go when it ends: a second copy of a large
    /// store, and a time in which it is stale, are both avoided.
    pub fn apply(&self, event: Event<OrMalformed<K>>) -> Outcome<K> {
        let mut objects = self.write();
        let changes = match event {
            Event::Init => {
                objects.generation += 1;
                objects.malformed.clear();
                None
            }
            Event::InitApply(read) | Event::Apply(read) => {
                let name = Key::of_wire(&read);
                match read.object.and_then(|object| objects.fitting(object)) {
                    Ok(Some((object, true))) => return Outcome::Cut { name, change: objects.put(&object) },
                    Ok(Some((object, false))) => Some(objects.put(&object)),
                    Ok(None) => {
                        objects.malformed.remove(&name);
                        objects.remove(&name)
                    }
                    Err(error) => {
                        let gone = objects.remove(&name);
                        objects.malformed.insert(name.clone());
                        return Outcome::Malformed { name, error, gone };
                    }
                }
            }
            Event::Delete(object) => {
                let name = Key::of_wire(&object);
                objects.malformed.remove(&name);
                objects.remove(&name)
            }
            Event::InitDone => {
                let gone = objects.end_list();
                drop(objects);
                self.synced.send_replace(true);
                return Outcome::Listed(gone);
            }
        };
        Outcome::Changed(changes)
    }

    /// An object by name: known not to exist only once the first list has ended, and if it could be read.
    pub fn get(&self, key: &Key) -> Lookup<Arc<K>> {
        let objects = self.read();
        match objects.by_name.get(key) {
            Some(entry) => Lookup::Found(Arc::clone(&entry.object)),
            None if objects.synced && !objects.malformed.contains(key) => Lookup::Absent,
            None => Lookup::Unknown,
        }
    }

    /// Objects by index, in the order of their names.
    pub fn find(&self, index: &K::Index) -> Lookup<Vec<Arc<K>>> {
        self.find_some(index, usize::MAX)
    }

    /// The same, and no more than the first so many.
    pub fn find_some(&self, index: &K::Index, limit: usize) -> Lookup<Vec<Arc<K>>> {
        let objects = self.read();
        if !objects.synced || objects.lacks(K::namespace_of(index)) {
            return Lookup::Unknown;
        }
        let found = objects.by_index.get(index).map_or(&[][..], Found::as_slice);
        Lookup::Found(found.iter().take(limit).cloned().collect())
    }

    /// Every object, in no order.
    pub fn all(&self) -> Lookup<Vec<Arc<K>>> {
        let objects = self.read();
        if !objects.synced {
            return Lookup::Unknown;
        }
        Lookup::Found(objects.by_name.values().map(|entry| Arc::clone(&entry.object)).collect())
    }

    /// Every object, if each can be read. Of a kind that is not served there is none.
    pub fn every(&self) -> Lookup<Vec<Arc<K>>> {
        let objects = self.read();
        if objects.synced && objects.malformed.is_empty() {
            return Lookup::Found(objects.by_name.values().map(|entry| Arc::clone(&entry.object)).collect());
        }
        let is_not_served = !objects.synced && self.is_synced();
        if is_not_served { Lookup::Found(Vec::new()) } else { Lookup::Unknown }
    }

    /// How many objects are held.
    pub fn len(&self) -> usize {
        self.read().by_name.len()
    }

    /// The API server does not serve the kind: nobody is to wait for its objects, and whether there are any is not known.
    pub fn not_served(&self) {
        self.synced.send_replace(true);
    }

    /// True once the first list has ended, or is not to be waited for.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Tells when the first list has ended.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects<K>> {
        // A panic while the lock is held ends the process's readiness; what is left is still the best that is known.
        self.objects.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects<K>> {
        self.objects.write()
    }
}

impl<K: Cached> Objects<K> {
    /// The object as it is to be kept, if it is to be kept at all, and whether something was left out for its size.
    fn fitting(&mut self, mut object: K) -> Result<Option<(K, bool)>, String> {
        if !object.is_kept() {
            return Ok(None);
        }
        object.trim(&mut self.texts);
        if fits(&object) {
            return Ok(Some((object, false)));
        }
        object.cut();
        if fits(&object) {
            Ok(Some((object, true)))
        } else {
            Err(format!("what is kept of it takes more than {} KiB", K::MOST_KEPT >> 10))
        }
    }

    /// Whether an object of a namespace, or of any, is there and not known. Costs the same however many there are.
    fn lacks(&self, namespace: Option<&Text>) -> bool {
        let Some(namespace) = namespace else { return !self.malformed.is_empty() };
        let first = Key { namespace: namespace.clone(), name: Text::default() };
        self.malformed.range(first..).next().is_some_and(|key| key.namespace == *namespace)
    }

    fn put(&mut self, object: &K) -> Changed<K> {
        // A copy has no spare room, as lists that were read one item at a time have.
        let object = Arc::new(object.clone());
        let name = Key::of(&*object);
        self.malformed.remove(&name);
        let entry = Entry { object: Arc::clone(&object), generation: self.generation };
        let before = self.by_name.insert(name.clone(), entry).map(|entry| entry.object);
        if let Some(before) = &before {
            self.unindex(&name, before);
        }
        for index in object.indexes() {
            match self.by_index.entry(index) {
                Occupied(mut found) => found.get_mut().insert(Arc::clone(&object)),
                Vacant(place) => drop(place.insert(Found::One(Arc::clone(&object)))),
            }
        }
        Changed { before, after: Some(object) }
    }

    fn remove(&mut self, name: &Key) -> Option<Changed<K>> {
        let entry = self.by_name.remove(name)?;
        self.unindex(name, &entry.object);
        Some(Changed { before: Some(entry.object), after: None })
    }

    fn unindex(&mut self, name: &Key, object: &K) {
        for index in object.indexes() {
            if self.by_index.get_mut(&index).is_some_and(|found| found.remove(name)) {
                self.by_index.remove(&index);
            }
        }
    }

    fn end_list(&mut self) -> Vec<Changed<K>> {
        let current = self.generation;
        let gone: Vec<Key> = self
            .by_name
            .iter()
            .filter(|(_, entry)| entry.generation != current)
            .map(|(name, _)| name.clone())
            .collect();
        self.synced = true;
        gone.iter().filter_map(|name| self.remove(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::{Key, Outcome, Store};
    use crate::binding::Lookup;
    use crate::model::{Claim, Node, OrMalformed, Pod};

    fn node(name: &str, hostname: &str) -> OrMalformed<Node> {
        let object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": hostname}}});
        serde_json::from_value(object).unwrap()
    }

    fn names(found: Lookup<Vec<std::sync::Arc<Node>>>) -> Vec<String> {
        found.found().unwrap().iter().map(|node| node.name().to_owned()).collect()
    }

    #[test]
    fn nothing_is_absent_before_the_first_list_has_ended() {
        let store = Store::<Node>::default();
        store.apply(Event::Init);
        store.apply(Event::InitApply(node("a", "host-a")));
        assert!(matches!(store.get(&Key::new("", "a")), Lookup::Found(_)));
        assert!(matches!(store.get(&Key::new("", "b")), Lookup::Unknown));
        assert!(matches!(store.find(&"host-a".into()), Lookup::Unknown));
        store.apply(Event::InitDone);
        assert!(matches!(store.get(&Key::new("", "b")), Lookup::Absent));
        assert_eq!(names(store.find(&"host-a".into())), ["a"]);
    }

    #[test]
    fn a_new_list_drops_what_it_lacks_and_the_index_follows() {
        let store = Store::<Node>::default();
        for event in [Event::Init, Event::InitApply(node("a", "one")), Event::InitApply(node("b", "one"))] {
            store.apply(event);
        }
        store.apply(Event::InitDone);
        assert_eq!(names(store.find(&"one".into())), ["a", "b"]);
        store.apply(Event::Apply(node("a", "two")));
        assert_eq!(names(store.find(&"one".into())), ["b"]);
        store.apply(Event::Init);
        // While the list runs, nothing that was known is lost.
        assert!(matches!(store.get(&Key::new("", "b")), Lookup::Found(_)));
        store.apply(Event::InitApply(node("a", "two")));
        let Outcome::Listed(gone) = store.apply(Event::InitDone) else { panic!("a list has ended") };
        assert_eq!(gone.len(), 1);
        assert!(matches!(store.get(&Key::new("", "b")), Lookup::Absent));
        assert!(names(store.find(&"one".into())).is_empty());
        store.apply(Event::Delete(node("a", "two")));
        assert_eq!((store.len(), names(store.find(&"two".into())).len()), (0, 0));
    }

    fn pod(namespace: &str, name: &str, spec: &serde_json::Value) -> OrMalformed<Pod> {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})).unwrap()
    }

    #[test]
    fn what_a_tenant_writes_takes_no_room_unless_a_decision_reads_it() {
        let store = Store::<Claim>::default();
        let long = "x".repeat(240 << 10);
        let claim = |spec: serde_json::Value, key: &str, value: &str| -> OrMalformed<Claim> {
            let owners: Vec<_> = (0..500)
                .map(|place| {
                    json!({"apiVersion": "v1", "kind": "Pod", "name": format!("p{place}"),
                "uid": place.to_string(), "controller": place == 7})
                })
                .collect();
            let metadata =
                json!({"name": "c", "namespace": "a", "annotations": {key: value}, "ownerReferences": owners});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        for event in [Event::Init, Event::InitDone] {
            store.apply(event);
        }
        for key in ["latebind.dev/selected-node-by-the-way", "latebind.dev/x", "example.org/x"] {
            store.apply(Event::Apply(claim(json!({}), key, &long)));
            let Lookup::Found(kept) = store.get(&Key::new("a", "c")) else { panic!("{key}") };
            assert_eq!(kept.metadata.annotations, None, "{key}");
            assert_eq!(kept.metadata.owner_references.as_ref().map(Vec::len), Some(1));
        }
        // What would be read, and is too large to be kept, is not known: neither absent nor as it was.
        let selector = json!({"selector": {"matchLabels": {"a": long}}});
        for (spec, key) in [(json!({}), "volume.kubernetes.io/selected-node"), (selector, "a")] {
            store.apply(Event::Apply(claim(json!({}), "a", "b")));
            let outcome = store.apply(Event::Apply(claim(spec, key, &long)));
            let Outcome::Malformed { error, gone, .. } = outcome else { panic!("{key}") };
            assert!(error.contains("more than 16 KiB") && gone.is_some(), "{error}");
            assert!(matches!(store.get(&Key::new("a", "c")), Lookup::Unknown));
        }
    }

    #[test]
    fn of_a_namespace_with_a_pod_that_is_too_large_consumers_are_unknown() {
        let store = Store::<Pod>::default();
        for event in [Event::Init, Event::InitDone] {
            store.apply(event);
        }
        let volumes = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        store.apply(Event::Apply(pod("a", "p", &volumes)));
        store.apply(Event::Apply(pod("b", "p", &volumes)));
        let many: Vec<_> = (0..2_000)
            .map(|place| {
                json!({"matchExpressions": [{"key": format!("key-{place}"),
            "operator": "In", "values": ["x".repeat(100)]}]})
            })
            .collect();
        let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": many}}}});
        let outcome = store.apply(Event::Apply(pod("a", "large", &affinity)));
        assert!(matches!(outcome, Outcome::Malformed { .. }));
        assert!(matches!(store.find(&("a".into(), "c".into())), Lookup::Unknown), "it may use any claim there");
        assert_eq!(store.find(&("b".into(), "c".into())).found().unwrap().len(), 1);
        for near in ["", "A", "a-", "aa"] {
            assert!(
                store.find(&(near.into(), "c".into())).found().unwrap().is_empty(),
                "{near:?} is another namespace"
            );
        }
        store.apply(Event::Delete(pod("a", "large", &json!({}))));
        assert_eq!(store.find(&("a".into(), "c".into())).found().unwrap().len(), 1);
    }

    #[test]
    fn a_malformed_object_is_unknown_not_absent() {
        let store = Store::<Node>::default();
        store.apply(Event::Init);
        store.apply(Event::InitApply(node("a", "one")));
        store.apply(Event::InitDone);
        let broken: OrMalformed<Node> =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"taints": "none"}})).unwrap();
        let Outcome::Malformed { name, gone, .. } = store.apply(Event::Apply(broken)) else { panic!("malformed") };
        assert_eq!((name.to_string(), gone.is_some()), ("a".to_owned(), true));
        assert!(matches!(store.get(&Key::new("", "a")), Lookup::Unknown));
        store.apply(Event::Apply(node("a", "one")));
        assert!(matches!(store.get(&Key::new("", "a")), Lookup::Found(_)));
        store.apply(Event::Delete(node("a", "one")));
        assert!(matches!(store.get(&Key::new("", "a")), Lookup::Absent));
    }
}
