//! What the policies are asked.

use k8s_openapi::jiff::Timestamp;

use super::Mode;
use crate::model::Pod;

/// Who creates a Pod, as the API server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    /// The user. A service account is `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct PinRequest<'a> {
    /// The Pod, in the namespace that it is created in.
    pub pod: &'a Pod,
    /// Who creates it; absent where that is not known.
    pub requester: Option<&'a Requester>,
    /// The mode that holds where no policy has a say: `--mode`.
    pub mode: Mode,
    /// The moment, by which exceptions expire.
    pub now: Timestamp,
}
