"""Values in which templates are filled in, and those in which they are left to others."""

import pytest

from tests.chart.tools import Object, RenderError, objects_of, template

pytestmark = pytest.mark.parametrize("helm", ["HELM", "HELM4"])

VALUES: Object = {
    "environment": "local",
    "externalDatabase": {"existingSecret": "{{ .Release.Name }}-database"},
    "postgresql": {"enabled": False},
    "externalRedis": {"existingSecret": "{{ .Release.Name }}-cache"},
    "redis": {"enabled": False},
    "secretKey": {"existingSecret": '{{ include "plinth.fullname" . }}-key'},
    "tests": {"tokenSecret": "{{ .Release.Name }}-token"},
    "config": {"LOG_LEVEL": '{{ upper "debug" }}'},
    "extraEnv": [{"name": "REGION", "value": "{{ .Values.global.region }}"}],
    "extraEnvFrom": [{"secretRef": {"name": "{{ .Release.Name }}-settings"}}],
    "global": {"region": "eu"},
    "api": {
        "extraVolumes": [{"name": "ca", "configMap": {"name": "{{ .Release.Name }}-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "initContainers": [{"name": "init", "image": "init:{{ .Chart.AppVersion }}"}],
        "sidecars": [{"name": "proxy", "image": "proxy:{{ .Chart.AppVersion }}"}],
    },
    "networkPolicy": {"apiFrom": [{"podSelector": {}}]},
    "ingress": {
        "enabled": True,
        "hosts": ["{{ .Release.Name }}.example.com"],
        "tls": [{"hosts": ["{{ .Release.Name }}.example.com"], "secretName": "{{ .Release.Name }}-tls"}],
    },
    "httpRoute": {
        "enabled": True,
        "parentRefs": [{"name": "gateway"}],
        "hostnames": ["{{ .Release.Name }}.example.com"],
    },
}


def test_templates_are_filled_in(helm: str) -> None:
    items = {(item["kind"], item["metadata"]["name"]): item for item in objects_of(template(VALUES, helm=helm))}
    assert "{{" not in str({name: item for name, item in items.items() if name[0] != "Pod"})
    spec = items["Deployment", "plinth-api"]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    env = {
        entry["name"]: entry.get("value") or entry["valueFrom"]["secretKeyRef"]["name"] for entry in container["env"]
    }
    assert env["DATABASE_URL"] == "plinth-database"
    assert env["REDIS_URL"] == "plinth-cache"
    assert (env["SECRET_KEY"], env["LOG_LEVEL"], env["REGION"]) == ("plinth-key", "DEBUG", "eu")
    assert container["envFrom"] == [{"secretRef": {"name": "plinth-settings"}}]
    assert {"name": "ca", "configMap": {"name": "plinth-ca"}} in spec["volumes"]
    assert (spec["initContainers"][1]["image"], spec["containers"][1]["image"]) == ("init:0.1.0", "proxy:0.1.0")
    ingress = items["Ingress", "plinth-api"]["spec"]
    assert ingress["rules"][0]["host"] == "plinth.example.com"
    assert ingress["tls"] == [{"hosts": ["plinth.example.com"], "secretName": "plinth-tls"}]
    assert items["HTTPRoute", "plinth-api"]["spec"]["hostnames"] == ["plinth.example.com"]
    test = items["Pod", "plinth-test"]["spec"]["containers"][0]
    assert {"name": "plinth-token", "key": "TOKEN"} in [
        entry["valueFrom"]["secretKeyRef"] for entry in test["env"] if "valueFrom" in entry
    ]


_LOOKS = ['it\'s: a "b" #c', "two\nlines\n", "true", "1e3", "- a", "{a: b}", "it's a key: |"]


@pytest.mark.parametrize("text", _LOOKS)
def test_what_comes_of_a_template_stays_one_text(text: str, helm: str) -> None:
    filled = "{{ .Values.global.text }}"
    values: Object = {
        "global": {"text": text},
        "extraEnv": [{"name": "FILLED", "value": filled}, {"name": "NUMBER", "value": "1{{ .Release.Revision }}"}],
        "api": {
            "extraVolumes": [{"name": "c", "projected": {"sources": [{"configMap": {"name": "m", "note": filled}}]}}],
            "sidecars": [{"name": "proxy", "image": "proxy:1", "args": ["run", filled]}],
            "initContainers": [{"name": "first", "image": "first:1", "restartPolicy": "Always", "args": [filled]}],
        },
        "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": filled}}],
    }
    items = {(item["kind"], item["metadata"]["name"]): item for item in objects_of(template(values, helm=helm))}
    spec = items["Deployment", "plinth-api"]["spec"]["template"]["spec"]
    env = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
    assert (env["FILLED"], env["NUMBER"]) == (text, "11")
    assert spec["volumes"][1]["projected"]["sources"][0]["configMap"]["note"] == text
    assert (spec["containers"][1]["args"], spec["initContainers"][0]["args"]) == (["run", text], [text])
    assert items["ConfigMap", "x"]["data"] == {"a": text}


def test_annotations_keep_the_templates_of_others(helm: str) -> None:
    """As an injector of Vault's finds them in a pod."""
    annotation = {"vault.hashicorp.com/agent-inject-template-db": '{{ with secret "database/creds/db" }}{{ end }}'}
    items = objects_of(template({"api": {"podAnnotations": annotation}}, helm=helm))
    (api,) = [item for item in items if item["kind"] == "Deployment" and item["metadata"]["name"] == "plinth-api"]
    assert annotation.items() <= api["spec"]["template"]["metadata"]["annotations"].items()


def test_a_template_with_a_mistake_is_refused(helm: str) -> None:
    with pytest.raises(RenderError, match="nothing"):
        template({"extraEnv": [{"name": "REGION", "value": '{{ include "nothing" . }}'}]}, helm=helm)


def test_what_the_chart_makes_of_a_setting_has_its_templates_filled_in(helm: str) -> None:
    """KEDA asks for the queues that the workers serve, and a pooler is one whichever way it is said."""
    values: Object = {"config": {"JOBS_QUEUES": ["{{ .Release.Name }}-slow"]}, "worker": {"keda": {"enabled": True}}}
    (scaled,) = [item for item in objects_of(template(values, helm=helm)) if item["kind"] == "ScaledObject"]
    for trigger in scaled["spec"]["triggers"]:
        assert "ARRAY['plinth-slow']" in trigger["metadata"]["query"]
    pooler = {"global": {"pooler": "yes"}, "config": {"DB_TRANSACTION_POOLER": "{{ .Values.global.pooler }}"}}
    with pytest.raises(RenderError, match=r"config\.DB_TRANSACTION_POOLER is true"):
        template(VALUES | pooler, helm=helm)
