#!/usr/bin/env bash
# Writes this module for a release that kubernetes/pin.sh has pinned: tests/cluster/conformance/pin.sh 1.37
# The suite must be of the release that it runs against.
set -euo pipefail
export GOTOOLCHAIN=auto
cd "$(dirname "$0")"
pinned=../kubernetes/$1/go.mod
{
  echo "// Kubernetes' own storage suite, the runner of its specs and the image that its Pods run. Written by pin.sh."
  echo "module latebind.dev/tests/conformance"
  grep -E '^(go|godebug) ' "$pinned"
  echo "tool ("
  echo "github.com/onsi/ginkgo/v2/ginkgo"
  echo "k8s.io/kubernetes/test/images/agnhost"
  echo ")"
  grep '^require k8s.io/kubernetes ' "$pinned"
  sed -n '/^replace (/,/^)/p' "$pinned"
} >go.mod
rm -f go.sum
go mod tidy
