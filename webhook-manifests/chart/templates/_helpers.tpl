{{- define "latebind.labels" -}}
app.kubernetes.io/name: latebind
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: latebind
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "latebind.selector" -}}
app.kubernetes.io/name: latebind
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The repository, in the registry that is to be used instead of its own. */}}
{{- define "latebind.repository" -}}
{{- $global := .Values.global | default dict }}
{{- $registry := .Values.image.registry | default (get $global "imageRegistry") }}
{{- $parts := splitList "/" .Values.image.repository }}
{{- $first := first $parts }}
{{- if and $registry (gt (len $parts) 1) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{ trimSuffix "/" $registry }}/{{ rest $parts | join "/" }}
{{- else if $registry -}}
{{ trimSuffix "/" $registry }}/{{ .Values.image.repository }}
{{- else -}}
{{ .Values.image.repository }}
{{- end -}}
{{- end }}

{{- define "latebind.image" -}}
{{- if .Values.image.digest -}}
{{ include "latebind.repository" . }}@{{ .Values.image.digest }}
{{- else -}}
{{ include "latebind.repository" . }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Admission goes through the webhook. */}}
{{- define "latebind.hasWebhook" -}}
{{- if and .Values.webhook.enabled (eq .Values.profile "webhook") }}true{{ end }}
{{- end }}

{{/* The controller makes the webhook's certificates. */}}
{{- define "latebind.makesCertificates" -}}
{{- if and (include "latebind.hasWebhook" .) (eq .Values.tls.mode "self-managed") }}true{{ end }}
{{- end }}

{{/* Which Pods are of interest: those that name a node, and, where no policy may be about others, use a claim, of a volume or of devices. `at` is the path of the Pod's spec. */}}
{{- define "latebind.pinned" -}}
- name: names-a-node
  expression: 'has({{ .at }}.nodeName) && {{ .at }}.nodeName != ""'
{{- end }}

{{- define "latebind.usesClaims" -}}
(has({{ .at }}.volumes) && {{ .at }}.volumes.exists(v, has(v.persistentVolumeClaim) || has(v.ephemeral))) || (has({{ .at }}.resourceClaims) && {{ .at }}.resourceClaims.size() > 0)
{{- end }}

{{- define "latebind.podConditions" -}}
{{ include "latebind.pinned" (dict "at" "object.spec") }}
{{ include "latebind.claimConditions" . }}
{{- end }}

{{/* A Pod without claims is of interest to PinPolicies only. */}}
{{- define "latebind.claimConditions" -}}
{{- if not .Values.policies.enabled -}}
{{ include "latebind.withClaims" . }}
{{ end -}}
- name: not-mirror
  expression: '!(has(object.metadata.annotations) && "kubernetes.io/config.mirror" in object.metadata.annotations)'
- name: not-gated
  expression: '!has(object.spec.schedulingGates) || object.spec.schedulingGates.size() == 0'
- name: not-kubelet
  expression: '!("system:nodes" in request.userInfo.groups)'
{{- with .Values.webhook.matchConditions }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "latebind.withClaims" -}}
- name: uses-claims
  expression: '{{ include "latebind.usesClaims" (dict "at" "object.spec") }}'
{{- end }}

{{/* What all webhooks have in common. */}}
{{- define "latebind.webhook" -}}
admissionReviewVersions: [v1]
sideEffects: None
failurePolicy: {{ .failurePolicy | default .root.Values.webhook.failurePolicy }}
matchPolicy: Equivalent
timeoutSeconds: {{ .timeoutSeconds | default .root.Values.webhook.timeoutSeconds }}
clientConfig:
  service:
    name: latebind-webhook
    namespace: {{ .root.Release.Namespace }}
    path: {{ .path }}
    port: 443
{{- if eq .root.Values.tls.mode "secret" }}
  caBundle: {{ .root.Values.tls.caBundle | b64enc }}
{{- end }}
{{ include "latebind.namespaces" .root }}
{{- end }}

{{/* The namespaces that admission looks at. */}}
{{- define "latebind.namespaces" -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        - kube-system
        - {{ .Release.Namespace }}
{{- range .Values.webhook.exemptNamespaces }}
        - {{ . }}
{{- end }}
    - key: latebind.dev/webhook
      operator: NotIn
      values: [disabled]
{{- with .Values.webhook.namespaceMatchExpressions }}
{{ toYaml . | indent 4 }}
{{- end }}
{{- end }}

{{- define "latebind.configurationAnnotations" -}}
{{- if eq .Values.tls.mode "cert-manager" }}
cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/latebind-webhook
{{- end }}
{{- with .Values.webhook.annotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "latebind.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "latebind.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "latebind.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: probes}
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: probes}
  periodSeconds: 10
readinessProbe:
  httpGet: {path: /readyz, port: probes}
  periodSeconds: 2
  failureThreshold: 1
{{- end }}

{{- define "latebind.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Paths without slashes at the end, each once, as a JSON list. */}}
{{- define "latebind.paths" -}}
{{- $clean := list -}}
{{- range . }}{{ $clean = append $clean (regexReplaceAll "/+$" . "") }}{{ end -}}
{{- $clean | uniq | toJson -}}
{{- end -}}

{{/* What an agent mounts for its paths, as a JSON list: a mount path in place of all that lies beneath it. `paths`, `mounts`. */}}
{{- define "latebind.mounted" -}}
{{- $mounts := .mounts -}}
{{- $needed := list -}}
{{- range $path := .paths -}}
{{- $at := $path -}}
{{- range $mount := $mounts }}{{ if hasPrefix (print $mount "/") $path }}{{ $at = $mount }}{{ end }}{{ end -}}
{{- $needed = append $needed $at -}}
{{- end -}}
{{- $needed | uniq | toJson -}}
{{- end -}}

{{/* Claims of one Pod up to which the policies decide. The controller lists no node that can hold fewer volumes. */}}
{{- define "latebind.mostPolicyClaims" -}}
8
{{- end -}}

{{/* What the policies ask of a Pod and of their parameter. */}}
{{- define "latebind.policyVariables" -}}
# Modes are numbers: the mode for all and that of the namespace. A word that is no mode is as good as none, -1.
- name: modes
  expression: '["audit", "warn", "rewrite", "deny"]'
- name: flag
  expression: variables.modes.indexOf(string(params.spec.mode))
- name: label
  expression: >-
    variables.modes.indexOf(namespaceObject.metadata.?labels[?"latebind.dev/mode"].orValue("").lowerAscii())
- name: volumes
  expression: object.spec.?volumes.orValue([])
- name: claims
  expression: >-
    variables.volumes.filter(v, has(v.persistentVolumeClaim)).map(v, v.persistentVolumeClaim.claimName)
- name: ephemeral
  expression: variables.volumes.filter(v, has(v.ephemeral))
# Claims of the namespace that wait for the scheduler.
- name: listed
  expression: params.spec.?claims[?request.namespace].orValue({})
# Ephemeral volumes whose claims will.
- name: delayed
  expression: >-
    variables.ephemeral.filter(v, has(v.ephemeral.volumeClaimTemplate)
    && v.ephemeral.volumeClaimTemplate.spec.?volumeName.orValue("") == ""
    && v.ephemeral.volumeClaimTemplate.?metadata.?annotations.orValue({}).all(k,
    k != "volume.beta.kubernetes.io/storage-class" && k != "volume.kubernetes.io/selected-node")
    && (has(v.ephemeral.volumeClaimTemplate.spec.storageClassName)
    ? v.ephemeral.volumeClaimTemplate.spec.storageClassName in params.spec.?classes.orValue({})
    : params.spec.?defaultClass.hasValue())).map(v, v.name)
# The kubelet waits for what a container mounts, and for nothing else.
- name: mounted
  expression: >-
    (object.spec.containers + object.spec.?initContainers.orValue([])).map(c,
    c.?volumeMounts.orValue([]).map(m, m.name) + c.?volumeDevices.orValue([]).map(d, d.name))
- name: stuck
  expression: >-
    variables.volumes.filter(v, (has(v.persistentVolumeClaim)
    ? v.persistentVolumeClaim.claimName in variables.listed : v.name in variables.delayed)
    && variables.mounted.exists(names, v.name in names)).map(v,
    has(v.persistentVolumeClaim) ? "claim \"" + v.persistentVolumeClaim.claimName + "\"" : "ephemeral volume \"" + v.name + "\"")
{{- end }}

{{/* Whether labels are such as a selector asks for. */}}
{{- define "latebind.selects" -}}
({{ .selector }}.?matchLabels.orValue({}).all(k, k in {{ .labels }} && {{ .labels }}[k] == {{ .selector }}.matchLabels[k])
&& {{ .selector }}.?matchExpressions.orValue([]).all(e,
e.operator == "In" ? e.key in {{ .labels }} && {{ .labels }}[e.key] in e.?values.orValue([])
: e.operator == "NotIn" ? !(e.key in {{ .labels }}) || !({{ .labels }}[e.key] in e.?values.orValue([]))
: e.operator == "Exists" ? e.key in {{ .labels }} : !(e.key in {{ .labels }})))
{{- end }}

{{/* Whether one of the requesters creates the Pod. */}}
{{- define "latebind.requests" -}}
(request.userInfo.username in {{ .requesters }}.?users.orValue([])
|| {{ .requesters }}.?groups.orValue([]).exists(g, g in request.userInfo.groups)
|| {{ .requesters }}.?serviceAccounts.orValue([]).exists(a,
"system:serviceaccount:" + a.replace("/", ":") == request.userInfo.username))
{{- end }}

{{/* What the policies ask of PinPolicies. */}}
{{- define "latebind.pinPolicyVariables" -}}
- name: labels
  expression: object.metadata.?labels.orValue({})
- name: namespaceLabels
  expression: namespaceObject.metadata.?labels.orValue({})
- name: pinnedTo
  expression: object.spec.?nodeName.orValue("")
- name: acceptedRisks
  expression: object.metadata.?annotations[?"latebind.dev/ignore"].orValue("")
# Those that cover the Pod, but for their exceptions, and as far as the classes of claims do not matter.
- name: near
  expression: >-
    params.spec.?policies.orValue([]).filter(p,
    (!has(p.namespaces) || request.namespace in p.namespaces.?names.orValue([]) || (has(p.namespaces.selector)
    && {{ include "latebind.selects" (dict "selector" "p.namespaces.selector" "labels" "variables.namespaceLabels") | nindent 4 | trim }}))
    && (!has(p.objectSelector)
    || {{ include "latebind.selects" (dict "selector" "p.objectSelector" "labels" "variables.labels") | nindent 4 | trim }})
    && (!has(p.requesters)
    || {{ include "latebind.requests" (dict "requesters" "p.requesters") | nindent 4 | trim }}))
# Which of their selectors of nodes the Pod's node meets, a letter each; nothing where that is not known.
- name: matches
  expression: params.spec.?nodeMatches[?variables.pinnedTo].orValue("")
- name: allowing
  expression: >-
    variables.near.filter(p, !has(p.allowedNodes) || variables.pinnedTo in p.allowedNodes.?names.orValue([])
    || (has(p.allowedNodes.place) && variables.matches.size() > p.allowedNodes.place
    && variables.matches.charAt(p.allowedNodes.place) == "1")).map(p, p.name)
{{- end }}

{{/* How far admission goes with a Pod: the mode, and what PinPolicies say. The API server has set the time of its creation,
which is the clock by which exceptions expire. */}}
{{- define "latebind.decisionVariables" -}}
{{- if .Values.policies.enabled }}
{{ include "latebind.pinPolicyVariables" . }}
- name: covering
  expression: >-
    variables.near.filter(p, !p.?exceptions.orValue([]).exists(e,
    timestamp(e.expiresAt) > timestamp(object.metadata.creationTimestamp)
    && (!has(e.namespaces) || request.namespace in e.namespaces)
    && (!has(e.requesters)
    || {{ include "latebind.requests" (dict "requesters" "e.requesters") | nindent 4 | trim }})))
- name: levels
  expression: '["Off", "Audit", "Warn", "Rewrite", "Deny"]'
# The strictest takes the place of the mode for all; the namespace can only make it stricter.
- name: certain
  expression: >-
    [variables.covering.all(p, p.?ofClasses.orValue(false)) ? variables.flag
    : variables.covering.filter(p, !p.?ofClasses.orValue(false)).map(p, variables.levels.indexOf(p.mode) - 1).max(),
    variables.label].max()
# Of which it is not known whether they cover the Pod: they may, or may not.
- name: open
  expression: >-
    variables.covering.filter(p, p.?ofClasses.orValue(false)).map(p, [variables.levels.indexOf(p.mode) - 1,
    variables.covering.all(q, q.?ofClasses.orValue(false)) ? variables.label : variables.certain].max())
- name: mode
  expression: >-
    variables.open.all(m, m == variables.certain) ? variables.certain
    : [(variables.open + [variables.certain]).min(), 1].min()
# Nothing is tied to a node that is not allowed, or may not be.
- name: withheld
  expression: >-
    variables.covering.exists(p, [variables.levels.indexOf(p.mode) - 1, variables.label].max() >= 2
    && !(p.name in variables.allowing))
- name: accepted
  expression: >-
    variables.covering.exists(p, !p.?ofClasses.orValue(false)) && variables.covering.all(p, p.?allowIgnore.orValue(false))
    && variables.acceptedRisks.matches("(?i)(^|[;\\n])\\s*LB001\\s*:\\s*[^;\\s]")
# Those that do not allow the node, each with how far it goes.
- name: forbidding
  expression: >-
    variables.pinnedTo == "" ? [] : variables.covering.filter(p, !p.?ofClasses.orValue(false)
    && has(p.allowedNodes) && !(p.name in variables.allowing)
    && (!has(p.allowedNodes.place) || variables.matches.size() > p.allowedNodes.place))
- name: refusing
  expression: >-
    variables.forbidding.filter(p, [variables.levels.indexOf(p.mode) - 1, variables.label].max() == 3)
- name: warning
  expression: >-
    variables.forbidding.filter(p, [variables.levels.indexOf(p.mode) - 1, variables.label].max() in [1, 2, 3])
{{- else }}
- name: mode
  expression: '[variables.flag, variables.label].max()'
- name: withheld
  expression: 'false'
- name: accepted
  expression: 'false'
{{- end }}
{{- end }}

{{- /* What the C library is told of the heap, as environment. */}}
{{- define "latebind.heap" -}}
# One heap for all threads: most of them only wait, and each heap of its own stays as large as it was.
- {name: MALLOC_ARENA_MAX, value: "1"}
# What a long list took goes back to the system when it is read.
- {name: MALLOC_MMAP_THRESHOLD_, value: "32768"}
- {name: MALLOC_TRIM_THRESHOLD_, value: "65536"}
{{- end }}
