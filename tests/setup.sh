#!/usr/bin/env bash
# What the checks need beside Rust: says in one line what is missing, and installs what it can.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo deny --version >/dev/null 2>&1; then
  echo "setup: installing cargo-deny (once, a few minutes)"
  cargo install --quiet --locked --profile dev cargo-deny
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing python3 and pip, with which releases are packed"
    apt-get install --quiet --quiet --yes python3 python3-pip >/dev/null
  else
    echo "setup: python3 with pip is missing, with which releases are packed"
    exit 1
  fi
fi
