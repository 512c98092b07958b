#!/usr/bin/env bash
# The least that a provisioner of local volumes does: once a node is selected for a claim, make a volume there.
set -euo pipefail
while :; do
  kubectl get pvc -A --no-headers -o custom-columns='N:.metadata.namespace,C:.metadata.name,U:.metadata.uid,P:.status.phase,S:.spec.storageClassName,W:.metadata.annotations.volume\.kubernetes\.io/selected-node' |
    while read -r namespace claim uid phase class node; do
      [ "$phase" = Pending ] && [ "$class" = local-path ] && [ "$node" != '<none>' ] || continue
      kubectl apply -f - >/dev/null <<VOLUME
apiVersion: v1
kind: PersistentVolume
metadata:
  name: pvc-$uid
  annotations: {pv.kubernetes.io/provisioned-by: rancher.io/local-path}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local-path
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: $namespace, name: $claim, uid: $uid}
  hostPath: {path: /opt/local-path/pvc-$uid, type: DirectoryOrCreate}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]
VOLUME
    done
  sleep 0.5
done
