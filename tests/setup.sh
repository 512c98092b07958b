#!/usr/bin/env bash
# What the checks need beside Rust: says in one line what is missing, and installs what it can.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo deny --version >/dev/null 2>&1; then
  echo "setup: installing cargo-deny (once, a few minutes)"
  cargo install --quiet --locked --profile dev cargo-deny
fi
cargo run --quiet --package latebind-cluster -- setup
