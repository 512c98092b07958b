//! The directories of one node: made and removed beneath a base.
//!
//! Nothing here knows Kubernetes. Every step is relative to an open directory and follows no link: tenants own what is
//! inside a volume and may change it at any moment.

pub(super) mod base;
pub(super) mod changes;
pub(super) mod directory;
pub(super) mod emptying;
pub(super) mod error;
mod kept;
pub(super) mod marker;
pub(super) mod mounts;
pub(super) mod others;
pub(super) mod records;
pub(super) mod removal;
pub(super) mod trash;

#[cfg(test)]
mod tests;
