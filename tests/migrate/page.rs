//! The commands of `docs/migrate.md`, and a person who types them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use latebind_cluster::{Cluster, Output, project_root};

/// The lines of each block of commands in a section, headed `heading`.
pub fn commands(heading: &str) -> Result<Vec<Vec<String>>> {
    let page = std::fs::read_to_string(project_root().join("docs/migrate.md"))?;
    let mut sections = page
        .split("\n#")
        .filter(|section| section.lines().next().is_some_and(|first| first.trim_start_matches('#').trim() == heading));
    let section = sections.next().with_context(|| format!("no section {heading}"))?;
    let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let blocks: Vec<Vec<String>> = blocks.map(|block| block.lines().map(str::to_owned).collect()).collect();
    ensure!(!blocks.is_empty(), "section {heading} has no commands");
    Ok(blocks)
}

/// A person who has latebind, kubectl and helm, a checkout, and a directory for files.
pub struct Person<'a> {
    cluster: &'a Cluster,
    directory: PathBuf,
}

impl<'a> Person<'a> {
    /// With an empty directory.
    pub fn new(cluster: &'a Cluster, name: &str) -> Result<Self> {
        let directory = cluster.directory().join(format!("migrate-{name}"));
        std::fs::create_dir_all(&directory)?;
        let manifests = directory.join("webhook-manifests");
        if !manifests.exists() {
            std::os::unix::fs::symlink(project_root().join("webhook-manifests"), manifests)?;
        }
        Ok(Self { cluster, directory })
    }

    /// Types a line.
    pub async fn types(&self, line: &str) -> Result<Output> {
        let latebind = std::path::Path::new(env!("CARGO_BIN_EXE_latebind")).parent().unwrap().display().to_string();
        let helm = latebind_cluster::helm()?;
        let helm = helm.parent().unwrap().display().to_string();
        let path = format!("PATH={latebind}:{}:{helm}:/usr/bin:/bin", self.cluster.binaries().directory().display());
        let config = format!("KUBECONFIG={}", self.cluster.kubeconfig().display());
        let home = format!("HOME={}", self.cluster.directory().display());
        let script = format!("cd '{}' && {line}", self.directory.display());
        self.cluster.run(&["env", &path, &config, &home, "bash", "-eo", "pipefail", "-c", &script]).await
    }

    /// Types the lines of a block, verbatim but for the image, which is the one of this tree.
    pub async fn follows(&self, block: &[String]) -> Result<()> {
        let image = "--set image.repository=localhost/latebind --set image.tag=test --timeout 100s";
        for line in block {
            let line = line.replace("helm install latebind ", &format!("helm install latebind {image} "));
            let output = self.types(&line).await?;
            if output.code != Some(0) {
                let pods = "kubectl get pods -A -o wide; kubectl -n latebind-system logs --all-containers --prefix --selector app.kubernetes.io/name=latebind --tail 20";
                let pods = self.types(pods).await?;
                bail!("{line}: {}\n{}\n{}", output.stdout, output.stderr, pods.stdout);
            }
        }
        Ok(())
    }
}
