//! Kubeconfig files. They are written as JSON, which every reader of YAML reads.

use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::certificates::{self, Authority, Identity};

/// Writes a kubeconfig with everything embedded, so that a copy of the file works anywhere on this machine.
pub(crate) fn write(path: &Path, server: &str, authority: &Authority, identity: &Identity) -> Result<()> {
    let content = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "latebind",
        "contexts": [{ "name": "latebind", "context": { "cluster": "latebind", "user": "latebind" } }],
        "clusters": [{ "name": "latebind", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority.certificate()),
        } }],
        "users": [{ "name": "latebind", "user": {
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        } }],
    });
    certificates::write(path, &serde_json::to_string_pretty(&content)?)
}
