//! What `packaging/pack.py` makes of a binary, installed as people install it: archive, script, wheel, image, manifests. The
//! binary is the tests' own, since what is tested is the packing.
#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use latebind_test_support::release::Packed;
use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The name of this machine's architecture in archives.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

fn succeeded(output: Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str], directory: &Path) -> String {
    let mut command = Command::new(&program);
    let output = command.args(args).current_dir(directory).output();
    succeeded(output.unwrap_or_else(|error| panic!("{}: {error}", program.as_ref().display())))
}

/// Packed once for all tests.
static PACKED: LazyLock<Packed> = LazyLock::new(|| Packed::from(Path::new(env!("CARGO_BIN_EXE_latebind"))).unwrap());

/// A file of the release, as text.
fn text(name: &str) -> String {
    fs::read_to_string(PACKED.folder().join(name)).unwrap()
}

fn says_its_version(program: &Path) {
    assert_eq!(run(program, &["--version"], Path::new("/")), format!("latebind {VERSION}\n"));
}

#[test]
fn checksums_are_those_of_the_files() {
    let sums = text("SHA256SUMS");
    run("sha256sum", &["-c", "--quiet", "SHA256SUMS"], PACKED.folder());
    let files = fs::read_dir(PACKED.folder()).unwrap().count();
    assert_eq!(sums.lines().count(), files - 1, "every file but the list itself: {sums}");
}

#[test]
fn the_script_installs_what_the_checksums_say_and_nothing_else() {
    let (root, work) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
    // A mirror has a folder for each version.
    let mirror = work.path().join("mirror");
    let version = mirror.join(format!("v{VERSION}"));
    fs::create_dir_all(&version).unwrap();
    for name in [format!("latebind-{VERSION}-linux-{ARCHITECTURE}.tar.gz"), "SHA256SUMS".to_owned()] {
        fs::copy(PACKED.folder().join(&name), version.join(&name)).unwrap();
    }
    let install = |to: &str| {
        let mut command = Command::new(root.join("packaging/install.sh"));
        command.args([VERSION, to]).env("LATEBIND_RELEASES", format!("file://{}", mirror.display()));
        command.output().unwrap()
    };
    let bin = work.path().join("bin");
    assert!(succeeded(install(bin.to_str().unwrap())).contains(VERSION));
    says_its_version(&bin.join("latebind"));
    // One byte more, and it is not installed.
    let archive = version.join(format!("latebind-{VERSION}-linux-{ARCHITECTURE}.tar.gz"));
    let mut bytes = fs::read(&archive).unwrap();
    bytes.push(0);
    fs::write(&archive, bytes).unwrap();
    let other = work.path().join("other");
    assert!(!install(other.to_str().unwrap()).status.success());
    assert!(!other.exists());
}

/// Unpacks Debian's packages of a shell and the commands that come with it, and of what these need.
fn bare_debian(work: &Path) -> PathBuf {
    let root = work.join("root");
    let script = r#"
        set -euo pipefail
        mkdir -p root/usr/bin root/usr/sbin root/usr/lib root/usr/lib64 root/tmp root/dev debs
        for name in bin sbin lib lib64; do ln -s usr/$name root/$name; done
        : >root/dev/null
        wanted=(base-files bash dash coreutils grep gzip sed tar)
        cd debs
        fetch() {
          local no=(--no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances)
          mapfile -t all < <(apt-cache depends --recurse "${no[@]}" "${wanted[@]}" | grep -E '^[a-z0-9]' | grep -v : | sort -u)
          apt-get -qq -o APT::Sandbox::User=root download "${all[@]}"
        }
        fetch || { apt-get -qq update && fetch; }
        for deb in *.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C ../root; done
    "#;
    run("bash", &["-c", script], work);
    root
}

/// Nothing but what Debian calls essential: no certificates, no Python, no curl.
#[test]
fn the_archive_works_in_a_bare_debian() {
    let can =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !(rustix::process::geteuid().is_root() && can("apt-get") && can("dpkg-deb")) {
        assert!(std::env::var("CI").is_err(), "in CI nothing is skipped: this needs root on Debian");
        eprintln!("SKIPPED the_archive_works_in_a_bare_debian: it needs root on Debian");
        return;
    }
    let (project, work) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
    let root = bare_debian(work.path());
    let archive = PACKED.file(&format!("latebind-{VERSION}-linux-"), ".tar.gz").unwrap();
    for (from, to) in [
        (archive, "latebind.tar.gz"),
        (project.join("packaging/install.sh"), "install.sh"),
        (project.join("examples/deadlock/1-dynamic-class.yaml"), "pod.yaml"),
    ] {
        fs::copy(from, root.join(to)).unwrap();
    }
    let inside = |script: &str| {
        let mut command = Command::new("/usr/sbin/chroot");
        let output = command.arg(&root).args(["/bin/sh", "-c", script]).env("PATH", "/usr/local/bin:/usr/bin").output();
        output.unwrap()
    };
    let refused = inside(&format!("sh /install.sh {VERSION} /usr/local/bin"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs curl or wget"), "{refused:?}");
    assert!(!refused.status.success());
    let version =
        inside("mkdir -p /usr/local/bin && tar xzf /latebind.tar.gz -C /usr/local/bin latebind && latebind --version");
    assert_eq!(succeeded(version), format!("latebind {VERSION}\n"));
    let lint = inside("latebind lint /pod.yaml");
    let said = String::from_utf8_lossy(&lint.stdout);
    assert!(lint.status.code() == Some(1) && said.contains("LB001"), "{lint:?}");
    assert!(succeeded(inside("latebind completion bash")).contains("complete "));
}

#[test]
fn the_wheel_installs_the_command() {
    let (wheel, work) = (PACKED.file("latebind-", ".whl").unwrap(), tempfile::tempdir().unwrap());
    let to = work.path().to_str().unwrap();
    let install =
        ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", to, wheel.to_str().unwrap()];
    run("python3", &install, work.path());
    says_its_version(&work.path().join("bin/latebind"));
}

#[test]
fn the_image_holds_the_binary_under_the_name_that_manifests_use() {
    let work = tempfile::tempdir().unwrap();
    let image = PACKED.file("latebind-", "-image.tar").unwrap();
    run("tar", &["xf", image.to_str().unwrap()], work.path());
    let read = |path: &str| -> Value { serde_json::from_slice(&fs::read(work.path().join(path)).unwrap()).unwrap() };
    let blob = |described: &Value| format!("blobs/{}", described["digest"].as_str().unwrap().replace(':', "/"));
    let top = &read("index.json")["manifests"][0];
    let name = top["annotations"]["io.containerd.image.name"].as_str().unwrap();
    assert!(text("install.yaml").contains(&format!("image: {name}\n")), "{name}");
    let index = read(&blob(top));
    let manifest = read(&blob(&index["manifests"][0]));
    assert_eq!(index["manifests"][0]["platform"]["architecture"], ARCHITECTURE);
    let config = read(&blob(&manifest["config"]));
    assert_eq!((&config["config"]["User"], &config["config"]["Entrypoint"][0]), (&"65532".into(), &"/latebind".into()));
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1, "there is no base image");
    assert_eq!(run("tar", &["tzf", &blob(&layers[0])], work.path()), "latebind\n", "and nothing but the binary");
    run("tar", &["xzf", &blob(&layers[0])], work.path());
    says_its_version(&work.path().join("latebind"));
}

#[test]
fn images_are_built_on_nothing_by_a_builder_that_is_named_by_digest() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("Containerfile")).unwrap();
    let bases: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    let (last, builders) = bases.split_last().unwrap();
    assert_eq!(*last, "scratch");
    for builder in builders {
        let digest = builder.split_once("@sha256:").map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
        let is_digest = |digest: &str| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(digest.is_some_and(is_digest), "{builder}: a tag may be another image tomorrow");
    }
    // No other file says what an image is built on.
    let entries = ["", "packaging", "examples"].into_iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().to_lowercase());
    let others = names.filter(|name| name.contains("dockerfile") || name.contains("containerfile"));
    assert_eq!(others.collect::<Vec<_>>(), ["containerfile"]);
}

#[test]
fn manifests_of_package_managers_name_the_archive_and_its_checksum() {
    let archive = format!("latebind-{VERSION}-linux-{ARCHITECTURE}.tar.gz");
    let sums = text("SHA256SUMS");
    let sum = sums.lines().find_map(|line| line.strip_suffix(&format!("  {archive}"))).unwrap();
    let krew: Value = serde_saphyr::from_str(&text("krew.yaml")).unwrap();
    let platform = &krew["spec"]["platforms"][0];
    assert_eq!((&platform["sha256"], &platform["selector"]["matchLabels"]["os"]), (&sum.into(), &"linux".into()));
    assert!(platform["uri"].as_str().unwrap().ends_with(&format!("/v{VERSION}/{archive}")));
    let formula = text("latebind.rb");
    assert!(formula.contains(&archive) && formula.contains(sum), "{formula}");
}

#[test]
fn the_bill_of_materials_names_what_is_linked_in() {
    let sbom: Value = serde_json::from_str(&text(&format!("latebind-{VERSION}.cdx.json"))).unwrap();
    let components = sbom["components"].as_array().unwrap();
    let names: Vec<&str> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
    for linked in ["kube", "rustls", "tokio"] {
        assert!(names.contains(&linked), "no {linked}");
    }
    assert!(!names.contains(&"criterion") && !names.contains(&"latebind"), "only what is linked in");
    // On a new machine cargo has fetched nothing for systems that nobody built for.
    assert!(!names.iter().any(|name| name.starts_with("windows")), "what is linked in on other systems: {names:?}");
    assert!(components.iter().all(|component| component["licenses"].is_array()), "each has a license");
}

#[test]
fn the_chart_holds_what_it_is_installed_from() {
    let listed =
        run("tar", &["tzf", PACKED.file("latebind-chart-", ".tgz").unwrap().to_str().unwrap()], Path::new("/"));
    for needed in ["Chart.yaml", "README.md", "values.schema.json", "templates/webhook.yaml"] {
        assert!(listed.lines().any(|line| line == format!("latebind/{needed}")), "no {needed}: {listed}");
    }
    assert!(!listed.contains("latebind/ci/"), "{listed}");
}
