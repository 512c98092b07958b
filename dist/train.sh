#!/usr/bin/env bash
# Writes dist/functions.txt: which functions of PROGRAM its roles run, at real work on a real control plane.
#   dist/train.sh PROGRAM        (`make functions` builds one with its symbols and calls this; x86_64, needs gdb)
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")/.."
name=train-$$
work=$(mktemp -d)
cluster=(cargo run --quiet --package latebind-cluster --)
roles=(agent controller webhook)

# A role's process is a child of gdb; gdb ends with it.
stop() { pkill -TERM --full "^$program run --role=" || true; wait; }
leave() { stop 2>/dev/null; "${cluster[@]}" down --name "$name" >/dev/null 2>&1 || true; rm -rf "$work"; }
trap leave EXIT
trap 'exit 130' INT TERM
until_true() {
  local deadline=$((SECONDS + 90))
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $deadline ]; then echo "gave up after 90 s: $*" >&2; tail -n 5 "$work"/*.log >&2; exit 1; fi
    sleep 0.5
  done
}
count() { [ "$(kubectl get "$1" --no-headers 2>/dev/null | wc -l)" -eq "$2" ]; }
watched() { # ROUND ROLE ARGUMENTS...: runs a role, and has $work/ROLE.ROUND say what ran
  local round=$1 role=$2; shift 2
  RAN="$work/$role.$round" gdb --batch-silent -x dist/ran.py --args "$program" run --role="$role" "$@" >"$work/$role.log" 2>&1 &
}
start() { # ROUND
  watched "$1" controller --provisioner=on --pool="lab=$work/base/v" --metrics-listen=127.0.0.1:19444
  watched "$1" agent --node-name=n1 --base-path="$work/base" --metrics-listen=127.0.0.1:19445
  watched "$1" webhook --listen=127.0.0.1:19443 --metrics-listen=127.0.0.1:19446 --tls-cert="$work/tls.crt" --tls-key="$work/tls.key"
  for port in 19444 19445 19446; do until_true curl -fs "127.0.0.1:$port/readyz"; done
}

"${cluster[@]}" up --name "$name" >"$work/env"
# shellcheck disable=SC1091
source "$work/env"
mkdir -p "$work/base/v"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
  -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
"$program" crds | kubectl apply -f - >/dev/null
kubectl create namespace latebind-system >/dev/null
kubectl apply -f - >/dev/null <<'END'
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {kubernetes.io/hostname: n1}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: lab}
provisioner: local.latebind.dev
volumeBindingMode: WaitForFirstConsumer
parameters: {pool: lab}
END
claims() { # SELECTED NAMES...
  local annotations=$1; shift
  for claim; do
    printf -- '---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: %s, annotations: {%s}}\n' "$claim" "$annotations"
    printf 'spec: {accessModes: [ReadWriteOnce], storageClassName: lab, resources: {requests: {storage: 1Mi}}}\n'
  done | kubectl create -f - >/dev/null
}

# Volumes by the thousand, as the scheduler asks for them; then a Pod that names its node, as nobody does.
start 1
claims 'volume.kubernetes.io/selected-node: n1' $(printf 'many-%d ' {1..1000})
until_true count pv 1000
claims '' stuck
kubectl create serviceaccount default >/dev/null 2>&1 || true
kubectl create -f - >/dev/null <<'END'
apiVersion: v1
kind: Pod
metadata: {name: stuck}
spec:
  nodeName: n1
  containers: [{name: one, image: none, volumeMounts: [{name: files, mountPath: /files}]}]
  volumes: [{name: files, persistentVolumeClaim: {claimName: stuck}}]
END
# What a kubelet says of a Pod that it has seen: there is none here.
kubectl patch pod stuck --subresource=status --patch '{"status": {"startTime": "2026-01-01T00:00:00Z"}}' >/dev/null
until_true count pv 1001
for round in 1 2 3; do
  for review in tests/data/reviews/*.json; do
    curl -sk --data "@$review" -H 'content-type: application/json' "https://127.0.0.1:19443/mutate" -o "$work/answer"
    curl -sk --data "@$review" -H 'content-type: application/json' "https://127.0.0.1:19443/validate" -o "$work/answer"
  done
  for port in 19444 19445 19446; do curl -fs "127.0.0.1:$port/metrics" "127.0.0.1:$port/livez" >/dev/null; done
  sleep 10
done
stop
# Once more with all that in the cluster: a start with much to read, again, and the end of the volumes.
start 2
sleep 10
stop
start 3
kubectl delete pod stuck --force --grace-period=0 >/dev/null 2>&1
kubectl delete pvc --all --wait=false >/dev/null
until_true count pv 0
sleep 10
stop

for role in "${roles[@]}"; do
  # What little of the agent did not run is what it does about broken disks: the rest of it belongs beside what did.
  { cat "$work/$role".[123]; [ "$role" != agent ] || nm --defined-only --format=posix "$program" | awk '/8latebind5agent/ {print $1}'; } |
    dist/cc --keys | LC_ALL=C sort -u >"$work/$role"
done
{
  echo "# Which functions the roles run, by who runs them: the input of dist/cc, written by \`make functions\`."
  awk -v work="$work" -v "roles=${roles[*]}" 'BEGIN {
    count = split(roles, role, " ")
    for (i = 1; i <= count; i++) while ((getline name <(work "/" role[i])) > 0) by[name] = by[name] " " role[i]
    for (name in by) print by[name] "\t" name
  }' | LC_ALL=C sort | awk -F '\t' '$1 != last { print "#" $1; last = $1 } { print $2 }'
} >dist/functions.txt
wc -l dist/functions.txt
