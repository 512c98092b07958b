//! `latebind install`: the manifest that installs latebind, which is part of the binary.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::bail;
use clap::{Args, ValueEnum};

use super::Exit;
use crate::model::is_object_name;
use crate::policy::Mode;

/// Every object that the chart renders, each with the sets of parts that it belongs to; kept equal to it by a test.
const VARIANTS: &str = include_str!("../../webhook-manifests/variants.yaml");
const HEAD: &str = "# Rendered from webhook-manifests/chart by `make update`; change the chart, not this file.\n";
const HEAD_OF_PROVISIONER: &str = "# All of install.yaml, and local volumes.\n";

/// What the binding of the policy that refuses has, unless mode `deny` is that of every namespace.
const REFUSED_BY_LABEL: &str = "  \
  # Where a namespace may ask for it, and nowhere else: each policy costs every Pod a little.
  matchResources: {namespaceSelector: {matchExpressions: [{key: latebind.dev/mode, operator: Exists}]}}
";

/// What the chart names, where nothing else is asked for.
const NAMESPACE: &str = "latebind-system";
const REPOSITORY: &str = "ghcr.io/latebind/latebind";
const PORT: u16 = 10250;

/// Print the manifest that installs latebind, for kubectl apply -f -.
///
/// It is what the chart renders, of this version. For what no flag says use the chart, or edit what this prints.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  latebind install | kubectl apply -f -
  latebind install | kubectl delete -f -

  # local volumes too
  latebind install --with provisioner | kubectl apply -f -

  # nothing in the way of any request: Pods are helped once they are stuck
  latebind install --without webhook | kubectl apply -f -

  # nothing in the way either, and Pods are rewritten by the API server itself (Kubernetes 1.36)
  latebind install --profile policy | kubectl apply -f -

  # local volumes alone
  latebind install --with provisioner --without webhook,rescue | kubectl apply -f -

  # an image of your own registry, and see first what would be done
  latebind install --image registry.example/latebind:0.1.0 --mode audit | kubectl apply -f -")]
pub struct InstallArgs {
    /// By what Pods are rewritten when they are created: webhook; policy, a MutatingAdmissionPolicy of the API server (1.36 or
    /// newer), which leaves more to the rescue loop; or rescue, nothing.
    #[arg(long, value_name = "PROFILE", default_value = "webhook")]
    profile: Profile,

    /// A part that is not installed by itself: provisioner. Repeatable.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    with: Vec<Part>,

    /// A part that is not wanted: webhook or rescue. Repeatable.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    without: Vec<Part>,

    /// The image, such as registry.example/latebind:0.1.0; without a tag it is the one of this version.
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    image: Option<String>,

    /// The namespace to install into; it is made.
    #[arg(short, long, value_name = "NAME", default_value = NAMESPACE, value_parser = namespace)]
    namespace: String,

    /// What admission does about a Pod that would wait forever: audit, warn, rewrite or deny.
    #[arg(long, value_name = "MODE", default_value_t)]
    mode: Mode,

    /// The port of the webhook's Pods, which API servers must reach.
    #[arg(long, value_name = "PORT", default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1024..))]
    webhook_port: u16,
}

/// By what Pods are rewritten when they are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// The webhook
    Webhook,
    /// Policies of the API server
    Policy,
    /// Nothing: Pods are helped once they are stuck
    Rescue,
}

/// A part of latebind that can be installed without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Part {
    /// Reviews Pods when they are created; installed unless it is not wanted
    Webhook,
    /// Helps Pods that are stuck already; installed unless it is not wanted
    Rescue,
    /// Makes local volumes
    Provisioner,
    /// Policies of the API server, in place of the webhook
    #[value(skip)]
    Policy,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Rescue => "rescue",
            Self::Provisioner => "provisioner",
            Self::Policy => "policy",
        }
    }
}

/// Prints it.
///
/// # Errors
/// When the parts contradict each other, or stdout is closed.
pub fn run(args: &InstallArgs) -> anyhow::Result<Exit> {
    let text = args.manifest(&args.parts()?);
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Clean)
}

impl InstallArgs {
    fn parts(&self) -> anyhow::Result<BTreeSet<Part>> {
        let mut parts: BTreeSet<Part> = match self.profile {
            Profile::Webhook => [Part::Webhook, Part::Rescue].into(),
            Profile::Policy => [Part::Policy, Part::Rescue].into(),
            Profile::Rescue => [Part::Rescue].into(),
        };
        if self.profile != Profile::Webhook {
            if self.with.contains(&Part::Webhook) {
                bail!("--with webhook: only --profile webhook has it");
            }
            if self.without.contains(&Part::Rescue) {
                bail!("--without rescue: what this profile leaves is for the rescue loop");
            }
        }
        if let Some(both) = self.with.iter().find(|part| self.without.contains(part)) {
            bail!("--with {0} and --without {0} contradict each other", both.name());
        }
        parts.extend(&self.with);
        parts.retain(|part| !self.without.contains(part));
        if parts.is_empty() {
            bail!("nothing is left to install; add --with provisioner, or leave out one --without");
        }
        Ok(parts)
    }

    fn manifest(&self, parts: &BTreeSet<Part>) -> String {
        let name = parts.iter().map(|part| part.name()).collect::<Vec<_>>().join("+");
        let mut text = HEAD.to_owned();
        if parts.len() == 3 && parts.contains(&Part::Provisioner) {
            text += HEAD_OF_PROVISIONER;
        }
        for document in VARIANTS.split("---\n# for: ").skip(1) {
            let (sets, object) = document.split_once('\n').unwrap_or_default();
            if sets.split(' ').any(|set| set == name) {
                text += "---\n";
                text += object;
            }
        }
        let mode = format!("- --mode={}\n", self.mode);
        text = text.replace("- --mode=rewrite\n", &mode).replace(NAMESPACE, &self.namespace);
        if self.mode == Mode::Deny {
            text = text.replace(REFUSED_BY_LABEL, "");
        }
        for before in ["{port: ", "- --listen=0.0.0.0:", "containerPort: "] {
            text = text.replace(&format!("{before}{PORT}"), &format!("{before}{}", self.webhook_port));
        }
        match &self.image {
            Some(image) => text.replace(&format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION")), image),
            None => text,
        }
    }
}

/// A reference to an image, with a tag or a digest.
fn image(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter);
    let name = text.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || !text.chars().all(plain) || !text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Err("write an image as registry.example/latebind:0.1.0".to_owned());
    }
    // A colon before the last slash is a port's.
    Ok(if name.contains([':', '@']) { text.to_owned() } else { format!("{text}:{}", env!("CARGO_PKG_VERSION")) })
}

fn namespace(text: &str) -> Result<String, String> {
    if is_object_name(text) && text.len() <= 63 && !text.contains('.') {
        Ok(text.to_owned())
    } else {
        Err("a namespace has at most 63 small letters, digits and dashes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_one_of_this_version() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(image("r.example:5000/a/b"), Ok(format!("r.example:5000/a/b:{version}")));
        assert_eq!(image("r.example/a:1"), Ok("r.example/a:1".to_owned()));
        assert!(image("a@sha256:0").is_ok());
        for wrong in ["", "a b", "a\n---", "a/", "-a", "a\"b"] {
            assert!(image(wrong).is_err(), "{wrong:?}");
        }
    }
}
