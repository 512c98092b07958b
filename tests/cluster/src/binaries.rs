//! The Kubernetes binaries: built from Go modules into `target/kube/<version>/`, once.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::layout;

/// A Kubernetes minor version that this crate has a module file for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The oldest version that latebind claims.
    V1_33,
    /// The version that `make test` runs on.
    V1_36,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 2] = [Self::V1_33, Self::V1_36];

    /// What `KUBE_VERSION` asks for; 1.36 when it is unset.
    pub fn from_env() -> Result<Self> {
        match env::var("KUBE_VERSION") {
            Ok(wanted) if !wanted.is_empty() => Self::parse(&wanted),
            _ => Ok(Self::V1_36),
        }
    }

    /// Parses `1.36` or `v1.36`.
    pub fn parse(text: &str) -> Result<Self> {
        let wanted = text.trim_start_matches('v');
        Self::ALL.into_iter().find(|version| version.minor() == wanted).with_context(|| {
            let known: Vec<_> = Self::ALL.iter().map(|version| version.minor()).collect();
            format!("KUBE_VERSION={text} is not known here; choose one of {}", known.join(", "))
        })
    }

    /// `1.36`
    #[must_use]
    pub fn minor(self) -> &'static str {
        match self {
            Self::V1_33 => "1.33",
            Self::V1_36 => "1.36",
        }
    }

    fn modfile(self) -> PathBuf {
        layout::go_module().join(match self {
            Self::V1_33 => "go-1.33.mod",
            Self::V1_36 => "go.mod",
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.minor())
    }
}

/// A directory of binaries that belong together.
#[derive(Clone, Debug)]
pub struct Binaries {
    version: Version,
    directory: PathBuf,
    helm: PathBuf,
}

impl Binaries {
    const KUBERNETES: [&str; 6] =
        ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

    /// The binaries of `version`, built first when they are missing or older than their module file.
    ///
    /// Takes about five minutes on two cores when Go's build cache is cold, and says so while it lasts.
    pub fn ensure(version: Version) -> Result<Self> {
        let found = Self::at(version);
        if found.is_current()? {
            return Ok(found);
        }
        fs::create_dir_all(&found.directory)?;
        let lock = File::create(found.directory.join(".lock"))?;
        lock.lock().context("waiting for another build of the same binaries")?;
        // Another process may have built them while this one waited.
        if !found.is_current()? {
            found.build()?;
        }
        // helm is a tool of the default version's module only: one helm installs into any Kubernetes.
        if version != Version::V1_36 {
            Self::ensure(Version::V1_36)?;
        }
        Ok(found)
    }

    fn at(version: Version) -> Self {
        let kube = layout::target_directory().join("kube");
        Self { version, directory: kube.join(version.minor()), helm: kube.join(Version::V1_36.minor()).join("helm") }
    }

    /// Whether [`Binaries::ensure`] has nothing to build.
    #[must_use]
    pub fn exist(version: Version) -> bool {
        Self::at(version).is_current().unwrap_or(false)
    }

    /// The version of these binaries.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The directory they are in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of `etcd` or of a Kubernetes binary by its name.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The path of `helm`.
    #[must_use]
    pub fn helm(&self) -> &Path {
        &self.helm
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        let helm = (self.version == Version::V1_36).then_some("helm");
        Self::KUBERNETES.into_iter().chain(["etcd"]).chain(helm)
    }

    /// What the stamp file holds when the binaries were made from the present module file.
    fn fingerprint(&self) -> Result<String> {
        let modfile = self.version.modfile();
        let content = fs::read(&modfile).with_context(|| format!("reading {}", modfile.display()))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &content);
        Ok(crate::image::hexadecimal(digest.as_ref()))
    }

    fn is_current(&self) -> Result<bool> {
        let stamp = fs::read_to_string(self.directory.join(".stamp")).unwrap_or_default();
        Ok(stamp == self.fingerprint()? && self.names().all(|name| self.path(name).is_file()))
    }

    fn build(&self) -> Result<()> {
        let started = Instant::now();
        let modfile = self.version.modfile();
        let release = required_version(&modfile, "k8s.io/kubernetes")?;
        let mut flags = format!(
            "-s -w -X k8s.io/component-base/version.gitVersion={release} -X k8s.io/component-base/version.gitMajor=1 \
             -X k8s.io/component-base/version.gitMinor={minor}",
            minor = self.version.minor().trim_start_matches("1."),
        );
        if let Ok(helm) = required_version(&modfile, "helm.sh/helm/v3") {
            flags.push_str(" -X helm.sh/helm/v3/internal/version.version=");
            flags.push_str(&helm);
        }
        let output = format!("{}/", self.directory.display());
        let modfile_flag = format!("-modfile={}", modfile.display());
        let mut command = Command::new("go");
        // Static binaries run in any mount namespace and in any image.
        command.current_dir(layout::go_module()).env("CGO_ENABLED", "0").stderr(Stdio::piped());
        command.args(["build", &modfile_flag, "-v", "-trimpath", "-buildvcs=false", "-ldflags", &flags]);
        command.args(["-o", &output, "tool"]);
        eprintln!("building Kubernetes {release} into {output} (about 5 minutes the first time)");
        let mut build = command.spawn().context("`go` does not start: run `cargo run -p latebind-cluster -- setup`")?;
        let last = build.stderr.take().map(|stderr| narrate(stderr, started)).unwrap_or_default();
        ensure!(build.wait()?.success(), "`go build` of Kubernetes {release} failed:\n{}", last.join("\n"));
        // Go names the binary of etcd's module after its directory.
        fs::rename(self.path("server"), self.path("etcd"))?;
        fs::write(self.directory.join(".stamp"), self.fingerprint()?)?;
        eprintln!("built Kubernetes {release} in {:.0} s", started.elapsed().as_secs_f32());
        Ok(())
    }
}

/// Shows how a `go build -v` gets on, and returns its last lines.
fn narrate(stderr: impl std::io::Read, started: Instant) -> Vec<String> {
    let mut tail: Vec<String> = Vec::new();
    let (mut packages, mut shown) = (0_u32, Instant::now());
    let terminal = std::io::stderr().is_terminal();
    let pause = Duration::from_secs(if terminal { 1 } else { 20 });
    for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
        packages += 1;
        if shown.elapsed() >= pause {
            shown = Instant::now();
            let start = if terminal { "\r\x1b[K" } else { "" };
            let end = if terminal { "" } else { "\n" };
            eprint!("{start}  {packages} packages, {} s: {line}{end}", started.elapsed().as_secs());
            // Progress is worth nothing when nobody can read it; an error here changes nothing.
            std::io::stderr().flush().ok();
        }
        if tail.len() == 30 {
            tail.remove(0);
        }
        tail.push(line);
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
    tail
}

/// The version that a module file requires of `module`.
fn required_version(modfile: &Path, module: &str) -> Result<String> {
    let content = fs::read_to_string(modfile)?;
    for line in content.lines() {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        if words.next() == Some(module)
            && let Some(version) = words.next().filter(|word| word.starts_with('v'))
        {
            return Ok(version.to_owned());
        }
    }
    bail!("{} does not require {module}", modfile.display())
}
