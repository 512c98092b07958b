#!/usr/bin/env bash
# Writes this module: tests/cluster/etcd/pin.sh v3.6.8 1.37
# The etcd of the oldest version that tests run on: a newer one starts on what it restores, the other way is nobody's promise.
# What else it needs is taken as Kubernetes has it, so that it is compiled once.
set -euo pipefail
export GOTOOLCHAIN=auto
cd "$(dirname "$0")"
{
  echo "// Snapshots of etcd, saved and restored. Written by pin.sh."
  echo "module latebind.dev/tests/etcd"
  grep -E '^go ' "../kubernetes/$2/go.mod"
  echo "require go.etcd.io/etcd/etcdutl/v3 $1"
  echo "require ("
  sed -nE '/^require \(/,/^\)/s/^\t([^ ]+ v[^ ]+).*/\1/p' "../kubernetes/$2/go.mod" | grep -v -e '^k8s.io/' -e '^go.etcd.io/'
  echo ")"
} >go.mod
rm -f go.sum
go mod tidy
