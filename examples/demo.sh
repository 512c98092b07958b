#!/usr/bin/env bash
# From nothing to a deadlocked Pod running, on a real Kubernetes that this script starts and removes.
# LATEBIND_DEMO_KEEP=1 leaves the cluster running, to look around.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=examples/demo/lib.sh
source examples/demo/lib.sh
start_cluster 2
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
