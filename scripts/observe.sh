#!/usr/bin/env bash
# Watch the release $3 (`plinth` by default) of the kind cluster $1: Prometheus, an OpenTelemetry collector and Jaeger in
# the namespace `monitoring`, and metrics and traces of the release turned on. Safe to run again. Where the cluster has
# the operator of Prometheus, by its custom resources; else plainly. $2 names the Service that takes the traces:
# otel-collector, or jaeger, and then there is no collector.
set -euo pipefail
cd "$(dirname "$0")/.."
context=kind-$1
collector=$2
name=${3:-plinth}
files=k8s/observability
release=(--kube-context "$context" --namespace "$name")
on_cluster() { kubectl --context "$context" "$@"; }
in_monitoring() { on_cluster --namespace monitoring "$@"; }

on_cluster apply -f $files/namespace.yaml -f $files/prometheus.yaml -f $files/jaeger.yaml
if [ "$collector" = otel-collector ]; then
    on_cluster apply -f $files/collector.yaml
fi

if on_cluster get crd podmonitors.monitoring.coreos.com prometheusrules.monitoring.coreos.com >/dev/null 2>&1; then
    kind=operator
else
    kind=plain
fi
# What the release has been given so far stays.
helm upgrade "$name" charts/plinth "${release[@]}" --reset-then-reuse-values --values $files/values-$kind.yaml \
    --set tracing.endpoint="http://$collector.monitoring:4318" --wait --timeout 5m

if [ $kind = operator ]; then
    on_cluster apply -f $files/prometheus-operator.yaml
    in_monitoring wait --for=condition=Available prometheus/plinth --timeout=180s
else
    # The rules of this very release, in the form in which Prometheus reads them.
    helm get values "$name" "${release[@]}" --output yaml |
        helm template "$name" charts/plinth --namespace "$name" --values - --set metrics.rules.enabled=true \
            --kube-version 1.34 --api-versions monitoring.coreos.com/v1/PrometheusRule \
            --api-versions keda.sh/v1alpha1/ScaledObject --api-versions gateway.networking.k8s.io/v1/HTTPRoute \
            --show-only templates/observability/rules.yaml |
        sed '1,/^spec:/d; s/^  //' |
        in_monitoring create configmap plinth-rules --from-file=plinth.yaml=/dev/stdin --dry-run=client --output yaml |
        in_monitoring apply -f -
    on_cluster apply -f $files/prometheus-plain.yaml
    in_monitoring rollout restart deployment/prometheus  # it reads its rules when it starts
    in_monitoring rollout status deployment/prometheus --timeout=180s
fi
for name in jaeger "$collector"; do
    in_monitoring rollout status "deployment/$name" --timeout=180s
done

cat <<EOF

Prometheus: kubectl --context $context -n monitoring port-forward svc/prometheus 9090
Traces:     kubectl --context $context -n monitoring port-forward svc/jaeger 16686
EOF
