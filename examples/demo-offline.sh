#!/usr/bin/env bash
# The deadlock, its cause and its end, from manifests alone: no cluster is needed.
#
#   examples/demo-offline.sh            builds latebind if need be
#   LATEBIND=/path/to/latebind ...      uses that one
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z "${LATEBIND:-}" ]]; then
  cargo build --quiet --bin latebind
  LATEBIND="${CARGO_TARGET_DIR:-target}/debug/latebind"
fi
latebind() { "$LATEBIND" "$@"; }

bold=$'\e[1m' faint=$'\e[2m' plain=$'\e[0m'
[[ -t 1 && -z "${NO_COLOR:-}" ]] || bold='' faint='' plain=''
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$faint" "$*" "$plain"; "$@"; }

say "1. A Pod that names its node, and a claim that waits for the scheduler"
show tail -n 16 examples/deadlock/1-dynamic-class.yaml

say "2. Why it never starts, and what admission would do about it"
show latebind simulate -f examples/deadlock/1-dynamic-class.yaml

say "3. The same deadlock in its other forms"
for file in examples/deadlock/[2-9]-*.yaml; do
  show latebind simulate -f "$file"
done

say "4. The patch that the API server would get"
show latebind simulate -f examples/deadlock/1-dynamic-class.yaml -o patch

say "5. What the finding means"
show latebind explain LB001
