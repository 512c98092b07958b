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
    printf .; sleep 1
  done
  printf ' done%s\n' "$plain"
}

name=demo-$$
work=$(mktemp -d)
cluster=(cargo run --quiet --package latebind-cluster --)
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

step "Building latebind and, the first time, Kubernetes itself (from Go modules: a few minutes)"
tests/setup.sh
cargo build --bin latebind
"${cluster[@]}" build
latebind=$PWD/target/debug/latebind
[ -n "${CARGO_TARGET_DIR:-}" ] && latebind=$CARGO_TARGET_DIR/debug/latebind

step "Starting a Kubernetes with two nodes"
"${cluster[@]}" up --nodes 2 --name "$name" >"$work/env"
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
say "It stays so for ever. What latebind says of it:"
kubectl get nodes,storageclasses,pv -o yaml >"$work/facts.yaml"
show "$latebind" simulate -f examples/demo/report.yaml --objects "$work/facts.yaml"

step "The same manifest, admitted through latebind"
kubectl delete -f examples/demo/report.yaml --wait=true >/dev/null
mkdir "$work/objects"
kubectl apply -f examples/demo/report.yaml --dry-run=client -o yaml >"$work/objects/report.yaml"
cp "$work/facts.yaml" "$work/objects/"
"$latebind" webhook --objects "$work/objects" --listen "$LATEBIND_HOST_ADDRESS:9443" --metrics-listen 127.0.0.1:0 \
  --tls-san "$LATEBIND_HOST_ADDRESS" --ca-out "$work/ca.pem" 2>"$work/webhook.log" &
background+=($!)
until_true "latebind to serve" test -s "$work/ca.pem"
kubectl apply -f - >/dev/null <<CONFIGURATION
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: zz-latebind}
webhooks:
  - name: pods.latebind.dev
    admissionReviewVersions: [v1]
    sideEffects: None
    failurePolicy: Fail
    reinvocationPolicy: IfNeeded
    timeoutSeconds: 3
    rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods], scope: Namespaced}]
    matchConditions:
      - {name: pinned, expression: 'has(object.spec.nodeName) && object.spec.nodeName != ""'}
    clientConfig: {url: "https://$LATEBIND_HOST_ADDRESS:9443/mutate", caBundle: $(base64 -w0 "$work/ca.pem")}
CONFIGURATION
until_true "the API server to call latebind" sh -c \
  "kubectl apply -f examples/demo/report.yaml --dry-run=server -o jsonpath='{.items[?(@.kind==\"Pod\")].metadata.annotations}' | grep -q original-node-name"
show kubectl apply -f examples/demo/report.yaml
until_true "the Pod to run" sh -c 'kubectl get pod report -o jsonpath={.status.phase} | grep -qx Running'
show kubectl get pod report -o wide
show kubectl get pvc
show kubectl get pod report -o 'jsonpath={"nodeSelector: "}{.spec.nodeSelector}{"\nit came with nodeName: "}{.metadata.annotations.latebind\.dev/original-node-name}{"\n"}'
show kubectl exec report -- cat /data/written

step "Done"
say "The Pod runs on the node that it named, and its volume is there."
say "To look around: LATEBIND_DEMO_KEEP=1 make demo, or make cluster and then kubectl."
