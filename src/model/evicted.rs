//! A Pod that is to be evicted, and the other replicas of its StatefulSet.

/// What a live look at a Pod that is to be evicted says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvictedPod {
    /// It runs, is ready, and is not being deleted.
    Serves(OtherReplicas),
    /// It does not: nothing is lost by its eviction.
    Idle,
    /// It was not looked at, since too many others are.
    NotLookedAt,
}

/// How many replicas of a StatefulSet there are beside one of its Pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherReplicas {
    /// The Pod is of no StatefulSet.
    NoSet,
    /// The StatefulSet, or its Pods, could not be looked at.
    NotKnown,
    /// All that the StatefulSet asks for are ready.
    Ready {
        /// The one of the same node with the highest ordinal, where that is higher than the Pod's own.
        ahead: Option<String>,
    },
    /// Some are not.
    Awaited {
        /// Name of the StatefulSet.
        set: String,
        /// Others that it asks for.
        wanted: usize,
        /// Names of the Pods that are not ready.
        awaited: Vec<String>,
        /// Names of its claim templates.
        templates: Vec<String>,
    },
}
