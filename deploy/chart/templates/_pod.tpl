{{/* The Pod, for both kinds of workload. */}}

{{- define "sluicegate.args" -}}
- run
- --kubernetes
- --http={{ if .Values.http.enabled }}{{ include "sluicegate.socket" (dict "address" .Values.bindAddress "port" .Values.http.containerPort) }}{{ else }}none{{ end }}
- --https={{ if .Values.https.enabled }}{{ include "sluicegate.socket" (dict "address" .Values.bindAddress "port" .Values.https.containerPort) }}{{ else }}none{{ end }}
- --admin={{ include "sluicegate.socket" (dict "address" (include "sluicegate.adminAddress" .) "port" .Values.admin.port) }}
- --ingress-class={{ .Values.ingressClass.name }}
- --controller-class={{ .Values.ingressClass.controller }}
{{- if .Values.ingressClass.watchWithoutClass }}
- --watch-ingress-without-class
{{- end }}
{{- range .Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- with .Values.watchNamespaceSelector }}
- {{ printf "--watch-namespace-selector=%s" . | quote }}
{{- end }}
{{- with .Values.watchSelector }}
- {{ printf "--watch-selector=%s" . | quote }}
{{- end }}
{{- with .Values.defaultCertificate }}
- --default-certificate={{ . }}
{{- end }}
{{- with .Values.zone.name }}
- --zone={{ . }}
{{- end }}
{{- with .Values.services.types }}
- --service-types={{ join "," . }}
{{- end }}
{{- if .Values.services.defaultLoadBalancer }}
- --default-load-balancer
{{- end }}
{{- with .Values.services.loadBalancerAddresses }}
- --load-balancer-addresses={{ join "," . }}
{{- end }}
{{- if .Values.services.metallbPools }}
- --metallb-pools
{{- end }}
{{- if .Values.services.transparent }}
- --transparent
{{- end }}
{{- if ne .Values.services.announce "none" }}
- --announce={{ .Values.services.announce }}
- --announce-lease={{ .Values.services.announceLeaseSeconds | int }}s
{{- with .Values.services.announceInterfaces }}
- {{ printf "--announce-interfaces=%s" (join "," .) | quote }}
{{- end }}
{{- end }}
{{- with .Values.services.nodePortAddresses }}
- --nodeport-addresses={{ join "," . }}
{{- end }}
{{- with .Values.services.tcpConfigMap }}
- --tcp-services-configmap={{ . }}
{{- end }}
{{- with .Values.services.udpConfigMap }}
- --udp-services-configmap={{ . }}
{{- end }}
{{- if .Values.status.enabled }}
{{- if .Values.status.publishAddresses }}
- --publish-address={{ join "," .Values.status.publishAddresses }}
{{- else if include "sluicegate.publishService" . }}
- --publish-service={{ include "sluicegate.publishService" . }}
{{- else }}
- --publish-node-address={{ .Values.status.nodeAddress }}
{{- end }}
{{- if .Values.status.clearAtEnd }}
- --update-status-on-shutdown
{{- end }}
{{- if or .Values.status.clearAtEnd (include "sluicegate.publishesNodes" .) }}
- --pod-selector=app.kubernetes.io/name={{ include "sluicegate.name" . }},app.kubernetes.io/instance={{ .Release.Name }}
{{- end }}
- --election-id={{ include "sluicegate.fullname" . }}
{{- else }}
- --update-status=false
{{- end }}
- --state-dir={{ ternary "none" "/var/lib/sluicegate" (eq .Values.state.kind "none") }}
- --lame-duck={{ .Values.shutdown.lameDuckSeconds | int }}s
- --drain-timeout={{ .Values.shutdown.drainSeconds | int }}s
- {{ printf "--log-level=%s" .Values.log.level | quote }}
- --log-format={{ .Values.log.format }}
- --access-log={{ .Values.accessLog }}
{{- if .Values.proxyProtocol }}
- --proxy-protocol
{{- end }}
{{- with .Values.trustedProxies }}
- --trusted-proxy={{ join "," . }}
{{- end }}
{{- with .Values.workers }}
- --workers={{ . | int }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "sluicegate.securityContext" -}}
{{- $context := deepCopy .Values.securityContext }}
{{- if and .Values.hostNetwork (include "sluicegate.lowPort" .) }}
{{- $capabilities := default dict $context.capabilities }}
{{- $add := default list $capabilities.add }}
{{- $_ := set $capabilities "add" (append $add "NET_BIND_SERVICE" | uniq) }}
{{- $_ := set $context "capabilities" $capabilities }}
{{- end }}
{{- $announces := ne .Values.services.announce "none" }}
{{- if or $announces .Values.services.transparent (has "cluster-ip" .Values.services.types) }}
{{- $capabilities := default dict $context.capabilities }}
{{- $add := ternary (list "NET_ADMIN" "NET_RAW") (list "NET_ADMIN") $announces }}
{{- $_ := set $capabilities "add" (concat (default list $capabilities.add) $add | uniq) }}
{{- $_ := set $context "capabilities" $capabilities }}
{{- /* What the program's file is permitted would be taken from it otherwise. */}}
{{- $_ := set $context "allowPrivilegeEscalation" true }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{- define "sluicegate.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext }}
{{- if and (not .Values.hostNetwork) (include "sluicegate.lowPort" .) }}
{{- $sysctl := dict "name" "net.ipv4.ip_unprivileged_port_start" "value" "0" }}
{{- $_ := set $context "sysctls" (append (default list $context.sysctls) $sysctl | uniq) }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{- define "sluicegate.probe" -}}
httpGet:
  path: {{ .path }}
  port: admin
  {{- if include "sluicegate.adminIsLocal" .root }}
  # Asked by the kubelet, which is in the same network.
  host: {{ include "sluicegate.adminAddress" .root | quote }}
  {{- end }}
{{ .settings }}
{{- end }}

{{/* Does not fail before the lame-duck time is over, unless it is told to. */}}
{{- define "sluicegate.readiness" -}}
{{- $period := default 10 .Values.probes.readiness.periodSeconds | int }}
{{- $failures := add (div (int .Values.shutdown.lameDuckSeconds) $period) 2 }}
{{- toYaml (merge (deepCopy .Values.probes.readiness) (dict "failureThreshold" $failures)) }}
{{- end }}

{{- define "sluicegate.containers" -}}
- name: sluicegate
  image: {{ include "sluicegate.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    {{- include "sluicegate.args" . | nindent 4 }}
  env:
  # Read as --pod-name, --pod-namespace and --node-name: whose Lease it is, and which endpoints are near.
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: POD_NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  {{- if or .Values.zone.fromNode .Values.zone.name (eq .Values.state.kind "pvc") .Values.services.types }}
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  ports:
  {{- range $name := list "http" "https" }}
  {{- $one := get $.Values $name }}
  {{- if $one.enabled }}
  - name: {{ $name }}
    containerPort: {{ $one.containerPort | int }}
    {{- if $.Values.hostNetwork }}
    hostPort: {{ $one.containerPort | int }}
    {{- else if $one.hostPort }}
    hostPort: {{ $one.hostPort | int }}
    {{- end }}
    protocol: TCP
  {{- end }}
  {{- end }}
  - name: admin
    containerPort: {{ .Values.admin.port | int }}
    {{- if .Values.hostNetwork }}
    hostPort: {{ .Values.admin.port | int }}
    {{- end }}
    protocol: TCP
  startupProbe:
    {{- include "sluicegate.probe" (dict "root" . "path" "/livez" "settings" (toYaml .Values.probes.startup)) | nindent 4 }}
  livenessProbe:
    {{- include "sluicegate.probe" (dict "root" . "path" "/livez" "settings" (toYaml .Values.probes.liveness)) | nindent 4 }}
  readinessProbe:
    {{- include "sluicegate.probe" (dict "root" . "path" "/readyz" "settings" (include "sluicegate.readiness" .)) | nindent 4 }}
  {{- with .Values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "sluicegate.securityContext" . | nindent 4 }}
  {{- if or (ne .Values.state.kind "none") .Values.extraVolumeMounts }}
  volumeMounts:
  {{- if ne .Values.state.kind "none" }}
  - name: state
    mountPath: /var/lib/sluicegate
    {{- if eq .Values.state.kind "pvc" }}
    # One folder for each node, for Pods come and go and nodes stay.
    subPathExpr: $(NODE_NAME)
    {{- end }}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- end }}

{{- define "sluicegate.pod" -}}
metadata:
  labels:
    {{- include "sluicegate.selectorLabels" . | nindent 4 }}
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "sluicegate.serviceAccountName" . }}
  automountServiceAccountToken: true
  # Every flag is also a variable SLUICEGATE_…; Services of the namespace must not set any.
  enableServiceLinks: false
  # Lame duck, drain, and a margin. No preStop hook: SIGTERM itself begins with the lame-duck time.
  terminationGracePeriodSeconds: {{ add (int .Values.shutdown.lameDuckSeconds) (int .Values.shutdown.drainSeconds) (int .Values.shutdown.marginSeconds) (ternary 15 0 .Values.status.clearAtEnd) }}
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with .Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- include "sluicegate.podSecurityContext" . | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if kindIs "slice" .Values.topologySpreadConstraints }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- else if eq .Values.kind "Deployment" }}
  topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "sluicegate.selectorLabels" $ | nindent 8 }}
  {{- end }}
  {{- end }}
  containers:
  {{- include "sluicegate.containers" . | nindent 2 }}
  {{- if or (ne .Values.state.kind "none") .Values.extraVolumes }}
  volumes:
  {{- if eq .Values.state.kind "emptyDir" }}
  - name: state
    emptyDir:
      {{- with .Values.state.emptyDir.medium }}
      medium: {{ . }}
      {{- end }}
      {{- with .Values.state.emptyDir.sizeLimit }}
      sizeLimit: {{ . }}
      {{- end }}
  {{- else if eq .Values.state.kind "pvc" }}
  - name: state
    persistentVolumeClaim:
      claimName: {{ default (printf "%s-state" (include "sluicegate.fullname" .)) .Values.state.pvc.existingClaim }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- end }}
