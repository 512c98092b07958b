#!/usr/bin/env bash
# From nothing to a deadlocked Pod running, on a real Kubernetes that this script starts and removes.
# LATEBIND_DEMO_KEEP=1 leaves the cluster running, to look around.
set -euo pipefail
cd "$(dirname "$0")/.."

bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
if [ ! -t 1 ] || [ -n "${NO_COLOR:-}" ]; then bold='' dim='' plain=''; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s\n' "$*"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; "$@"; }
# Waits until a command succeeds, with a deadline, and shows that time passes.
until_true() {
  local what=$1 deadline=$((SECONDS + 90)); shift
  printf '%s   waiting: %s ' "$dim" "$what"
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $deadline ]; then printf '%s\n' "$plain"; say "gave up after 90 s: $what"; kubectl describe pod,pvc; exit 1; fi
    printf .; sleep 0.3
  done
  printf ' done%s\n' "$plain"
}

name=demo-$$
work=$(mktemp -d)
binaries=${CARGO_TARGET_DIR:-$PWD/target}/$(uname -m)-unknown-linux-gnu/debug
cluster=("$binaries/latebind-cluster")
export PATH=$binaries:$PATH
# What is built here is current, and its image is made of it.
export LATEBIND_TESTS_BUILT=1
background=()
leave() {
  for pid in "${background[@]}"; do kill "$pid" 2>/dev/null || true; done
  if [ -n "${LATEBIND_DEMO_KEEP:-}" ]; then
    say ""; say "The cluster stays. End it with: cargo run -p latebind-cluster -- down --name $name"
  else
    "${cluster[@]}" down --name "$name" >/dev/null 2>&1 || true
  fi
  rm -rf "$work"
}
trap leave EXIT
trap 'exit 130' INT TERM

# The image that install.yaml names; it is built here and needs no registry.
image=ghcr.io/latebind/latebind:0.1.0

step "Building latebind (the first time about two minutes on two cores)"
cargo build --workspace --bins
"${cluster[@]}" setup

step "Kubernetes itself, from its Go modules (the first time about six minutes on two cores)"
"${cluster[@]}" build

step "Starting a Kubernetes with two nodes, which have latebind's image"
"${cluster[@]}" up --nodes 2 --name "$name" --with-latebind "$image" >"$work/env"
# shellcheck disable=SC1091
source "$work/env"
show kubectl get nodes
kubectl apply -f examples/demo/class.yaml >/dev/null
examples/demo/provisioner.sh 2>/dev/null &
background+=($!)
until_true "the default service account" kubectl get serviceaccount default

step "The classic report: a Pod that names its node, and a WaitForFirstConsumer claim"
show kubectl apply -f examples/demo/report.yaml
until_true "Kubernetes to say that it waits for a consumer, while the consumer is there" \
  sh -c 'kubectl get events --field-selector reason=WaitForFirstConsumer,involvedObject.name=data -o name | grep -q . && kubectl get pod report -o jsonpath={.status.phase} | grep -q Pending'
show kubectl get pod,pvc
show kubectl get events --field-selector involvedObject.name=data
say ""
say "It stays so. latebind says why, and what to type next (it has not been installed yet):"
show latebind diagnose pod/report || [ $? -eq 1 ]
kubectl delete -f examples/demo/report.yaml --wait=true >/dev/null

step "Installing latebind: two replicas of its webhook, and its controller, as Pods"
show kubectl apply -f webhook-manifests/install.yaml
for deployment in controller webhook; do
  show kubectl -n latebind-system rollout status "deployment/latebind-$deployment" --timeout=90s
done
show kubectl -n latebind-system get pods -o wide
show latebind check

step "1. Prevention: the same manifest, admitted through latebind"
show kubectl apply -f examples/demo/report.yaml
until_true "the Pod to run" sh -c 'kubectl get pod report -o jsonpath={.status.phase} | grep -qx Running'
show kubectl get pod report -o wide
show kubectl get pvc
show kubectl get pod report -o 'jsonpath={"nodeSelector: "}{.spec.nodeSelector}{"\nit came with nodeName: "}{.metadata.annotations.latebind\.dev/original-node-name}{"\n"}'
show kubectl exec report -- cat /data/written
say ""
say "And what it says now:"
show latebind diagnose pod/report

step "2. Rescue: Pods that were created while the webhook was away"
show kubectl -n latebind-system scale deployment/latebind-webhook --replicas=0
until_true "its Pods to be gone" \
  sh -c '! kubectl -n latebind-system get pods -l app.kubernetes.io/component=webhook -o name | grep -q .'
show kubectl apply -f examples/demo/away.yaml
say ""
say "Nobody has rewritten these two. One waits for a volume that is made on demand, the other for a disk that exists:"
show kubectl get pod made fixed -o 'custom-columns=POD:.metadata.name,REWRITTEN-FROM:.metadata.annotations.latebind\.dev/original-node-name,NODE:.spec.nodeName,PHASE:.status.phase'
for pod in made fixed; do
  until_true "the Pod $pod to run" sh -c "kubectl get pod $pod -o jsonpath={.status.phase} | grep -qx Running"
done
show kubectl get pod made fixed
show kubectl get pvc made fixed
say ""
say "What latebind's controller did about their claims, which can still be changed when the Pods cannot:"
show kubectl get events --field-selector reportingComponent=latebind.dev/rescue -o 'custom-columns=KIND:.involvedObject.kind,NAME:.involvedObject.name,REASON:.reason,MESSAGE:.message'
show kubectl exec made -- cat /data/written
show kubectl exec fixed -- cat /data/written

step "Done"
say "All three Pods run on the node that they named, and their volumes are there."
say "To look around: LATEBIND_DEMO_KEEP=1 make demo, or make cluster and then kubectl."
