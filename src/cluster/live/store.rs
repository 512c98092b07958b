//! One kind's objects in memory, by name and by index, as a watch reports them.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display, Formatter};
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::Resource;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use crate::binding::Lookup;
use crate::model::{Guarded, Modelled, Text, Texts};

/// A kind that is kept in memory.
pub(crate) trait Cached: Modelled {
    /// What objects are looked up by, besides their name.
    type Index: Clone + Eq + Hash + Send + Sync;

    /// Drops everything that no decision reads, and shares texts that many objects have.
    fn trim(&mut self, texts: &mut Texts);

    /// What the object is to be found by.
    fn indexes(&self) -> Vec<Self::Index>;
}

/// Namespace, empty where there is none, and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    namespace: Text,
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

    fn of(object: &impl Modelled) -> Self {
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
pub(crate) enum News<K> {
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

impl<K: Modelled> Found<K> {
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
                objects.retain(|object| Key::of(&**object) != *key);
                objects.is_empty()
            }
        }
    }
}

struct Objects<K: Cached> {
    by_name: HashMap<Key, Entry<K>>,
    by_index: HashMap<K::Index, Found<K>>,
    /// Objects that exist but could not be read.
    malformed: HashSet<Key>,
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
            malformed: HashSet::new(),
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
    pub fn apply(&self, event: Event<Guarded<K>>) -> Outcome<K> {
        let mut objects = self.write();
        let changes = match event {
            Event::Init => {
                objects.generation += 1;
                objects.malformed.clear();
                None
            }
            Event::InitApply(read) | Event::Apply(read) => {
                let name = Key::of_wire(&read);
                match read.object {
                    Ok(object) => Some(objects.put(object)),
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
        let objects = self.read();
        if !objects.synced {
            return Lookup::Unknown;
        }
        Lookup::Found(objects.by_index.get(index).map(|found| found.as_slice().to_vec()).unwrap_or_default())
    }

    /// Every object, in no order.
    pub fn all(&self) -> Lookup<Vec<Arc<K>>> {
        let objects = self.read();
        if !objects.synced {
            return Lookup::Unknown;
        }
        Lookup::Found(objects.by_name.values().map(|entry| Arc::clone(&entry.object)).collect())
    }

    /// How many objects are held.
    pub fn len(&self) -> usize {
        self.read().by_name.len()
    }

    /// True once the first list has ended.
    pub fn is_synced(&self) -> bool {
        self.read().synced
    }

    /// Tells when the first list has ended.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects<K>> {
        // A panic while the lock is held ends the process's readiness; what is left is still the best that is known.
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects<K>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Cached> Objects<K> {
    fn put(&mut self, mut object: K) -> Changed<K> {
        object.trim(&mut self.texts);
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
    use crate::model::{Guarded, Node};

    fn node(name: &str, hostname: &str) -> Guarded<Node> {
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

    #[test]
    fn a_malformed_object_is_unknown_not_absent() {
        let store = Store::<Node>::default();
        store.apply(Event::Init);
        store.apply(Event::InitApply(node("a", "one")));
        store.apply(Event::InitDone);
        let broken: Guarded<Node> =
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
