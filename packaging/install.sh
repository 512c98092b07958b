#!/bin/sh
# Downloads a released latebind for this machine, checks it, and puts it into a directory: install.sh VERSION DIRECTORY
# LATEBIND_RELEASES replaces the address of the releases, for mirrors.
set -eu
[ $# = 2 ] || { echo "usage: install.sh VERSION DIRECTORY" >&2; exit 2; }
version=${1#v}
directory=$2
# fetch ADDRESS FILE
fetch() {
  if command -v curl >/dev/null; then curl -fsSL --retry 3 -o "$2" "$1"
  elif command -v wget >/dev/null; then wget -q -O "$2" "$1"
  else echo "install.sh: needs curl or wget; or fetch $1 yourself" >&2; exit 1
  fi
}
case "$(uname -s)" in
Linux) system=linux ;;
Darwin) system=darwin ;;
*) echo "install.sh: no archive for $(uname -s) that this script can unpack" >&2; exit 1 ;;
esac
case "$(uname -m)" in
x86_64 | amd64) architecture=amd64 ;;
aarch64 | arm64) architecture=arm64 ;;
*) echo "install.sh: nothing is released for $(uname -m)" >&2; exit 1 ;;
esac
from=${LATEBIND_RELEASES:-https://github.com/latebind/latebind/releases/download}/v$version
archive=latebind-$version-$system-$architecture.tar.gz
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch "$from/$archive" "$work/$archive"
fetch "$from/SHA256SUMS" "$work/SHA256SUMS"
(cd "$work" && grep "  $archive\$" SHA256SUMS > wanted && if command -v sha256sum >/dev/null; then sha256sum -c --quiet wanted; else shasum -a 256 -c --quiet wanted; fi)
mkdir -p "$directory"
tar -xzf "$work/$archive" -C "$directory" latebind
"$directory/latebind" --version
