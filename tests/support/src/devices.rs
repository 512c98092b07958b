//! Devices of a real driver, which runs beside the kubelet of a real node.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
use kube::api::ListParams;
use latebind_cluster::{NodeComponent, Scope, eventually};
use serde_json::{Value, json};

/// The driver's name.
pub const DRIVER: &str = "devices.latebind.test";
/// Starting it, and being found by the kubelet.
const PATIENCE: Duration = Duration::from_secs(60);

/// A driver that serves two devices of a node, until it is stopped.
pub struct Driver<'a> {
    scope: &'a Scope,
    node: &'a str,
    class: String,
}

impl<'a> Driver<'a> {
    /// Starts it, and waits until its devices are known.
    ///
    /// # Errors
    /// When there is no such node, or nothing is published in time.
    pub async fn start(scope: &'a Scope, node: &'a str) -> Result<Self> {
        let class = scope.unique("devices");
        scope
            .create::<DeviceClass>(json!({ "metadata": { "name": class }, "spec": { "selectors": [
                { "cel": { "expression": format!("device.driver == '{DRIVER}'") } },
            ] } }))
            .await?;
        scope.cluster()?.node(node)?.start(NodeComponent::DeviceDriver).await?;
        let slices = scope.all::<ResourceSlice>();
        eventually("the driver's devices to be published", PATIENCE, async || {
            let all = slices.list(&ListParams::default()).await?;
            Ok(all.items.iter().any(|slice| slice.spec.driver == DRIVER).then_some(()))
        })
        .await?;
        Ok(Self { scope, node, class })
    }

    /// The class of its devices.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(self) -> Result<()> {
        self.scope.cluster()?.node(self.node)?.stop(NodeComponent::DeviceDriver).await
    }
}

fn spec(class: &str) -> Value {
    json!({ "devices": { "requests": [{ "name": "one", "exactly": { "deviceClassName": class } }] } })
}

/// A ResourceClaim for one device of a class.
#[must_use]
pub fn claim(name: &str, class: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": spec(class) })
}

/// A template of such claims.
#[must_use]
pub fn template(name: &str, class: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "spec": spec(class) } })
}

/// The Pod, whose first container uses a device. The source names a claim or a template.
#[must_use]
pub fn used_by(mut pod: Value, source: &Value) -> Value {
    let mut reference = json!({ "name": "device" });
    crate::objects::merge(&mut reference, source);
    pod["spec"]["resourceClaims"] = json!([reference]);
    pod["spec"]["containers"][0]["resources"]["claims"] = json!([{ "name": "device" }]);
    pod
}
