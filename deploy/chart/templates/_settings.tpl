{{/* What several templates must agree on. Each is "true" or empty, or a string. */}}

{{/* Pods hold ports of their node: no two of them on one, and clients reach the nodes. */}}
{{- define "sluicegate.onNodes" -}}
{{- if or .Values.hostNetwork .Values.http.hostPort .Values.https.hostPort }}true{{ end }}
{{- end }}

{{/* A socket address; a colon in the address means IPv6. */}}
{{- define "sluicegate.socket" -}}
{{- if contains ":" .address }}[{{ .address }}]{{ else }}{{ .address }}{{ end }}:{{ .port | int }}
{{- end }}

{{/* With hostNetwork, all addresses of the node would be too many. */}}
{{- define "sluicegate.adminAddress" -}}
{{- if .Values.admin.address }}
{{- .Values.admin.address }}
{{- else if .Values.hostNetwork }}
{{- if contains ":" .Values.bindAddress }}::1{{ else }}127.0.0.1{{ end }}
{{- else }}
{{- .Values.bindAddress }}
{{- end }}
{{- end }}

{{- define "sluicegate.adminIsLocal" -}}
{{- $address := include "sluicegate.adminAddress" . }}
{{- if or (hasPrefix "127." $address) (eq $address "::1") }}true{{ end }}
{{- end }}

{{/* A port below 1024 needs the sysctl in the network of the Pod, or the capability in that of the node. */}}
{{- define "sluicegate.lowPort" -}}
{{- if .Values.services.types }}true{{ end }}
{{- range (list .Values.http .Values.https) }}
{{- if and .enabled (lt (int .containerPort) 1024) }}true{{ end }}
{{- end }}
{{- end }}

{{/* Services of type LoadBalancer get addresses. */}}
{{- define "sluicegate.balances" -}}
{{- if has "load-balancer" .Values.services.types }}true{{ end }}
{{- end }}

{{/* NAMESPACE/NAME of the Service whose addresses are published, or nothing: then it is addresses or nodes. */}}
{{- define "sluicegate.publishService" -}}
{{- if .Values.status.publishService }}
{{- .Values.status.publishService }}
{{- else if and .Values.service.enabled (not (include "sluicegate.onNodes" .)) (not .Values.status.publishAddresses) }}
{{- printf "%s/%s" .Release.Namespace (include "sluicegate.fullname" .) }}
{{- end }}
{{- end }}

{{/* Status is written, and its addresses are those of the nodes that Pods are on. */}}
{{- define "sluicegate.publishesNodes" -}}
{{- if and .Values.status.enabled (not .Values.status.publishAddresses) (not (include "sluicegate.publishService" .)) }}true{{ end }}
{{- end }}

{{/* Whether more than one Pod may run at a time. An update of a single replica has two for a moment. */}}
{{- define "sluicegate.severalPods" -}}
{{- if or (eq .Values.kind "DaemonSet") .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}true{{ end }}
{{- end }}

{{/* What cannot work is refused here, with what to do instead; shapes and types are the schema's. */}}
{{- define "sluicegate.check" -}}
{{- if not (or .Values.http.enabled .Values.https.enabled) }}
{{- fail "http.enabled and https.enabled are both false: nothing would be served" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (eq .Values.kind "DaemonSet") }}
{{- fail "autoscaling.enabled needs kind: Deployment; a DaemonSet has as many Pods as there are nodes" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.targetCPU) (not .Values.autoscaling.targetMemory) }}
{{- fail "autoscaling.enabled needs autoscaling.targetCPU or autoscaling.targetMemory" }}
{{- end }}
{{- if and .Values.podDisruptionBudget.enabled (kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable) (kindIs "invalid" .Values.podDisruptionBudget.minAvailable) }}
{{- fail "podDisruptionBudget needs maxUnavailable or minAvailable" }}
{{- end }}
{{- if and .Values.services.types (not .Values.hostNetwork) }}
{{- fail "services.types needs hostNetwork: true; addresses of Services are addresses of nodes" }}
{{- end }}
{{- if and (ne .Values.services.announce "none") (not (include "sluicegate.balances" .)) }}
{{- fail "services.announce needs services.types with load-balancer" }}
{{- end }}
{{- if and (include "sluicegate.balances" .) (not .Values.status.enabled) }}
{{- fail "services.types with load-balancer needs status.enabled: which Service has which address is kept in its status" }}
{{- end }}
{{- if .Values.hostNetwork }}
{{- if .Values.networkPolicy.enabled }}
{{- fail "networkPolicy.enabled has no effect with hostNetwork: Kubernetes applies no policy to such Pods. Guard the nodes instead" }}
{{- end }}
{{- range $name := list "http" "https" }}
{{- $one := get $.Values $name }}
{{- if and $one.enabled $one.hostPort (ne (int $one.hostPort) (int $one.containerPort)) }}
{{- fail (printf "%s.hostPort must be %s.containerPort or null with hostNetwork" $name $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "sluicegate.adminIsLocal" . }}
{{- if not .Values.hostNetwork }}
{{- fail "admin.address on loopback needs hostNetwork: the node's probes could not reach it" }}
{{- end }}
{{- if or .Values.metrics.service.enabled .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled }}
{{- fail "metrics cannot be scraped: with hostNetwork the admin port is on loopback. Set admin.address, and guard that port" }}
{{- end }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.service.enabled) }}
{{- fail "metrics.serviceMonitor.enabled needs metrics.service.enabled" }}
{{- end }}
{{- if and (eq .Values.state.kind "pvc") (include "sluicegate.severalPods" .) (not .Values.state.pvc.existingClaim) (not (has "ReadWriteMany" .Values.state.pvc.accessModes)) }}
{{- fail "state.kind: pvc with more than one Pod needs state.pvc.accessModes: [ReadWriteMany], or state.pvc.existingClaim" }}
{{- end }}
{{- if and .Values.rbac.secretNames .Values.rbac.listSecrets }}
{{- fail "rbac.secretNames needs rbac.listSecrets: false; whoever may list Secrets reads all of them" }}
{{- end }}
{{- if and .Values.watchNamespaces .Values.watchNamespaceSelector }}
{{- fail "watchNamespaceSelector has no effect beside watchNamespaces" }}
{{- end }}
{{- end }}
