{{- define "allpacs.labels" -}}
app.kubernetes.io/name: allpacs
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What every pod has in common; give it (dict "root" $ "process" "receive"). */}}
{{- define "allpacs.pod" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
terminationGracePeriodSeconds: 60
volumes:
  - name: config
    configMap: {name: {{ .root.Release.Name }}-config}
  - name: store
    persistentVolumeClaim: {claimName: {{ .root.Values.store.claim }}}
  - name: tmp
    emptyDir: {}
{{- with .root.Values.tls.secret }}
  - name: tls
    secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "allpacs.container" -}}
image: "{{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [{{ .process }}, --config, /etc/allpacs/allpacs.toml]
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: config, mountPath: /etc/allpacs/allpacs.toml, subPath: allpacs.toml, readOnly: true}
  - {name: store, mountPath: /var/lib/allpacs}
  - {name: tmp, mountPath: /tmp}
{{- if .root.Values.tls.secret }}
  - {name: tls, mountPath: /etc/allpacs/tls, readOnly: true}
{{- end }}
{{- with .root.Values.secret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "allpacs.env" -}}
- name: ALLPACS_STORE__FOLDER
  value: /var/lib/allpacs
- name: ALLPACS_MODEL__CACHE
  value: /var/lib/allpacs/model-cache
- name: ALLPACS_STORE__DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .root.Values.database.secret }}, key: {{ .root.Values.database.key }}}
{{- if .root.Values.metrics.enabled }}
- {name: ALLPACS_MONITOR__HOST, value: "0.0.0.0"}
- {name: ALLPACS_MONITOR__TLS__CERTIFICATE, value: /etc/allpacs/tls/tls.crt}
- {name: ALLPACS_MONITOR__TLS__KEY, value: /etc/allpacs/tls/tls.key}
- {name: ALLPACS_MONITOR__TLS__REQUIRE_CLIENT_CERTIFICATE, value: "false"}
- name: ALLPACS_MONITOR__BEARER_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ required "metrics.tokenSecret: name the secret with the token" .root.Values.metrics.tokenSecret }}, key: token}
{{- end }}
{{- end }}

{{- define "allpacs.probes" -}}
startupProbe:
  exec: {command: [allpacs, health, {{ .process }}, --config, /etc/allpacs/allpacs.toml]}
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: 60
livenessProbe:
  exec: {command: [allpacs, health, {{ .process }}, --config, /etc/allpacs/allpacs.toml]}
  periodSeconds: 30
  timeoutSeconds: 10
readinessProbe:
  exec: {command: [allpacs, health, {{ .process }}, --ready, --config, /etc/allpacs/allpacs.toml]}
  periodSeconds: 15
  timeoutSeconds: 10
{{- end }}
