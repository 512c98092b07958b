#!/usr/bin/env python3
"""Makes of binaries what a release holds: archives, wheels, an OCI image, the chart, manifests, an SBOM, the manifests of
krew and Homebrew, a mirror for pre-commit, and checksums. Standard library alone; the same input gives the same bytes.

    packaging/pack.py --out DIR TARGET=BINARY...      such as x86_64-unknown-linux-gnu=target/.../latebind
"""

import argparse
import base64
import fnmatch
import gzip
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOWNLOADS = "https://github.com/latebind/latebind/releases/download"
SUMMARY = "Ends the deadlock between Pods that name their node and WaitForFirstConsumer claims"
# System and architecture as archives, krew and OCI name them, and the tags of a wheel. Binaries for Linux are static, so
# they run on every libc.
PLATFORMS = {
    "x86_64-unknown-linux-gnu": ("linux", "amd64", "manylinux2014_x86_64.musllinux_1_1_x86_64"),
    "aarch64-unknown-linux-gnu": ("linux", "arm64", "manylinux2014_aarch64.musllinux_1_1_aarch64"),
    "x86_64-apple-darwin": ("darwin", "amd64", "macosx_11_0_x86_64"),
    "aarch64-apple-darwin": ("darwin", "arm64", "macosx_11_0_arm64"),
    "x86_64-pc-windows-gnu": ("windows", "amd64", "win_amd64"),
    "x86_64-pc-windows-msvc": ("windows", "amd64", "win_amd64"),
}
# The oldest moment that a zip archive can hold.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tar_bytes(entries):
    """A tar archive of (name, bytes, mode), owned by root, of no time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data, mode in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_gz(entries):
    return gzip.compress(tar_bytes(entries), compresslevel=6, mtime=0)


def zip_bytes(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in entries:
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.external_attr, info.compress_type, info.create_system = (0o100000 | mode) << 16, zipfile.ZIP_DEFLATED, 3
            archive.writestr(info, data)
    return buffer.getvalue()


class Release:
    def __init__(self, out, binaries):
        package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
        self.version, self.out, self.archives = package["version"], out, {}
        self.binaries = {target: path.read_bytes() for target, path in binaries.items()}
        self.license = (ROOT / "LICENSE").read_bytes()
        out.mkdir(parents=True, exist_ok=True)

    def write(self, name, data):
        (self.out / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    def pack_archives(self):
        readme = (ROOT / "README.md").read_bytes()
        for target, binary in self.binaries.items():
            system, architecture, _ = PLATFORMS[target]
            stem = f"latebind-{self.version}-{system}-{architecture}"
            program = "latebind.exe" if system == "windows" else "latebind"
            entries = [(program, binary, 0o755), ("LICENSE", self.license, 0o644), ("README.md", readme, 0o644)]
            name, data = (f"{stem}.zip", zip_bytes(entries)) if system == "windows" else (f"{stem}.tar.gz", tar_gz(entries))
            self.write(name, data)
            self.archives[target] = (name, sha256(data), program)

    def pack_wheels(self):
        for target, binary in self.binaries.items():
            system, _, tags = PLATFORMS[target]
            info, program = f"latebind-{self.version}.dist-info", "latebind.exe" if system == "windows" else "latebind"
            metadata = (
                f"Metadata-Version: 2.4\nName: latebind\nVersion: {self.version}\nSummary: {SUMMARY}\n"
                "License-Expression: Apache-2.0\nLicense-File: LICENSE\nRequires-Python: >=3.8\n"
                "Project-URL: Source, https://github.com/latebind/latebind\nDescription-Content-Type: text/markdown\n\n"
                "The `latebind` command as a wheel: `pip install latebind`, `uvx latebind lint -R -f .`.\n"
            )
            wheel = "Wheel-Version: 1.0\nGenerator: latebind\nRoot-Is-Purelib: false\n" + "".join(
                f"Tag: py3-none-{tag}\n" for tag in tags.split(".")
            )
            entries = [
                (f"latebind-{self.version}.data/scripts/{program}", binary, 0o755),
                (f"{info}/METADATA", metadata.encode(), 0o644),
                (f"{info}/WHEEL", wheel.encode(), 0o644),
                (f"{info}/licenses/LICENSE", self.license, 0o644),
            ]
            digest = lambda data: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record = "".join(f"{name},sha256={digest(data)},{len(data)}\n" for name, data, _ in entries)
            entries.append((f"{info}/RECORD", f"{record}{info}/RECORD,,\n".encode(), 0o644))
            self.write(f"latebind-{self.version}-py3-none-{tags}.whl", zip_bytes(entries))

    def pack_image(self):
        """One OCI archive for every architecture of Linux, as `skopeo copy`, `ctr images import` and `docker load` read it."""
        blobs, manifests = {}, []

        def blob(data, media_type):
            blobs[sha256(data)] = data
            return {"mediaType": media_type, "digest": f"sha256:{sha256(data)}", "size": len(data)}

        oci = "application/vnd.oci.image"
        for target, binary in sorted(self.binaries.items()):
            system, architecture, _ = PLATFORMS[target]
            if system != "linux":
                continue
            layer = tar_bytes([("latebind", binary, 0o755)])
            packed = blob(gzip.compress(layer, compresslevel=6, mtime=0), f"{oci}.layer.v1.tar+gzip")
            config = {
                "architecture": architecture,
                "os": "linux",
                "config": {
                    "Entrypoint": ["/latebind"],
                    "User": "65532",
                    "Labels": {
                        "org.opencontainers.image.source": "https://github.com/latebind/latebind",
                        "org.opencontainers.image.version": self.version,
                        "org.opencontainers.image.licenses": "Apache-2.0",
                    },
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}"]},
            }
            config = blob(json.dumps(config).encode(), f"{oci}.config.v1+json")
            manifest = {"schemaVersion": 2, "mediaType": f"{oci}.manifest.v1+json", "config": config, "layers": [packed]}
            described = blob(json.dumps(manifest).encode(), f"{oci}.manifest.v1+json")
            manifests.append(described | {"platform": {"architecture": architecture, "os": "linux"}})
        if not manifests:
            return
        index = {"schemaVersion": 2, "mediaType": f"{oci}.index.v1+json", "manifests": manifests}
        described = blob(json.dumps(index).encode(), f"{oci}.index.v1+json")
        name = f"ghcr.io/latebind/latebind:{self.version}"
        described["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": self.version}
        top = {"schemaVersion": 2, "mediaType": f"{oci}.index.v1+json", "manifests": [described]}
        entries = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o644), ("index.json", json.dumps(top).encode(), 0o644)]
        entries += [(f"blobs/sha256/{digest}", data, 0o644) for digest, data in sorted(blobs.items())]
        self.write(f"latebind-{self.version}-image.tar", tar_bytes(entries))

    def pack_chart(self):
        chart = ROOT / "webhook-manifests/chart"
        lines = (line.strip() for line in (chart / ".helmignore").read_text().splitlines())
        ignored = [line for line in lines if line and not line.startswith("#")]

        def is_ignored(path):
            folders = [f"{part}/" for part in path.parts[:-1]]
            return any(fnmatch.fnmatch(path.name, rule) or rule in folders for rule in ignored)

        paths = sorted(path.relative_to(chart) for path in chart.rglob("*") if path.is_file())
        kept = [path for path in paths if not is_ignored(path)]
        self.write(
            f"latebind-chart-{self.version}.tgz",
            tar_gz([(f"latebind/{path.as_posix()}", (chart / path).read_bytes(), 0o644) for path in kept]),
        )
        for name in ("install.yaml", "provisioner.yaml"):
            self.write(name, (ROOT / "webhook-manifests" / name).read_bytes())
        self.write("artifacthub-repo.yml", "owners:\n  - name: latebind\n    email: latebind@users.noreply.github.com\n")

    def write_krew(self):
        lines = [
            "apiVersion: krew.googlecontainertools.github.com/v1alpha2",
            "kind: Plugin",
            "metadata:",
            "  name: latebind",
            "spec:",
            f"  version: v{self.version}",
            "  homepage: https://github.com/latebind/latebind",
            "  shortDescription: Start Pods that wait forever for their volumes",
            "  description: |",
            "    A Pod with spec.nodeName bypasses the scheduler, and a claim of a WaitForFirstConsumer class waits for it.",
            "    latebind finds such Pods, says why they are stuck, and prints the command that starts them.",
            "  platforms:",
        ]
        for target, (name, digest, program) in sorted(self.archives.items()):
            system, architecture, _ = PLATFORMS[target]
            lines += [
                "    - selector:",
                f"        matchLabels: {{os: {system}, arch: {architecture}}}",
                f"      uri: {DOWNLOADS}/v{self.version}/{name}",
                f"      sha256: {digest}",
                f"      bin: {program}",
                "      files:",
                f"        - {{from: {program}, to: .}}",
                "        - {from: LICENSE, to: .}",
            ]
        self.write("krew.yaml", "\n".join(lines) + "\n")

    def write_formula(self):
        def stanza(system):
            found = [target for target in sorted(self.archives) if PLATFORMS[target][0] == system]
            for target in found:
                name, digest, _ = self.archives[target]
                condition = "Hardware::CPU.arm?" if PLATFORMS[target][1] == "arm64" else "Hardware::CPU.intel?"
                yield f"    if {condition}\n      url \"{DOWNLOADS}/v{self.version}/{name}\"\n      sha256 \"{digest}\"\n    end\n"

        parts = [
            f"  on_{'macos' if system == 'darwin' else system} do\n{''.join(stanza(system))}  end\n"
            for system in ("darwin", "linux")
            if any(PLATFORMS[target][0] == system for target in self.archives)
        ]
        self.write(
            "latebind.rb",
            f'class Latebind < Formula\n  desc "{SUMMARY}"\n  homepage "https://github.com/latebind/latebind"\n'
            f'  version "{self.version}"\n  license "Apache-2.0"\n\n{"".join(parts)}\n'
            '  def install\n    bin.install "latebind"\n    bin.install_symlink "latebind" => "kubectl-latebind"\n'
            '    generate_completions_from_executable(bin/"latebind", "completion")\n'
            '    system bin/"latebind", "man", "--out", man1\n  end\n\n'
            '  test do\n    assert_match version.to_s, shell_output("#{bin}/latebind --version")\n  end\nend\n',
        )

    def pack_pre_commit(self):
        """pre-commit installs a repository: this one needs nothing but the wheel, so that nobody compiles."""
        project = (
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n[project]\n'
            f'name = "latebind-pre-commit"\nversion = "{self.version}"\ndependencies = ["latebind=={self.version}"]\n\n'
            "[tool.setuptools]\npy-modules = []\n"
        )
        hooks = (ROOT / ".pre-commit-hooks.yaml").read_text().replace("language: rust", "language: python")
        entries = [("pyproject.toml", project), (".pre-commit-hooks.yaml", hooks)]
        self.write(f"latebind-pre-commit-{self.version}.tar.gz", tar_gz([(name, text.encode(), 0o644) for name, text in entries]))

    def write_sbom(self):
        """CycloneDX: what is linked into these binaries, from the lock file, as cargo resolves it for their targets. Packages
        for other targets are not in it, and whoever built for these has no others at hand."""
        arguments = ["cargo", "metadata", "--locked", "--format-version=1", f"--manifest-path={ROOT / 'Cargo.toml'}"]
        arguments += [f"--filter-platform={target}" for target in self.binaries]
        resolved = subprocess.run(arguments, stdout=subprocess.PIPE)
        if resolved.returncode != 0:
            sys.exit("pack.py: cargo cannot resolve what is linked in, see above")
        metadata = json.loads(resolved.stdout)
        packages = {package["id"]: package for package in metadata["packages"]}
        nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
        linked = lambda node: [
            dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])
        ]
        root = next(id for id, package in packages.items() if package["name"] == "latebind")
        seen, waiting = set(), [root]
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                waiting += linked(nodes[current])
        purl = lambda id: f"pkg:cargo/{packages[id]['name']}@{packages[id]['version']}"

        def component(id):
            package = packages[id]
            known = {"type": "library", "bom-ref": purl(id), "name": package["name"], "version": package["version"]}
            known["purl"] = purl(id)
            if package.get("license"):
                known["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
            return known

        others = sorted(seen - {root}, key=purl)
        document = {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": component(root) | {"type": "application"}},
            "components": [component(id) for id in others],
            "dependencies": [
                {"ref": purl(id), "dependsOn": sorted({purl(dep) for dep in linked(nodes[id])})} for id in [root, *others]
            ],
        }
        self.write(f"latebind-{self.version}.cdx.json", json.dumps(document, indent=1) + "\n")

    def write_checksums(self):
        files = sorted(path for path in self.out.iterdir() if path.is_file() and path.name != "SHA256SUMS")
        self.write("SHA256SUMS", "".join(f"{sha256(path.read_bytes())}  {path.name}\n" for path in files))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("binary", nargs="+", metavar="TARGET=BINARY")
    arguments = parser.parse_args()
    binaries = {}
    for given in arguments.binary:
        target, _, path = given.partition("=")
        if target not in PLATFORMS:
            parser.error(f"{target}: not one of {', '.join(PLATFORMS)}")
        binaries[target] = pathlib.Path(path)
    release = Release(arguments.out, binaries)
    release.pack_archives()
    release.pack_wheels()
    release.pack_image()
    release.pack_chart()
    release.write_krew()
    release.write_formula()
    release.pack_pre_commit()
    release.write_sbom()
    release.write_checksums()
    print("\n".join(sorted(path.name for path in arguments.out.iterdir())))


if __name__ == "__main__":
    main()
