#!/usr/bin/env bash
# Writes dist/functions.txt: which functions of PROGRAM its roles run, at real work on a real control plane, with the arguments that
# their Pods have.
#   dist/train.sh PROGRAM        (`make functions` builds one with its symbols and calls this; as root on x86_64, with gdb)
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

# Runs a role as its Pod would, with the account's files in their place, and has $work/ROLE.ROUND say what ran.
watched() { # ROUND ROLE NAMESPACE WORKLOAD PROBES ENVIRONMENT...
  local round=$1 role=$2 namespace=$3 workload=$4 probes=$5; shift 5
  local arguments
  mapfile -t arguments < <(
    kubectl --namespace "$namespace" get "$workload" \
      --output 'jsonpath={range .spec.template.spec.containers[0].args[*]}{@}{"\n"}{end}' |
      sed "s#0.0.0.0:9444#127.0.0.1:$probes#; s#0.0.0.0:9443#127.0.0.1:19443#; s#/var/lib/latebind#$work/base#"
  )
  RAN="$work/$role.$round" unshare --mount sh -c \
    'mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && cp -r "$0" /run/secrets/kubernetes.io/serviceaccount && exec "$@"' \
    "$work/account" env -u KUBECONFIG KUBERNETES_SERVICE_HOST="$host" KUBERNETES_SERVICE_PORT="$port" "$@" \
    gdb --batch-silent -x dist/ran.py --args "$program" "${arguments[@]}" >"$work/$role.log" 2>&1 &
  probed+=("$probes")
}
start() { # ROUND
  probed=()
  watched "$1" controller latebind-system deployment/latebind-controller 19444 POD_NAMESPACE=latebind-system POD_NAME=one
  watched "$1" agent latebind-agent daemonset/latebind-agent 19445 NODE_NAME=n1 MALLOC_ARENA_MAX=1
  watched "$1" webhook latebind-system deployment/latebind-webhook 19446 POD_NAMESPACE=latebind-system
  for probes in "${probed[@]}"; do until_true curl -fs "127.0.0.1:$probes/readyz"; done
}

"${cluster[@]}" up --name "$name" >"$work/env"
# shellcheck disable=SC1091
source "$work/env"
server=$(kubectl config view --minify --output 'jsonpath={.clusters[0].cluster.server}')
host=${server#https://} port=${host##*:} host=${host%:*}
until_true kubectl get serviceaccount default
kubectl create clusterrolebinding train --clusterrole=cluster-admin --serviceaccount=default:default >/dev/null
mkdir -p "$work/account" "$work/base"
kubectl create token default >"$work/account/token"
echo latebind-system >"$work/account/namespace"
kubectl config view --minify --raw --flatten --output 'jsonpath={.clusters[0].cluster.certificate-authority-data}' |
  base64 -d >"$work/account/ca.crt"
kubectl apply -f webhook-manifests/provisioner.yaml >/dev/null
kubectl apply -f - >/dev/null <<'END'
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {kubernetes.io/hostname: n1}}
END
claims() { # ANNOTATIONS NAMES...
  local annotations=$1; shift
  for claim; do
    printf -- '---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: %s, annotations: {%s}}\n' "$claim" "$annotations"
    printf 'spec: {accessModes: [ReadWriteOnce], storageClassName: latebind-local, resources: {requests: {storage: 1Mi}}}\n'
  done | kubectl create -f - >/dev/null
}

# Volumes by the thousand, as the scheduler asks for them; then a Pod that names its node, as nobody does.
start 1
claims 'volume.kubernetes.io/selected-node: n1' $(printf 'many-%d ' {1..1000})
until_true count pv 1000
claims '' stuck
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
for _ in 1 2 3; do
  for review in tests/data/reviews/*.json; do
    for path in mutate validate; do
      curl -sk --data "@$review" -H 'content-type: application/json' "https://127.0.0.1:19443/$path" >/dev/null
    done
  done
  for probes in "${probed[@]}"; do curl -fsH 'Connection: close' "127.0.0.1:$probes/metrics" "127.0.0.1:$probes/livez" >/dev/null; done
  sleep 10
done
stop
# Again with all that in the cluster: a start with much to read.
start 2
sleep 10
stop
# And the end of the volumes.
start 3
kubectl delete pod stuck --force --grace-period=0 >/dev/null 2>&1
kubectl delete pvc --all --wait=false >/dev/null
until_true count pv 0
sleep 10
stop

for role in "${roles[@]}"; do
  # What of an agent did not run is what it does about broken disks; the rest is what only a Pod's surroundings have run: limits in
  # cgroups, a filter of system calls that knows no clone3, addresses in messages.
  {
    cat "$work/$role".[123]
    [ "$role" != agent ] || nm --defined-only --format=posix "$program" | awk '$2 ~ /[tTW]/ && (/8latebind5agent|3std.*7cgroups|17decode_error_kind|7ip_addrNt.*7Display3fmt|9to_vec_inhNt.*ConvertVec6to_vec/ || $1 == "clone") {print $1}'
  } | dist/cc --keys | LC_ALL=C sort -u >"$work/$role"
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
