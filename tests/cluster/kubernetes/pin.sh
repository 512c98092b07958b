#!/usr/bin/env bash
# Writes the module of one release of Kubernetes: tests/cluster/kubernetes/pin.sh v1.37.2
# Kubernetes keeps its staging modules inside its own tree; each is pinned to the release of the same version.
set -euo pipefail
# A release may need a newer Go than this machine has.
export GOTOOLCHAIN=auto
release=$1
minor=$(cut -d . -f 1-2 <<<"${release#v}")
theirs=$(cd / && go mod download -json "k8s.io/kubernetes@$release" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
etcd=$(awk '$1 == "go.etcd.io/etcd/client/v3" { print $2 }' "$theirs")
cd "$(dirname "$0")"
mkdir -p "$minor"
{
  echo "// Kubernetes $release and the etcd that it is released with. Written by pin.sh."
  echo "module latebind.dev/tests/kubernetes"
  grep -E '^(go|godebug) ' "$theirs"
  echo "require k8s.io/kubernetes $release"
  echo "require go.etcd.io/etcd/server/v3 $etcd"
  echo "replace ("
  sed -nE "s|^\s*(k8s.io/[a-z-]+) => ./staging/.*|\1 => \1 ${release/v1/v0}|p" "$theirs"
  echo ")"
} >"$minor/go.mod"
go mod tidy -modfile="$minor/go.mod"
