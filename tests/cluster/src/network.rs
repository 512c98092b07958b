//! Addresses, and the links between host, cluster and nodes.
//!
//! A cluster with nodes has a network namespace of its own in which its control plane runs, joined to the host by one
//! veth pair. Each node has another one, joined to the cluster's bridge. So the host's links and nftables rules stay as
//! they were but for that one link, all clusters use the same addresses inside, and everything goes with the processes.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::leftovers;
use crate::supervisor::Client;

/// The Service range.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The control plane's address on the nodes' bridge.
pub(crate) const CONTROL_PLANE: &str = "10.49.0.1";
/// All Pods.
pub(crate) const PODS: &str = "10.244.0.0/16";
const BRIDGE: &str = "lb0";

/// The address of the node with this index.
pub(crate) fn node_address(index: u8) -> String {
    format!("10.49.0.{}", 11 + index)
}

/// The Pods of the node with this index.
pub(crate) fn pod_subnet(index: u8) -> String {
    format!("10.244.{}.0/24", 1 + index)
}

/// The host's link to a cluster.
pub(crate) fn host_link(directory: &Path) -> String {
    leftovers::tag(directory)
}

/// The two ends of the link between host and cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub host: Ipv4Addr,
    pub cluster: Ipv4Addr,
}

/// A pair of addresses that nothing on this host uses.
pub(crate) fn free_link(directory: &Path) -> Result<Link> {
    let taken = Command::new("ip")
        .args(["-4", "-oneline", "address", "show"])
        .output()
        .context("`ip` (Debian package iproute2)")?;
    let taken = String::from_utf8_lossy(&taken.stdout).into_owned();
    // Starting at a place of its own, each cluster rarely meets another that starts at the same time.
    let tag = u16::from_str_radix(&leftovers::tag(directory)[2..6], 16)?;
    for step in 0..64_u16 {
        let [high, low] = tag.wrapping_add(step.wrapping_mul(64)).to_be_bytes();
        let base = low & 0xfc;
        let link =
            Link { host: Ipv4Addr::new(10, 213, high, base + 1), cluster: Ipv4Addr::new(10, 213, high, base + 2) };
        if !taken.contains(&format!("inet {}/", link.host)) {
            return Ok(link);
        }
    }
    bail!("no free addresses below 10.213.0.0/16: `ip -4 address` shows who has them")
}

/// Joins the cluster's network namespace (that of process `pid`) to the host, and lays the nodes' bridge in it.
pub(crate) async fn connect(directory: &Path, link: Link, supervisor: &Client) -> Result<()> {
    let (name, pid) = (host_link(directory), supervisor.pid().await?.to_string());
    host(&["link", "add", &name, "type", "veth", "peer", "name", "host0", "netns", &pid])?;
    host(&["address", "add", &format!("{}/30", link.host), "dev", &name])?;
    host(&["link", "set", &name, "up"])?;
    let batch = format!(
        "link set lo up\n\
         address add {cluster}/30 dev host0\n\
         link set host0 up\n\
         link add {BRIDGE} type bridge\n\
         address add {CONTROL_PLANE}/24 dev {BRIDGE}\n\
         link set {BRIDGE} up\n",
        cluster = link.cluster
    );
    ip_batch(supervisor, batch).await?;
    // Names of network namespaces are files here, seen in the cluster's mount namespace only.
    for command in [&["mount", "-t", "tmpfs", "run", "/run"][..], &["mkdir", "/run/netns"]] {
        supervisor.run(command, None).await?.success()?;
    }
    Ok(())
}

/// Makes the network namespace of a node and joins it to the bridge.
pub(crate) async fn add_node(supervisor: &Client, node: &str, index: u8) -> Result<()> {
    let address = node_address(index);
    let cable = cable(index);
    supervisor.run(&["ip", "netns", "add", node], None).await?.success()?;
    let batch = format!(
        "link add {cable} type veth peer name eth0 netns {node}\n\
         link set {cable} master {BRIDGE} up\n\
         route add {subnet} via {address}\n",
        subnet = pod_subnet(index),
    );
    ip_batch(supervisor, batch).await?;
    let inside = format!(
        "link set lo up\n\
         address add {address}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {CONTROL_PLANE}\n"
    );
    supervisor.run(&["ip", "-n", node, "-batch", "-"], Some(inside)).await?.success()?;
    Ok(())
}

/// Tells each node how to reach the Pods of the others.
pub(crate) async fn route_pods(supervisor: &Client, nodes: &[(String, u8)]) -> Result<()> {
    for (node, index) in nodes {
        let mut batch = String::new();
        for (_, other) in nodes.iter().filter(|(_, other)| other != index) {
            batch.extend(["route replace ", &pod_subnet(*other), " via ", &node_address(*other), "\n"]);
        }
        supervisor.run(&["ip", "-n", node, "-batch", "-"], Some(batch)).await?.success()?;
    }
    Ok(())
}

/// Plugs a node's cable in or pulls it.
pub(crate) async fn set_cable(supervisor: &Client, index: u8, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    supervisor.run(&["ip", "link", "set", &cable(index), state], None).await?.success().map(drop)
}

fn cable(index: u8) -> String {
    format!("node{index}")
}

async fn ip_batch(supervisor: &Client, batch: String) -> Result<()> {
    supervisor.run(&["ip", "-batch", "-"], Some(batch)).await?.success().map(drop)
}

fn host(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}
