//! The loops that change objects of the cluster.

pub mod lost_nodes;
pub mod parameter;
pub mod policies;
pub mod rescue;
pub mod volumes;
