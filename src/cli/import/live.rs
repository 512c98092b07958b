//! Classes, configurations and volumes of a running cluster.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::cluster::ClusterArgs;
use crate::kubernetes::api::in_time;
use crate::rancher::Input;

/// Objects of one answer, as kubectl asks for.
const PAGE: u32 = 500;

/// Adds what the cluster has of rancher's provisioner and its relatives. Nothing is written.
pub(super) fn rancher(cluster: &ClusterArgs, input: &mut Input) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = cluster.client().await?;
        let mut objects = Vec::new();
        add::<StorageClass>(&client, &mut objects, |_| true).await?;
        let has_config = |map: &ConfigMap| map.data.as_ref().is_some_and(|texts| texts.contains_key("config.json"));
        add::<ConfigMap>(&client, &mut objects, has_config).await?;
        add::<Deployment>(&client, &mut objects, |_| true).await?;
        add::<DaemonSet>(&client, &mut objects, |_| true).await?;
        add::<PersistentVolume>(&client, &mut objects, |_| true).await?;
        for object in objects {
            input.add(object)?;
        }
        input.forget_others();
        Ok(())
    })
}

/// Classes, DaemonSets, and the ConfigMaps with a key of this name in any case. Nothing is written.
pub(super) fn sig_local(cluster: &ClusterArgs, key: &str) -> anyhow::Result<Vec<Value>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = cluster.client().await?;
        let mut objects = Vec::new();
        let has_key = |map: &ConfigMap| map.data.iter().flatten().any(|(found, _)| found.eq_ignore_ascii_case(key));
        add::<ConfigMap>(&client, &mut objects, has_key).await?;
        add::<StorageClass>(&client, &mut objects, |_| true).await?;
        add::<DaemonSet>(&client, &mut objects, |_| true).await?;
        Ok(objects)
    })
}

async fn add<K>(client: &Client, objects: &mut Vec<Value>, keep: impl Fn(&K) -> bool) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let api: Api<K> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = in_time(api.list(&page)).await?;
        for item in listed.items.into_iter().filter(|item| keep(item)) {
            let mut object = serde_json::to_value(&item)?;
            // The items of a list do not say what they are.
            object["kind"] = Value::from(K::kind(&()).into_owned());
            objects.push(object);
        }
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}
