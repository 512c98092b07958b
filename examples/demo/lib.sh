# What the demos share: steps, waiting, and a cluster that is removed at the end. Sourced, with the number of nodes in `nodes`.
# shellcheck shell=bash
bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
if [ ! -t 1 ] || [ -n "${NO_COLOR:-}" ]; then bold='' dim='' plain=''; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s\n' "$*"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; "$@"; }
# Waits until a command succeeds, with a deadline in seconds, and shows that time passes.
patience=90
until_true() {
  local what=$1 deadline=$((SECONDS + patience)); shift
  printf '%s   waiting: %s ' "$dim" "$what"
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $deadline ]; then
      printf '%s\n' "$plain"; say "gave up after $patience s: $what"; kubectl describe pod,pvc; exit 1
    fi
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

# Builds latebind and Kubernetes, with more of it where that is asked for, and starts a cluster.
start_cluster() {
  local nodes=$1; shift
  step "Building latebind (the first time about two minutes on two cores)"
  cargo build --workspace --bins
  "${cluster[@]}" setup

  step "Kubernetes itself, from its Go modules (the first time about six minutes on two cores)"
  "${cluster[@]}" build "$@"

  step "Starting a Kubernetes with $nodes nodes, which have latebind's image"
  "${cluster[@]}" up --nodes "$nodes" --name "$name" --with-latebind "$image" >"$work/env"
  # shellcheck disable=SC1091
  source "$work/env"
  show kubectl get nodes
}
