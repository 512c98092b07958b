//! `latebind uncordon`: a node takes Pods again, and the intent of its drain is over, as is an approval of it.

use std::io::Write as _;

use anyhow::bail;
use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Exit;
use super::cluster::ConnectArgs;
use super::drain::conditions::{self, Progress};
use crate::kubernetes::api::in_time;
use crate::model::{DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, DRAIN_INTENT, is_object_name};
use crate::report::style::clean;

/// Let a node take Pods again after latebind drain
#[derive(Debug, Args)]
pub struct UncordonArgs {
    /// The node.
    #[arg(value_name = "NODE")]
    node: String,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs it.
pub fn run(args: &UncordonArgs) -> anyhow::Result<Exit> {
    if !is_object_name(&args.node) {
        bail!("{:?} is not the name of a node", args.node);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.connect.client().await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let patch = json!({ "metadata": { "annotations": { DRAIN_INTENT: null, DRAIN_APPROVED_BY: null, DRAIN_APPROVED_UNTIL: null } },
            "spec": { "unschedulable": null } });
        match in_time(nodes.patch(&args.node, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => bail!("there is no node/{}", args.node),
            Err(error) => return Err(error.into()),
        }
        conditions::tell(&client, &args.node, "", Progress::Over).await?;
        writeln!(anstream::stdout(), "node/{} takes Pods again", clean(&args.node))?;
        Ok(Exit::Clean)
    })
}
