//! How fast manifests are read and judged, as ratios to the YAML parser's own speed in the same run.
//!
//! Rounds of all contestants alternate, and the best of each counts: noise of the machine meets them all alike.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use latebind::binding::{Assumptions, Rules, decide_pod, decide_workload};
use latebind::facts::Fact;
use latebind::facts::files::{Input, Manifests, Object, Request, Subject};
use latebind::yaml::{AliasBudget, documents};
use serde_json::Value;
use serde_saphyr::granit_parser::{Options, Parser};

const ROUNDS: usize = 15;

fn main() {
    let directory = tempfile::tempdir().unwrap();
    println!("| input | contestant | MB/s | to the parser's values |\n| --- | --- | ---: | ---: |");
    for (name, text) in
        [("a chart", chart(150)), ("a cluster's dump", dump(400)), ("few workloads", configuration(300))]
    {
        let file = directory.path().join("input.yaml");
        std::fs::write(&file, &text).unwrap();
        let request = Request { files: vec![Input::Path(file)], ..Request::default() };
        let contestants: [(&str, &dyn Fn() -> usize); 5] = [
            ("parser, events only", &|| events(&text)),
            ("parser, to values", &|| parser_values(&text)),
            ("latebind, to values", &|| values(&text)),
            ("latebind, to objects and facts", &|| Manifests::read(&request).unwrap().objects.len()),
            ("latebind, objects, verdicts and places", &|| judged(&request)),
        ];
        let mut best = [Duration::MAX; 5];
        for _ in 0..ROUNDS {
            for (contestant, best) in contestants.iter().zip(&mut best) {
                let begun = Instant::now();
                black_box(contestant.1());
                *best = begun.elapsed().min(*best);
            }
        }
        let speed = |time: Duration| text.len() as f64 / time.as_secs_f64() / 1e6;
        for (contestant, time) in contestants.iter().zip(best) {
            let ratio = speed(time) / speed(best[1]);
            println!("| {name}, {} KB | {} | {:.1} | {ratio:.2} |", text.len() / 1000, contestant.0, speed(time));
        }
    }
}

fn events(text: &str) -> usize {
    let mut options = Options::default();
    options.set_emit_comments(false);
    Parser::new_from_str_with_options(text, options).map(Result::unwrap).count()
}

fn parser_values(text: &str) -> usize {
    serde_saphyr::from_multiple::<Value>(text).unwrap().len()
}

fn values(text: &str) -> usize {
    let mut budget = AliasBudget::default();
    documents(text).iter().map(|document| document.value(&mut budget).unwrap()).map(black_box).count()
}

/// All that `lint` does but print: objects, facts, verdicts, and the place of every finding.
fn judged(request: &Request) -> usize {
    let manifests = Manifests::read(request).unwrap();
    let view = manifests.facts();
    let rules = Rules { assume: Assumptions::in_order(), ..Rules::default() };
    let places = |object: &Object| {
        let findings = match &object.subject {
            Subject::Workload(workload) => {
                let verdict = decide_workload(workload, view, &rules);
                verdict.pods.into_iter().flat_map(|(_, pod)| pod.findings).collect()
            }
            Subject::Fact(fact) => match &**fact {
                Fact::Pod(pod) => decide_pod(pod, view, &rules).findings,
                _ => Vec::new(),
            },
            Subject::Other(_) => Vec::new(),
        };
        findings.iter().map(|finding| object.origin.place(&finding.path)).map(black_box).count()
    };
    manifests.checked().map(places).sum()
}

/// What `helm template` prints for a large chart: Deployments with Services and settings, one in ten of them pinned.
fn chart(workloads: usize) -> String {
    let part = |number: usize| {
        let pin = if number.is_multiple_of(10) { "nodeName: node-a" } else { "nodeSelector: {disk: ssd}" };
        format!(
            "---
# Source: chart/templates/app-{number}.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app-{number}
  labels:
    app.kubernetes.io/name: app-{number}
    app.kubernetes.io/managed-by: Helm
spec:
  replicas: 2
  selector:
    matchLabels:
      app.kubernetes.io/name: app-{number}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: app-{number}
      annotations:
        checksum/config: \"0f343b0931126a20f133d67c2b018a3b\"
    spec:
      {pin}
      serviceAccountName: app-{number}
      securityContext:
        runAsNonRoot: true
        fsGroup: 1000
      containers:
        - name: app
          image: \"registry.example.com/team/app:{number}\"
          imagePullPolicy: IfNotPresent
          args: [\"--listen\", \":8080\", \"--storage\", \"/data\"]
          env:
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            - name: LOG_LEVEL
              value: info
          ports:
            - name: http
              containerPort: 8080
              protocol: TCP
          livenessProbe:
            httpGet: {{path: /healthz, port: http}}
          resources:
            requests: {{cpu: 100m, memory: 128Mi}}
            limits: {{memory: 256Mi}}
          volumeMounts:
            - name: data
              mountPath: /data
      volumes:
        - name: data
          persistentVolumeClaim:
            claimName: data-{number}
---
apiVersion: v1
kind: Service
metadata:
  name: app-{number}
spec:
  selector:
    app.kubernetes.io/name: app-{number}
  ports:
    - {{name: http, port: 80, targetPort: http}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: data-{number}
spec:
  accessModes: [\"ReadWriteOnce\"]
  storageClassName: local-path
  resources:
    requests:
      storage: 10Gi
"
        )
    };
    let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: local-path}\nprovisioner: rancher.io/local-path\nvolumeBindingMode: WaitForFirstConsumer\n";
    class.to_owned() + &(0..workloads).map(part).collect::<String>()
}

/// What `kubectl get pods -o yaml` prints: one List, all items in it, one in ten of them pinned to nothing delayed.
fn dump(pods: usize) -> String {
    let pod = |number: usize| {
        format!(
            "- apiVersion: v1
  kind: Pod
  metadata:
    creationTimestamp: \"2026-01-01T00:00:00Z\"
    generateName: app-
    labels:
      app: app
      pod-template-hash: 7d4b9c6f5b
    name: app-{number}
    namespace: team
    resourceVersion: \"{number}\"
    uid: 00000000-0000-0000-0000-{number:012}
  spec:
    containers:
    - image: registry.example.com/team/app:1
      imagePullPolicy: IfNotPresent
      name: app
      resources:
        requests:
          cpu: 100m
          memory: 128Mi
      volumeMounts:
      - mountPath: /var/run/secrets/kubernetes.io/serviceaccount
        name: kube-api-access-x
        readOnly: true
    dnsPolicy: ClusterFirst
    enableServiceLinks: true
    nodeName: node-{number}
    tolerations:
    - effect: NoExecute
      key: node.kubernetes.io/not-ready
      operator: Exists
      tolerationSeconds: 300
    volumes:
    - name: kube-api-access-x
      projected:
        sources:
        - serviceAccountToken:
            expirationSeconds: 3607
            path: token
  status:
    phase: Running
    podIP: 10.1.2.3
"
        )
    };
    "apiVersion: v1\nkind: List\nitems:\n".to_owned() + &(0..pods).map(pod).collect::<String>()
}

/// Settings in which there is next to nothing to judge.
fn configuration(maps: usize) -> String {
    let map = |number: usize| {
        let lines =
            (0..20).map(|line| format!("    option.{line} = value {number} # why\n")).collect::<Vec<_>>().concat();
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings-{number}\ndata:\n  retries: \"{number}\"\n  app.conf: |\n{lines}"
        )
    };
    (0..maps).map(map).collect()
}
