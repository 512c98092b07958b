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
    Ready,
    /// Some are not.
    Awaited {
        /// Name of the StatefulSet.
        set: String,
        /// Others that it asks for.
        wanted: usize,
        /// Others that are ready.
        ready: usize,
        /// The first Pod that is not.
        first: Option<String>,
    },
}
