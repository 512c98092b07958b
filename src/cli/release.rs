//! `latebind release`: what becomes of a disk whose volume is retained, or gone, and that holds data of a claim.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::Exit;
use super::cluster::ConnectArgs;
use crate::crd::{DiskRelease, LocalDisk};
use crate::kubernetes::api::{in_time, list_all};
use crate::model::is_object_name;
use crate::report::style::clean;

const EXAMPLES: &str = "\
Examples:
  # its reclaim policy is Retain, and nobody needs the data any more
  latebind release pv/disk-0123456789abcdef0123456789abcdef --wipe

  # the next claim is to have the data
  latebind release pv/disk-0123456789abcdef0123456789abcdef --keep

  # its volume was deleted by hand, and the disk is not offered since
  latebind release disk/disk-0123456789abcdef0123456789abcdef --wipe

  # the disk is broken and will not come back
  latebind release disk/disk-0123456789abcdef0123456789abcdef --forget

Exit codes:
  0  it is ordered; `latebind disks` shows how it goes on
  1  it may not be: the volume is not released
  2  a flag or an input is wrong, or there is no such volume or disk
  3  the cluster cannot be reached, or refuses";

/// Say what becomes of a whole disk that holds data of a claim: it is cleaned, offered as it is, or given up
///
/// With your own rights: those to change PersistentVolumes, or LocalDisks. The disk is cleaned by the agent of its node, after the
/// controller has made sure that nobody uses it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[group(id = "how", required = true, multiple = false)]
pub struct ReleaseArgs {
    /// The volume, pv/NAME, or the LocalDisk, disk/NAME.
    #[arg(value_name = "pv/NAME|disk/NAME")]
    object: String,

    /// Remove all that is on the disk, and offer it again.
    #[arg(long, group = "how")]
    wipe: bool,

    /// Offer it with what is on it: whoever gets it gets the data.
    #[arg(long, group = "how")]
    keep: bool,

    /// The disk will not come back: remember nothing of it. Its volume goes.
    #[arg(long, group = "how")]
    forget: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs it.
pub fn run(args: &ReleaseArgs) -> anyhow::Result<Exit> {
    let (kind, name) = args.object.split_once('/').unwrap_or_default();
    if !is_object_name(name) {
        bail!("{:?} is neither pv/NAME nor disk/NAME", args.object);
    }
    let how = match (args.wipe, args.keep) {
        (true, _) => DiskRelease::Wipe,
        (_, true) => DiskRelease::Keep,
        _ => DiskRelease::Forget,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.connect.client().await?;
        match kind {
            "pv" | "persistentvolume" => volume(client, name, how).await,
            "disk" | "localdisk" | "ldisk" => disk(client, name, how).await,
            _ => bail!("{:?} is neither pv/NAME nor disk/NAME", args.object),
        }
    })
}

async fn volume(client: Client, name: &str, how: DiskRelease) -> anyhow::Result<Exit> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = match in_time(volumes.get(name)).await {
        Ok(volume) => volume,
        Err(error) if error.is_not_found() => bail!("there is no pv/{name}"),
        Err(error) => return Err(error.into()),
    };
    let disks = list_all(&Api::<LocalDisk>::all(client.clone())).await.context("reading LocalDisks")?;
    let Some(of) = disks.iter().find(|disk| disk.volume_name() == name).map(|disk| disk.name().to_owned()) else {
        bail!("pv/{name} is no whole disk of latebind's: `latebind disks` lists them")
    };
    let phase = volume.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    if phase != "Released" {
        writeln!(
            anstream::stderr(),
            "pv/{} is {}: delete its claim first, and release it then",
            clean(name),
            clean(&phase)
        )?;
        return Ok(Exit::Findings);
    }
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let owner = claim.map(|claim| {
        format!("{}/{}", claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default())
    });
    let owner = clean(&owner.unwrap_or_default()).into_owned();
    let wipe = how == DiskRelease::Wipe;
    let patch = json!({ "metadata": { "uid": volume.uid(), "resourceVersion": volume.resource_version() },
        "spec": { "persistentVolumeReclaimPolicy": if wipe { "Delete" } else { "Retain" } } });
    let patched = in_time(volumes.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
    if !wipe {
        if volume.metadata.deletion_timestamp.is_none() {
            let exactly = Preconditions { uid: patched.uid(), resource_version: patched.resource_version() };
            let parameters = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
            in_time(volumes.delete(name, &parameters)).await?;
        }
        // Last, so that it is never said of a volume that stays.
        set_release(client, &of, how).await?;
    }
    let outcome = match how {
        DiskRelease::Wipe => format!("what claim {owner} has written is removed"),
        DiskRelease::Keep => format!("offered again with what claim {owner} has written"),
        DiskRelease::Forget => "nothing is remembered of its disk".to_owned(),
    };
    writeln!(anstream::stdout(), "pv/{}: {outcome}", clean(name))?;
    Ok(Exit::Clean)
}

async fn disk(client: Client, name: &str, how: DiskRelease) -> anyhow::Result<Exit> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    match in_time(volumes.get(name)).await {
        Ok(_) => {
            writeln!(anstream::stderr(), "it has a volume: `latebind release pv/{}`", clean(name))?;
            return Ok(Exit::Findings);
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let disk = set_release(client, name, how).await?;
    let outcome = match how {
        DiskRelease::Wipe => "it is cleaned and offered again",
        DiskRelease::Keep => "it is offered again with what is on it",
        DiskRelease::Forget => "nothing is remembered of it",
    };
    writeln!(anstream::stdout(), "{} of node {}: {outcome}", clean(&disk.spec.path), clean(&disk.spec.node_name))?;
    Ok(Exit::Clean)
}

async fn set_release(client: Client, name: &str, how: DiskRelease) -> anyhow::Result<LocalDisk> {
    let disks: Api<LocalDisk> = Api::all(client);
    let patch = json!({ "spec": { "release": how } });
    match in_time(disks.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Err(error) if error.is_not_found() => bail!("there is no LocalDisk {name}: `latebind disks` lists them"),
        patched => patched.context("writing what becomes of the disk"),
    }
}
