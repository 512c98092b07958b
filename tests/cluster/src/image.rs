//! Container images without a registry and without a builder: a static binary becomes an OCI archive.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use ring::digest::{Context as Digest, SHA256};
use serde_json::{Value, json};

use crate::layout;

/// The image of Pod sandboxes.
pub const PAUSE: &str = "localhost/pause:1";
/// A shell and the usual commands, for Pods of tests: `imagePullPolicy: Never` or `IfNotPresent`.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// Debian's static busybox.
pub(crate) const BUSYBOX_PATH: &str = "/bin/busybox";

/// An image of one layer.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Image {
    name: String,
    files: Vec<(String, PathBuf)>,
    links: Vec<(String, String)>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
}

impl Image {
    /// An empty image of this name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds an executable file; `inside` is its path in the image.
    pub fn file(mut self, inside: &str, source: impl Into<PathBuf>) -> Self {
        self.files.push((inside.trim_start_matches('/').to_owned(), source.into()));
        self
    }

    /// Adds Debian's static busybox with all its commands.
    pub fn busybox(mut self) -> Result<Self> {
        let listed = Command::new(BUSYBOX_PATH).arg("--list").output();
        let listed = listed.context("busybox-static is missing: run `cargo run -p latebind-cluster -- setup`")?;
        for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|applet| *applet != "busybox") {
            self.links.push((format!("bin/{applet}"), "busybox".to_owned()));
        }
        Ok(self.file("bin/busybox", BUSYBOX_PATH))
    }

    /// What a container of the image runs.
    pub fn entrypoint(mut self, argv: &[&str]) -> Self {
        self.entrypoint = argv.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// What the entry point is given, or is run without one, unless a container says something else.
    pub fn command(mut self, argv: &[&str]) -> Self {
        self.command = argv.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// The numeric user that it runs as.
    pub fn user(mut self, user: u32) -> Self {
        self.user = user.to_string();
        self
    }
}

/// Writes an OCI archive, as `ctr images import` and `docker load` read it, that holds `images`.
pub fn archive(images: &[Image], destination: &Path) -> Result<()> {
    let mut output = tar::Builder::new(File::create(destination)?);
    let mut manifests = Vec::new();
    for image in images {
        manifests.push(add_image(&mut output, image, destination).with_context(|| format!("image {}", image.name))?);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    append(&mut output, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut output, "index.json", &serde_json::to_vec(&index)?)?;
    output.into_inner()?.flush()?;
    Ok(())
}

/// The images that every cluster's nodes have.
pub(crate) fn base(directory: &Path) -> Result<PathBuf> {
    let destination = directory.join("base-images.tar");
    let busybox = Image::new(BUSYBOX).busybox()?.entrypoint(&["/bin/sh"]);
    let pause = Image::new(PAUSE).file("bin/busybox", BUSYBOX_PATH).entrypoint(&["/bin/busybox", "sleep", "infinity"]);
    archive(&[busybox, pause], &destination)?;
    Ok(destination)
}

/// Builds latebind as a static binary and puts it into an archive under the image name `name`.
///
/// The same image comes from `Containerfile` where there is a builder.
pub fn latebind(name: &str) -> Result<PathBuf> {
    // Suites and tests side by side write the same archive: whoever reads it meanwhile keeps a whole one.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let binary = static_binary("latebind")?;
    // An archive for each name, since suites side by side give it several.
    let file = format!("{}-image.tar", name.replace(['/', ':'], "_"));
    let destination = layout::target_directory().join(file);
    let own = format!("{}-{}.tar", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let own = destination.with_extension(own);
    archive(&[Image::new(name).file("latebind", binary).entrypoint(&["/latebind"]).user(65532)], &own)?;
    fs::rename(&own, &destination)?;
    Ok(destination)
}

/// Builds a binary of the workspace, as the tests themselves are built, and checks that it needs nothing but the kernel.
pub fn static_binary(name: &str) -> Result<PathBuf> {
    // Whoever has built everything a moment ago says so: cargo would wait for whatever else it builds.
    if env::var_os("LATEBIND_TESTS_BUILT").is_none() {
        build(name)?;
    }
    let binary = layout::binary_directory().join(name);
    let elf = fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?;
    ensure!(
        crate::prerequisites::is_static(&elf) == Some(true),
        "{} is not static, so no image can hold it alone: unset RUSTFLAGS, which replaces .cargo/config.toml",
        binary.display()
    );
    Ok(binary)
}

fn build(name: &str) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(layout::project_root()).args(["build", "--quiet", "--package", name, "--bin", name]);
    // A test that cargo runs has its package's description in its environment. Build scripts that look at it would run
    // again, now with it and next time without.
    for (name, _) in env::vars_os() {
        let described =
            name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if described {
            command.env_remove(name);
        }
    }
    ensure!(command.status()?.success(), "the build of {name} failed: its messages are above");
    Ok(())
}

fn add_image(output: &mut tar::Builder<File>, image: &Image, destination: &Path) -> Result<Value> {
    let layer_path = destination.with_extension("layer");
    write_layer(image, &layer_path)?;
    let layer = add_file(output, &layer_path)?;
    fs::remove_file(&layer_path)?;
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = add_blob(
        output,
        &json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": image.entrypoint, "Cmd": image.command, "User": image.user,
                "Env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"],
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        }),
    )?;
    let manifest = add_blob(
        output,
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
        }),
    )?;
    let mut descriptor = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
    descriptor["annotations"] = json!({ "io.containerd.image.name": image.name });
    Ok(descriptor)
}

fn write_layer(image: &Image, path: &Path) -> Result<()> {
    let mut layer = tar::Builder::new(File::create(path)?);
    let directories = ["bin/", "tmp/"];
    for directory in directories {
        let mut header = header(tar::EntryType::Directory, if directory == "tmp/" { 0o1777 } else { 0o755 }, 0);
        layer.append_data(&mut header, directory, io::empty())?;
    }
    for (inside, source) in &image.files {
        let file = File::open(source).with_context(|| format!("opening {}", source.display()))?;
        let mut header = header(tar::EntryType::Regular, 0o755, file.metadata()?.len());
        layer.append_data(&mut header, inside, file)?;
    }
    for (inside, target) in &image.links {
        layer.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), inside, target)?;
    }
    layer.into_inner()?.flush()?;
    Ok(())
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }
}

fn add_blob(output: &mut tar::Builder<File>, document: &Value) -> Result<Blob> {
    let bytes = serde_json::to_vec(document)?;
    let digest = hexadecimal(ring::digest::digest(&SHA256, &bytes).as_ref());
    append(output, &format!("blobs/sha256/{digest}"), &bytes)?;
    Ok(Blob { digest: format!("sha256:{digest}"), size: bytes.len() as u64 })
}

fn add_file(output: &mut tar::Builder<File>, path: &Path) -> Result<Blob> {
    let mut digest = Digest::new(&SHA256);
    let (mut file, mut buffer) = (File::open(path)?, vec![0_u8; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    let (digest, file) = (hexadecimal(digest.finish().as_ref()), File::open(path)?);
    let size = file.metadata()?.len();
    let mut header = header(tar::EntryType::Regular, 0o644, size);
    output.append_data(&mut header, format!("blobs/sha256/{digest}"), file)?;
    Ok(Blob { digest: format!("sha256:{digest}"), size })
}

fn append(output: &mut tar::Builder<File>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
    Ok(output.append_data(&mut header, path, bytes)?)
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_images_and_holds_each_blob_under_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let (binary, path) = (directory.path().join("program"), directory.path().join("image.tar"));
        fs::write(&binary, "content").unwrap();
        let image = Image::new("localhost/program:1").file("/program", &binary).entrypoint(&["/program"]).user(65532);
        archive(&[image], &path).unwrap();
        let (mut names, mut index) = (Vec::new(), Value::Null);
        for entry in tar::Archive::new(File::open(&path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let (name, mut bytes) = (entry.path().unwrap().display().to_string(), Vec::new());
            entry.read_to_end(&mut bytes).unwrap();
            if let Some(digest) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, hexadecimal(ring::digest::digest(&SHA256, &bytes).as_ref()));
            }
            if name == "index.json" {
                index = serde_json::from_slice(&bytes).unwrap();
            }
            names.push(name);
        }
        assert_eq!(names.len(), 5, "{names:?}");
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/program:1");
    }
}
