//! Kubernetes and the programs that tests use beside it: each built once for a user from its Go module, into a cache that all clones of this repository share.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use crate::layout;
use crate::versions::Version;

/// What one binary is called by, to act as each of these.
const COMPONENTS: [&str; 8] = [
    "device-driver",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// How long binaries of an older module file stay after they were last asked for: another clone may be on an older commit.
const KEPT_UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);

/// A directory with `etcd` and the Kubernetes binaries of one version.
#[derive(Clone, Debug)]
pub struct Binaries {
    version: Version,
    directory: PathBuf,
}

impl Binaries {
    /// The binaries of `version`, built first when they are missing or when their module has changed.
    ///
    /// Takes minutes when Go's build cache is cold, and says so while it lasts.
    pub fn ensure(version: Version) -> Result<Self> {
        Ok(Self { version, directory: Recipe::kubernetes(version)?.ensure()? })
    }

    /// Whether [`Binaries::ensure`] has nothing to build.
    #[must_use]
    pub fn exist(version: Version) -> bool {
        Recipe::kubernetes(version).and_then(|recipe| recipe.directory()).is_ok_and(|directory| directory.is_dir())
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
}

/// The path of `helm`, which is built when it is first asked for. Its directory has nothing else in it.
pub fn helm() -> Result<PathBuf> {
    Ok(Recipe::helm()?.ensure()?.join("helm"))
}

/// The path of krew, kubectl's plugin manager; built when it is first asked for.
pub fn krew() -> Result<PathBuf> {
    Ok(Recipe::krew()?.ensure()?.join("krew"))
}

/// The path of rancher's local-path provisioner, the peer that tests migrate from; built when it is first asked for.
pub fn rancher_provisioner() -> Result<PathBuf> {
    Ok(Recipe::rancher_provisioner()?.ensure()?.join("local-path-provisioner"))
}

/// The path of a program that saves a running etcd and restores it, built when it is first asked for.
pub fn etcd_snapshot() -> Result<PathBuf> {
    Ok(Recipe::etcd_snapshot()?.ensure()?.join("etcd"))
}

/// The directory of Kubernetes' own storage suite (`suite`), of what runs it (`ginkgo`), and of the programs of its images (`agnhost`,
/// `populator`); built when it is first asked for. It is of the default version.
pub fn storage_suite() -> Result<PathBuf> {
    Recipe::storage_suite()?.ensure()
}

/// The directory of the cache: `LATEBIND_KUBE_CACHE`, else one of the user's, else one in the target directory.
#[must_use]
pub fn cache() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(cache) = set("LATEBIND_KUBE_CACHE") {
        return layout::project_root().join(cache);
    }
    let users = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    match users.filter(|path| path.is_absolute()) {
        Some(users) => users.join("latebind/kubernetes"),
        None => layout::target_directory().join("kube"),
    }
}

/// How to make one directory of the cache.
struct Recipe {
    /// What the directory's name begins with: `1.37`, `helm`.
    family: String,
    /// `Kubernetes v1.37.2`
    title: String,
    /// The directory of the module's `go.mod` and `go.sum`.
    module: PathBuf,
    /// Where its packages are, when that is elsewhere: versions of one program share them.
    sources: Option<PathBuf>,
    /// What of it the programs are made from: its name, versions and sources.
    files: &'static [&'static str],
    /// Packages of programs. Each program is called like the last part of its package's path.
    packages: &'static [&'static str],
    /// Build tags: what of the sources only some versions can be built with.
    tags: &'static str,
    /// What the compiler is told about packages outside of the standard library.
    compiler_flags: &'static str,
    linker_flags: String,
    /// Other names of the program `kubernetes`.
    links: &'static [&'static str],
}

impl Recipe {
    fn kubernetes(version: Version) -> Result<Self> {
        let module = version.module();
        let release = required(&module, "k8s.io/kubernetes")?;
        Ok(Self {
            family: version.to_string(),
            title: format!("Kubernetes {release}"),
            sources: module.parent().map(Path::to_owned),
            module,
            files: &["go.mod", "../main.go", "../devices.go", "../devices_health.go"],
            packages: &["."],
            tags: if version < Version::V1_37 { "" } else { "devicehealth" },
            // Without inlining a build takes a third less. What is tested every day is to be fast instead.
            compiler_flags: if version == Version::DEFAULT { "" } else { "-l" },
            linker_flags: names_version(version, &release),
            links: &COMPONENTS,
        })
    }

    fn etcd_snapshot() -> Result<Self> {
        let module = layout::go_modules().join("etcd");
        let release = required(&module, "go.etcd.io/etcd/etcdutl/v3")?;
        Ok(Self {
            family: "etcd".to_owned(),
            title: format!("etcd's snapshots {release}"),
            module,
            sources: None,
            files: &["go.mod", "main.go"],
            packages: &["."],
            // As the default version, with which it shares packages.
            tags: "",
            compiler_flags: "",
            linker_flags: "-s -w".to_owned(),
            links: &[],
        })
    }

    fn storage_suite() -> Result<Self> {
        let module = layout::go_modules().join("conformance");
        let release = required(&module, "k8s.io/kubernetes")?;
        Ok(Self {
            family: "conformance".to_owned(),
            title: format!("the storage suite of Kubernetes {release}"),
            module,
            sources: None,
            files: &["go.mod", "suite/main.go", "populator/main.go"],
            packages: &[
                "./suite",
                "./populator",
                "github.com/onsi/ginkgo/v2/ginkgo",
                "k8s.io/kubernetes/test/images/agnhost",
            ],
            // As the default version, with which it shares packages.
            tags: "",
            compiler_flags: "",
            linker_flags: names_version(Version::DEFAULT, &release),
            links: &[],
        })
    }

    fn helm() -> Result<Self> {
        let module = layout::go_modules().join("helm");
        let release = required(&module, "helm.sh/helm/v3")?;
        Ok(Self {
            family: "helm".to_owned(),
            title: format!("helm {release}"),
            module,
            sources: None,
            files: &["go.mod"],
            packages: &["helm.sh/helm/v3/cmd/helm"],
            // As the default version, with which it shares packages.
            tags: "",
            compiler_flags: "",
            linker_flags: format!("-s -w -X helm.sh/helm/v3/internal/version.version={release}"),
            links: &[],
        })
    }

    fn krew() -> Result<Self> {
        let module = layout::go_modules().join("krew");
        let release = required(&module, "sigs.k8s.io/krew")?;
        Ok(Self {
            family: "krew".to_owned(),
            title: format!("krew {release}"),
            module,
            sources: None,
            files: &["go.mod"],
            packages: &["sigs.k8s.io/krew/cmd/krew"],
            tags: "",
            compiler_flags: "-l",
            linker_flags: "-s -w".to_owned(),
            links: &[],
        })
    }

    fn rancher_provisioner() -> Result<Self> {
        let module = layout::go_modules().join("rancher");
        let release = required(&module, "github.com/rancher/local-path-provisioner")?;
        Ok(Self {
            family: "rancher".to_owned(),
            title: format!("rancher local-path-provisioner {release}"),
            module,
            sources: None,
            files: &["go.mod"],
            packages: &["github.com/rancher/local-path-provisioner"],
            tags: "",
            compiler_flags: "-l",
            linker_flags: "-s -w".to_owned(),
            links: &[],
        })
    }

    /// Where the result is, or will be: the name says all that it was made from.
    fn directory(&self) -> Result<PathBuf> {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        for file in self.files.iter().map(|file| self.module.join(file)) {
            digest.update(&fs::read(&file).with_context(|| file.display().to_string())?);
        }
        let texts = [self.tags, self.compiler_flags, &self.linker_flags, env::consts::ARCH];
        for text in self.packages.iter().copied().chain(texts).chain(self.links.iter().copied()) {
            digest.update(text.as_bytes());
        }
        let fingerprint = crate::image::hexadecimal(&digest.finish().as_ref()[..6]);
        Ok(cache().join(format!("{}-{fingerprint}", self.family)))
    }

    /// The directory, made first when it is not there.
    fn ensure(&self) -> Result<PathBuf> {
        let directory = self.directory()?;
        if !directory.is_dir() {
            let parent = directory.parent().context("a cache has a parent")?;
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
            let lock = File::create(parent.join(format!(".{}.lock", self.family)))?;
            lock.lock().context("waiting for another build of the same binaries")?;
            // Another process may have built them while this one waited.
            if !directory.is_dir() {
                self.build(&directory)?;
                self.remove_unused(&directory)?;
            }
        }
        // It says when the directory was last used; one that another user made can be used all the same.
        File::open(&directory).and_then(|it| it.set_modified(SystemTime::now())).ok();
        Ok(directory)
    }

    fn build(&self, directory: &Path) -> Result<()> {
        let started = Instant::now();
        let work = directory.with_file_name(format!(".{}.new", self.family));
        match fs::remove_dir_all(&work) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir(&work)?,
        }
        eprintln!("building {} into {} (modules first)", self.title, directory.display());
        let flags = self.module_flags(&work)?;
        let total = self.count_packages(&flags)?;
        let mut command = self.go("build", &flags);
        // The linker leaves debugging information out (`-w`); not to make it saves a seventh of the compiler's time.
        let compiler = format!("-gcflags=all=-dwarf=false {}", self.compiler_flags);
        command.args(["-v", "-trimpath", "-buildvcs=false", compiler.trim_end(), "-gcflags=std=-dwarf=false"]);
        command.args(["-tags", self.tags, "-ldflags", &self.linker_flags, "-o"]);
        // The empty part at the end says that it is a directory.
        command.arg(work.join("")).args(self.packages).stderr(Stdio::piped());
        let mut build = command.spawn()?;
        let last = build.stderr.take().map(|stderr| narrate(stderr, total)).unwrap_or_default();
        ensure!(build.wait()?.success(), "`go build` of {} failed:\n{}", self.title, last.join("\n"));
        for link in self.links {
            std::os::unix::fs::symlink("kubernetes", work.join(link))?;
        }
        // The directory is there when all of it is.
        fs::rename(&work, directory)?;
        eprintln!("built {} in {:.0} s", self.title, started.elapsed().as_secs_f32());
        Ok(())
    }

    /// A module without sums is completed in the working directory, so that the source tree stays as it is.
    fn module_flags(&self, work: &Path) -> Result<Vec<String>> {
        if self.module.join("go.sum").is_file() {
            let named = |_| format!("-modfile={}", self.module.join("go.mod").display());
            return Ok(self.sources.as_ref().map(named).into_iter().collect());
        }
        let modfile = work.join("go.mod");
        fs::copy(self.module.join("go.mod"), &modfile)?;
        Ok(vec!["-mod=mod".to_owned(), format!("-modfile={}", modfile.display())])
    }

    /// How many packages the binary is made of; fetches the modules that have them.
    fn count_packages(&self, flags: &[String]) -> Result<usize> {
        let mut command = self.go("list", flags);
        command.arg("-deps").args(self.packages);
        let listed = command.output().context("`go` does not start: run `cargo run -p latebind-cluster -- setup`")?;
        let errors = String::from_utf8_lossy(&listed.stderr);
        ensure!(listed.status.success(), "the modules of {} are not all to be had:\n{errors}", self.title);
        Ok(listed.stdout.split(|byte| *byte == b'\n').count())
    }

    fn go(&self, verb: &str, flags: &[String]) -> Command {
        let mut command = Command::new("go");
        // Static binaries run in any mount namespace and in any image.
        command.current_dir(self.sources.as_ref().unwrap_or(&self.module)).env("CGO_ENABLED", "0");
        // A module that needs a newer Go than this machine has names it.
        command.env("GOTOOLCHAIN", "auto").arg(verb).args(flags);
        command
    }

    /// Removes what was made from other states of the module, once nobody has asked for it for long.
    fn remove_unused(&self, current: &Path) -> Result<()> {
        let family = format!("{}-", self.family);
        for entry in fs::read_dir(current.parent().context("a cache has a parent")?)? {
            let entry = entry?;
            let unused = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
            if entry.path() != current
                && entry.file_name().to_string_lossy().starts_with(&family)
                && unused().is_some_and(|age| age > KEPT_UNUSED)
            {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Linker flags by which a program of Kubernetes knows its release.
fn names_version(version: Version, release: &str) -> String {
    format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={release} -X k8s.io/component-base/version.gitMajor=1 \
         -X k8s.io/component-base/version.gitMinor={minor}",
        minor = version.minor()
    )
}

/// Shows how a `go build -v` gets on, and returns its last lines.
fn narrate(stderr: impl std::io::Read, total: usize) -> Vec<String> {
    let started = Instant::now();
    let mut tail: Vec<String> = Vec::new();
    let (mut done, mut shown) = (0_usize, Instant::now());
    let terminal = std::io::stderr().is_terminal();
    let pause = Duration::from_secs(if terminal { 1 } else { 20 });
    for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
        done += 1;
        if shown.elapsed() >= pause {
            shown = Instant::now();
            let start = if terminal { "\r\x1b[K" } else { "" };
            let end = if terminal { "" } else { "\n" };
            eprint!("{start}  {}{end}", progress(done, total, started.elapsed()));
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

/// One line about a build that has compiled `done` of at most `total` packages: what Go has in its cache it does not compile.
fn progress(done: usize, total: usize, elapsed: Duration) -> String {
    let so_far = format!("{done} of at most {total} packages compiled in {} s", elapsed.as_secs());
    let left = u32::try_from(total.saturating_sub(done)).ok().zip(u32::try_from(done).ok());
    match left {
        // Packages are of very different sizes: an early guess would be none.
        Some((left, done)) if done >= 200 => {
            format!("{so_far}, at most about {} s to go", (elapsed * left / done).as_secs() / 10 * 10 + 10)
        }
        _ => so_far,
    }
}

/// The version that a module requires of `dependency`.
pub(crate) fn required(module: &Path, dependency: &str) -> Result<String> {
    let modfile = module.join("go.mod");
    let content = fs::read_to_string(&modfile).with_context(|| format!("reading {}", modfile.display()))?;
    for line in content.lines() {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        if words.next() == Some(dependency)
            && let Some(version) = words.next().filter(|word| word.starts_with('v'))
        {
            return Ok(version.to_owned());
        }
    }
    bail!("{} does not require {dependency}", modfile.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_and_helm_have_a_directory_of_their_own_in_the_cache() {
        let tools = [Recipe::helm(), Recipe::krew(), Recipe::rancher_provisioner()];
        let others = tools.into_iter().chain([Recipe::etcd_snapshot(), Recipe::storage_suite()]);
        let recipes = Version::ALL.into_iter().map(Recipe::kubernetes).chain(others);
        let directories: Vec<_> = recipes.map(|recipe| recipe.unwrap().directory().unwrap()).collect();
        for (at, directory) in directories.iter().enumerate() {
            assert!(directory.starts_with(cache()));
            assert!(!directories[..at].contains(directory), "{directories:?}");
        }
    }

    #[test]
    fn only_binaries_that_nobody_asked_for_in_a_week_are_removed() {
        let cache = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - KEPT_UNUSED - Duration::from_secs(60);
        for (name, used) in
            [("1.37-new", None), ("1.37-recent", None), ("1.37-old", Some(old)), ("1.36-old", Some(old))]
        {
            fs::create_dir(cache.path().join(name)).unwrap();
            if let Some(used) = used {
                File::open(cache.path().join(name)).unwrap().set_modified(used).unwrap();
            }
        }
        let recipe = Recipe::kubernetes(Version::V1_37).unwrap();
        recipe.remove_unused(&cache.path().join("1.37-new")).unwrap();
        let mut left: Vec<_> = fs::read_dir(cache.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["1.36-old", "1.37-new", "1.37-recent"]);
    }

    #[test]
    fn progress_says_what_is_left_once_enough_is_done_to_tell() {
        assert_eq!(progress(10, 2900, Duration::from_secs(20)), "10 of at most 2900 packages compiled in 20 s");
        let line = progress(1450, 2900, Duration::from_secs(100));
        assert_eq!(line, "1450 of at most 2900 packages compiled in 100 s, at most about 110 s to go");
    }
}
