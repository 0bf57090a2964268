"""HorizontalPodAutoscalers, and KEDA's objects."""

from tests.chart.cases import Release, main_container


def autoscalers_scale_their_deployment_on_cpu(release: Release) -> None:
    for item in release.all("HorizontalPodAutoscaler"):
        component = item["metadata"]["labels"]["app.kubernetes.io/component"]
        values = release.values[component]["autoscaling"]
        behavior = {"behavior": values["behavior"]} if values["behavior"] else {}
        target = {"type": "Utilization", "averageUtilization": values["targetCPUUtilizationPercentage"]}
        # Of the pod there is no figure where a sidecar requests no CPU.
        cpu = {"name": "cpu", "container": main_container(component), "target": target}
        assert item["spec"] == behavior | {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": release.get("Deployment", component)["metadata"]["name"],
            },
            "minReplicas": values["minReplicas"],
            "maxReplicas": values["maxReplicas"],
            "metrics": [{"type": "ContainerResource", "containerResource": cpu}],
        }


def keda_asks_the_database_how_much_there_is_to_do(release: Release) -> None:
    for item in release.all("ScaledObject"):
        component = item["metadata"]["labels"]["app.kubernetes.io/component"]
        values = release.values[component]["keda"]
        spec = dict(item["spec"])
        triggers = spec.pop("triggers")
        behavior = values["behavior"]
        advanced = {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}}} if behavior else {}
        assert spec == advanced | {
            "scaleTargetRef": {"name": release.get("Deployment", component)["metadata"]["name"]},
            "minReplicaCount": values["minReplicas"],
            "maxReplicaCount": values["maxReplicas"],
            "pollingInterval": values["pollingInterval"],
            "fallback": {
                "failureThreshold": 3,
                "replicas": values["minReplicas"],
                "behavior": "currentReplicasIfHigher",
            },
        }
        targets = {}
        for trigger in triggers:
            assert trigger["type"] == "postgresql"
            assert trigger["metricType"] == "AverageValue", "the fallback knows no other"
            assert trigger["authenticationRef"] == {"name": f"{release.name}-{component}"}
            assert trigger["metadata"].keys() == {"query", "targetQueryValue"}
            assert "FROM job" in trigger["metadata"]["query"]
            targets[trigger["name"]] = trigger["metadata"]["targetQueryValue"]
        assert targets == {
            "due-and-running": str(values["jobsPerReplica"]),
            "oldest-due-age": str(values["secondsPerReplica"]),
        }


def keda_reads_the_address_where_the_pods_do(release: Release) -> None:
    database, pooled = release.database_secret
    key = release.values["worker"]["keda"]["connectionKey"] or release.direct or pooled
    for item in release.all("TriggerAuthentication"):
        assert item["spec"] == {"secretTargetRef": [{"parameter": "connection", "name": database, "key": key}]}
