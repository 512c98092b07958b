//! Where decisions about claims take their facts from.

use std::sync::Arc;

use super::parameters::ClassParameters;
use super::placement::NodeObstacle;
use super::same_claim::Earlier;
use super::taken::Taken;
use crate::binding::Lookup;
use crate::crd::{Kept, LocalNode, LocalPool, LocalVolume};
use crate::model::{Claim, Class, Node, Volume};

/// What decides which nodes could get a volume of a class.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The class.
    pub class: &'a Class,
    /// Its parameters.
    pub parameters: &'a ClassParameters,
    /// The pool that they name.
    pub pool: &'a LocalPool,
}

/// Facts from watch caches, or from a test case. Each answer takes the same time however many objects there are.
pub trait StorageView {
    /// A volume by name.
    fn volume(&self, name: &str) -> Lookup<Arc<Volume>>;
    /// The volumes that name this very path, in its plain form, on whatever node.
    fn volumes_at(&self, path: &str) -> Lookup<Vec<Arc<Volume>>>;
    /// Volumes that name a path and no LocalVolume and that may be on the node; no more than the limit.
    fn foreign_volumes_on(&self, node: &Node, limit: usize) -> Lookup<Vec<Arc<Volume>>>;
    /// A Node by name.
    fn node(&self, name: &str) -> Lookup<Arc<Node>>;
    /// Another Node that has the same value of a label, by name: the first of them.
    fn label_twin(&self, node: &Node, key: &str) -> Lookup<String>;
    /// The node that is best by [`NodeOrder`](super::NodeOrder) and has so many bytes left, or why there is none.
    fn best_node(&self, search: &Search<'_>, bytes: i64) -> Lookup<Result<Arc<Node>, NodeObstacle>>;
    /// A pool by name.
    fn pool(&self, name: &str) -> Lookup<Arc<Kept<LocalPool>>>;
    /// The report of a node.
    fn report(&self, node: &str) -> Lookup<Arc<Kept<LocalNode>>>;
    /// A LocalVolume by name.
    fn local(&self, name: &str) -> Lookup<Arc<Kept<LocalVolume>>>;
    /// The LocalVolumes of a claim.
    fn locals_of(&self, claim_uid: &str) -> Vec<Arc<Kept<LocalVolume>>>;
    /// What earlier claims of the same namespace and name have left, or are about to.
    fn earlier(&self, claim: &Claim) -> Lookup<Earlier>;
    /// What LocalVolumes take of a path of a node, those included that were ordered a moment ago.
    fn taken(&self, node: &str, base: &str) -> Taken;
    /// The node that a Pod with this claim names by itself. A Pod that the scheduler places has none before its claims are
    /// bound.
    fn pinned_node(&self, claim: &Claim) -> Lookup<Option<String>>;
}
