//! Starts a real Kubernetes on this machine for tests, the demo and the curious.
//!
//! [`Cluster::start`] gives an etcd, an API server, a controller manager and a scheduler on loopback in a few
//! seconds, without root. With [`Options::nodes`] it adds real nodes: each has its own network, mount and PID namespace, its
//! own containerd, kubelet and kube-proxy, and power-cycling one is killing one process.
//!
//! The binaries are built from their Go modules (see [`Binaries`]); nothing is pulled from an image registry.
//! A guard process outlives the program that started a cluster and removes all of it (see [`guard`]).
//!
//! [`suite`] is the harness of the integration tests: one cluster for each tier, tests side by side in namespaces.

mod binaries;
mod certificates;
mod cluster;
mod components;
pub mod guard;
pub mod image;
mod kubeconfig;
mod layout;
mod leftovers;
mod network;
mod node;
pub mod prerequisites;
mod process;
mod scope;
mod simulated;
mod snapshot;
pub mod suite;
mod supervisor;
mod versions;
mod wait;
pub mod webhook;

pub use binaries::{Binaries, cache, etcd_snapshot, helm, krew, rancher_provisioner, storage_suite};
pub use certificates::{Authority, Identity};
pub use cluster::{Cluster, Component};
pub use components::Options;
pub use layout::{project_root, target_directory};
pub use node::{Node, NodeComponent};
pub use process::{Output, ProcessState, Signal};
pub use scope::Scope;
pub use simulated::SimulatedNode;
pub use versions::Version;
pub use wait::{eventually, holds_for};
