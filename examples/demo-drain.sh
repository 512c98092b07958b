#!/usr/bin/env bash
# A StatefulSet of three with local volumes, of whose nodes one is rebooted, one retired and one lost, on a real Kubernetes of four
# nodes that this script starts and removes. LATEBIND_DEMO_KEEP=1 leaves the cluster running, to look around.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=examples/demo/lib.sh
source examples/demo/lib.sh
patience=150
start_cluster 4 --tools

node_of() { kubectl get pod "$1" -o 'jsonpath={.spec.nodeName}'; }
ready() { [ "$(kubectl get statefulset search -o 'jsonpath={.status.readyReplicas}')" = 3 ]; }
where() { show kubectl get pods -o 'custom-columns=POD:.metadata.name,NODE:.spec.nodeName,PHASE:.status.phase'; }
born() { for pod in search-0 search-1 search-2; do show kubectl exec "$pod" -- cat /data/born; done; }

step "Installing latebind with local volumes; claims of nodes that are gone may be let go after 20 s"
helm=$(ls "$("${cluster[@]}" cache)"/helm-*/helm | tail -1)
"$helm" template latebind webhook-manifests/chart --namespace latebind-system --include-crds --skip-tests --kube-version 1.37 \
  --set namespace.create=true --set provisioner.enabled=true --set lostNodes.policy=Unbind --set lostNodes.grace=20s >"$work/latebind.yaml"
kubectl apply --server-side -f "$work/latebind.yaml" >/dev/null 2>&1 || kubectl apply --server-side -f "$work/latebind.yaml" >/dev/null
for workload in deployment/latebind-controller deployment/latebind-webhook; do
  show kubectl -n latebind-system rollout status "$workload" --timeout=120s
done
show kubectl -n latebind-agent rollout status daemonset/latebind-agent --timeout=120s

step "A StatefulSet of three, each with a volume on its own node"
show kubectl annotate storageclass latebind-local latebind.dev/drain-policy=Wait latebind.dev/lost-node-policy=Unbind
kubectl apply -f examples/demo/database.yaml >/dev/null
until_true "three replicas to be ready" ready
where
born

step "1. A node is rebooted. What would a drain do?"
rebooted=$(node_of search-0)
show latebind plan drain "$rebooted" || [ $? -eq 1 ]
show latebind drain "$rebooted" --for=reboot --yes --delete-emptydir-data
say ""
say "Its replica waits for the node, and starts again with its data:"
show latebind uncordon "$rebooted"
until_true "three replicas to be ready" ready
born

step "2. A node is retired: its replica starts on another node, and its data stays where it is"
retired=$(node_of search-1)
show latebind drain "$retired" --for=retire --yes --delete-emptydir-data
until_true "three replicas to be ready" ready
where
show kubectl get pv -l latebind.dev/retired
show latebind uncordon "$retired"

step "3. A node is lost: its Node object is deleted, as when the machine has burned"
lost=$(node_of search-2)
claim=$(kubectl get pvc data-search-2 -o 'jsonpath={.metadata.uid}')
show kubectl delete node "$lost"
say "Kubernetes removes its Pods within a minute or two; what is made in their place has nowhere to go."
until_true "latebind to say so" sh -c 'kubectl get events --field-selector reason=NodeLost -o name | grep -q .'
show kubectl get events --field-selector reason=NodeLost -o 'custom-columns=NAME:.involvedObject.name,MESSAGE:.message'
until_true "its claim to be made anew" \
  sh -c "uid=\$(kubectl get pvc data-search-2 -o 'jsonpath={.metadata.uid}') && [ -n \"\$uid\" ] && [ \"\$uid\" != $claim ]"
until_true "three replicas to be ready" ready
where
born
show kubectl get pv -l latebind.dev/retired

step "Done"
say "No data was deleted: the volumes of before are Released and kept, kubectl get pv -l latebind.dev/retired lists them."
