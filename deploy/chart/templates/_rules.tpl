{{/* Rules of roles. README.md says what each is for; nothing is granted that is not used. */}}

{{/* What is served, in one namespace or in all of them. */}}
{{- define "sluicegate.rulesOfObjects" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [secrets]
  {{- if .Values.rbac.listSecrets }}
  verbs: [get, list, watch]
  {{- else }}
  {{- with .Values.rbac.secretNames }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [get]
  {{- end }}
{{- if .Values.status.enabled }}
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [patch]
{{- if include "sluicegate.balances" . }}
- apiGroups: [""]
  # Its finalizer, and its addresses.
  resources: [services, services/status]
  verbs: [patch]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [get, create, patch]
{{- end }}
{{- end }}

{{/* What has no namespace. */}}
{{- define "sluicegate.rulesOfCluster" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingressclasses]
  verbs: [get, list, watch]
{{- if or .Values.watchNamespaceSelector (include "sluicegate.balances" .) }}
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}
{{- if include "sluicegate.balances" . }}
- apiGroups: [sluicegate.dev]
  resources: [addresspools]
  verbs: [list, watch]
- apiGroups: [""]
  # Networks that no pool gives addresses of; their labels, by which advertisements choose them.
  resources: [nodes]
  verbs: [list, watch]
- apiGroups: [networking.k8s.io]
  resources: [servicecidrs]
  verbs: [list, watch]
{{- if .Values.services.metallbPools }}
- apiGroups: [metallb.io]
  resources: [ipaddresspools, l2advertisements]
  verbs: [list, watch]
{{- end }}
{{- end }}
{{- if or (and .Values.zone.fromNode (not .Values.zone.name)) (include "sluicegate.publishesNodes" .) }}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{- end }}
{{- end }}

{{/* What is needed where Pods run. */}}
{{- define "sluicegate.rulesOfOwn" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  # A name cannot be demanded of what does not exist yet.
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "sluicegate.fullname" . }}]
  verbs: [get, patch]
{{- if ne .Values.services.announce "none" }}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  # One for each node, whose names are not known here.
  verbs: [list, watch, patch, delete]
{{- end }}
{{- if or .Values.status.clearAtEnd (include "sluicegate.publishesNodes" .) }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end }}
{{- end }}

{{/* Namespace → rules, as YAML. Where rights are for the whole cluster, only the Pods' own namespace is in it. */}}
{{- define "sluicegate.rulesOfNamespaces" -}}
{{- $roles := dict }}
{{- range .Values.watchNamespaces }}
{{- $_ := set $roles . (list (include "sluicegate.rulesOfObjects" $)) }}
{{- end }}
{{- if .Values.status.enabled }}
{{- $own := .Release.Namespace }}
{{- $_ := set $roles $own (append (default list (get $roles $own)) (include "sluicegate.rulesOfOwn" .)) }}
{{- end }}
{{- if .Values.watchNamespaces }}
{{- range list (dict "name" .Values.defaultCertificate "resource" "secrets" "verbs" (list "get")) (dict "name" (ternary (include "sluicegate.publishService" .) "" .Values.status.enabled) "resource" "services" "verbs" (list "list" "watch")) (dict "name" .Values.services.tcpConfigMap "resource" "configmaps" "verbs" (list "get")) (dict "name" .Values.services.udpConfigMap "resource" "configmaps" "verbs" (list "get")) }}
{{- if .name }}
{{- $parts := splitList "/" .name }}
{{- $namespace := first $parts }}
{{- if not (has $namespace $.Values.watchNamespaces) }}
{{- $rule := dict "apiGroups" (list "") "resources" (list .resource) "resourceNames" (list (last $parts)) "verbs" .verbs }}
{{- $_ := set $roles $namespace (append (default list (get $roles $namespace)) (toYaml (list $rule))) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $joined := dict }}
{{- range $namespace, $rules := $roles }}
{{- $_ := set $joined $namespace (join "\n" $rules) }}
{{- end }}
{{- toYaml $joined }}
{{- end }}
