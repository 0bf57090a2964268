"""The same values give the same objects, on any machine and at any time."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.chart.cases import CASES, PRODUCTION, release
from tests.chart.schemas import problems
from tests.chart.tools import CHART, KEY, NEWEST, OLDEST, Object, merged, objects_of, run, template, tool

SNAPSHOT = Path(__file__).with_name("default.yaml")


@pytest.mark.parametrize("case", CASES)
def test_helm_3_and_helm_4_render_alike(case: str) -> None:
    ours, theirs = (_by_name(template(CASES[case], helm=helm)) for helm in ("HELM", "HELM4"))
    assert ours == theirs


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_versions_get_the_same(case: str) -> None:
    assert template(CASES[case], kubernetes=OLDEST) == template(CASES[case], kubernetes=NEWEST)


@pytest.mark.parametrize("case", CASES)
def test_no_render_makes_anything_up(case: str) -> None:
    """What a render makes, the next one makes anew: an upgrade would change it, and a GitOps tool at every look."""
    first = template(CASES[case])
    assert template(CASES[case], anew=True) == first
    assert template(CASES[case], options=("--is-upgrade",)) == first


def test_templates_use_nothing_that_differs_from_render_to_render() -> None:
    for path in (CHART / "templates").rglob("*.*"):
        text = path.read_text().replace("`lookup`", "")
        for function in ("lookup", "randAlpha", "randBytes", "genCA", "genSelf", "genPrivateKey", "uuidv4", "now"):
            assert f"{function} " not in text.replace("now()", "").replace("no render", ""), (
                f"{function} in {path.name}"
            )


class TestMigrationJob:
    def name(self, values: Object) -> str:
        (job,) = [item for item in objects_of(template(values)) if item["kind"] == "Job"]
        return str(job["metadata"]["name"])

    def test_a_new_image_makes_a_new_job(self) -> None:
        assert self.name({"image": {"tag": "1.2.3"}}) != self.name({})

    def test_a_changed_setting_makes_a_new_job(self) -> None:
        assert self.name({"config": {"LOG_LEVEL": "DEBUG"}}) != self.name({})

    def test_a_changed_limit_makes_a_new_job(self) -> None:
        assert self.name({"migrate": {"backoffLimit": 1}}) != self.name({})

    def test_another_mode_makes_a_new_job(self) -> None:
        """Helm makes hooks without the marks of its release, and takes over no object that lacks them."""
        account = {"create": False, "name": "migrations"}
        names = [
            self.name(merged(PRODUCTION, {"migrate": {"mode": mode, "serviceAccount": account}}))
            for mode in ("job", "hook")
        ]
        assert names[0] != names[1]

    def test_what_concerns_others_leaves_it_alone(self) -> None:
        others = {"api": {"replicas": 3}, "worker": {"config": {"JOBS_CONCURRENCY": 5}}, "ingress": {"path": "/shop"}}
        assert self.name(others) == self.name({})


class TestRollOuts:
    def pods(self, values: Object) -> dict[str, Object]:
        items = objects_of(template(values))
        return {item["metadata"]["name"]: item["spec"]["template"] for item in items if item["kind"] == "Deployment"}

    def test_a_changed_setting_rolls_out_whom_it_concerns(self) -> None:
        before, after = self.pods({}), self.pods({"worker": {"config": {"JOBS_CONCURRENCY": 5}}})
        assert before["plinth-api"] == after["plinth-api"]
        assert before["plinth-worker"] != after["plinth-worker"]

    def test_another_key_rolls_out_all_that_have_read_it_and_the_servers(self) -> None:
        first, second = (
            {
                (item["kind"], item["metadata"]["name"]): item["spec"]["template"]
                for item in objects_of(template({"secretKey": {"value": key}}))
                if item["kind"] in ("Deployment", "StatefulSet")
            }
            for key in (KEY, KEY.upper())
        )
        assert first.keys() == second.keys()
        assert [name for name in first if first[name] == second[name]] == []

    def test_a_changed_number_of_replicas_rolls_nothing_out(self) -> None:
        assert self.pods({}) == self.pods({"api": {"replicas": 3}})


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.monitoring:4318", 4318),
        ("http://collector.example.com", 80),
        ("https://collector.example.com/otlp", 443),
        ("https://[2001:db8::1]:4318", 4318),
    ],
)
def test_the_policy_opens_the_port_of_the_collector(endpoint: str, port: int) -> None:
    items = objects_of(template({"tracing": {"endpoint": endpoint}}))
    (policy,) = [item for item in items if item["metadata"]["name"] == "plinth-clients"]
    assert {"ports": [{"port": port, "protocol": "TCP"}]} in policy["spec"]["egress"]


@pytest.mark.parametrize(
    ("config", "ports"),
    [
        ({}, [443]),
        ({"OIDC_ISSUER": "https://id.example.com:8443/realms/shop"}, [8443]),
        ({"OIDC_ISSUER": "https://[2001:db8::1]/realms/1:2/"}, [443]),
        ({"OIDC_ISSUER": "https://[2001:db8::1]:8443"}, [8443]),
        ({"OIDC_ISSUER": "http://keycloak.auth", "OIDC_JWKS_URL": "http://keycloak.auth:8080/keys"}, [80, 8080]),
        ({"OIDC_ISSUER": ["https://a.example:1443", "https://b.example/", "https://c.example:1443"]}, [1443, 443]),
        ({"OIDC_ISSUER": "https://a.example:1443, https://b.example"}, [1443, 443]),
        (
            {"AUTH_PROVIDER": "supabase", "OIDC_ISSUER": None, "SUPABASE_URL": "https://{{ .Release.Name }}:54321"},
            [54321],
        ),
        ({"AUTH_PROVIDER": "supabase", "OIDC_ISSUER": None}, [443]),
    ],
)
def test_the_policy_opens_the_ports_of_the_identity_provider(config: Object, ports: list[int]) -> None:
    values = merged(PRODUCTION, {"config": config, "externalDatabase": {"port": 6432}})
    for own in ({}, {"networkPolicy": {"identityProviderPort": 9443}}):
        items = objects_of(template(merged(values, own)))
        (policy,) = [item for item in items if item["metadata"]["name"] == "plinth-clients"]
        opened = [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["egress"]]
        assert ([9443] if own else ports) in opened


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class TestRedisPort:
    """Upstash is reached by the names that its console hands out."""

    def ports(self, values: Object) -> list[int]:
        items = objects_of(
            template(merged(PRODUCTION, {"externalRedis": {"existingSecret": "", "port": 6399}} | values))
        )
        (policy,) = [item for item in items if item["metadata"]["name"] == "plinth-clients"]
        return [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]

    @pytest.mark.parametrize("name", ["UPSTASH_REDIS_URL", "UPSTASH_REDIS_REST_URL"])
    @pytest.mark.parametrize("where", ["config", "api", "variable", "worker's variable"])
    def test_opened(self, name: str, where: str) -> None:
        url = "https://example-12345.upstash.io"
        values: dict[str, Object] = {
            "config": {"config": merged(PRODUCTION["config"], {name: url})},
            "api": {"api": {"config": {name: url}}},
            "variable": {"extraEnv": [{"name": name, "value": url}]},
            "worker's variable": {"worker": {"extraEnv": [{"name": name, "valueFrom": {"secretKeyRef": {}}}]}},
        }
        assert 6399 in self.ports(values[where])

    def test_closed_without_a_redis(self) -> None:
        assert 6399 not in self.ports({})


class TestNames:
    @pytest.mark.parametrize(
        ("release_name", "values", "expected"),
        [
            ("plinth", {}, "plinth-api"),
            ("shop", {}, "shop-plinth-api"),
            ("shop", {"nameOverride": "store"}, "shop-store-api"),
            ("shop", {"fullnameOverride": "store"}, "store-api"),
            ("a" * 53, {}, f"{'a' * 31}-{_hash('a' * 53 + '-plinth')}-api"),
            ("shop.eu", {}, f"shop-eu-plinth-{_hash('shop.eu-plinth')}-api"),
            ("2024", {}, f"plinth-2024-plinth-{_hash('2024-plinth')}-api"),
            ("shop", {"fullnameOverride": "2024"}, f"plinth-2024-{_hash('2024')}-api"),
        ],
    )
    def test_of_a_release(self, release_name: str, values: Object, expected: str) -> None:
        items = objects_of(template(values, name=release_name))
        names = [item["metadata"]["name"] for item in items]
        assert expected in names
        assert all(len(name) <= 63 for name in names)

    def test_longest_group_of_workers(self) -> None:
        """Two of them that differ at their end alone have Services of their own."""
        values = {
            "fullnameOverride": "a" * 40,
            "workers": {"b" * 14 + "c": {}, "b" * 14 + "d": {}},
            "metrics": {"serviceMonitor": {"enabled": True}},
        }
        names = [(item["kind"], item["metadata"]["name"]) for item in objects_of(template(values))]
        assert len(names) == len(set(names))
        assert all(len(name) <= 63 for _, name in names)

    @pytest.mark.parametrize(
        ("version", "expected"),
        [
            ("1.2.3+build.7", "1.2.3_build.7"),
            (f"0.0.0-{'a' * 49}-{'b' * 20}", f"0.0.0-{'a' * 49}"),
        ],
    )
    def test_version_is_fit_for_a_label(self, tmp_path: Path, version: str, expected: str) -> None:
        """Of a build, as `helm package --version --app-version` writes it."""
        chart = tmp_path / "plinth"
        shutil.copytree(CHART, chart)
        meta = yaml.safe_load((chart / "Chart.yaml").read_text()) | {"version": version, "appVersion": version}
        (chart / "Chart.yaml").write_text(yaml.safe_dump(meta))
        for item in objects_of(template({"image": {"tag": "1"}}, chart=chart)):
            labels = item["metadata"]["labels"]
            assert problems(NEWEST, item) == []
            assert labels["helm.sh/chart"] == f"plinth-{expected}"
            assert labels["app.kubernetes.io/version"].startswith(expected)
            assert all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", text) for text in labels.values())

    @pytest.mark.parametrize(
        "names",
        [
            ("plinth", "other"),
            ("a" * 52 + "b", "a" * 52 + "c"),
            ("shop.eu", "shop-eu"),
            ("2024", "plinth-2024"),
        ],
        ids=["short", "long", "dotted", "a number"],
    )
    def test_two_releases_of_one_namespace_share_nothing(self, names: tuple[str, str]) -> None:
        first, second = (
            {(item["kind"], item["metadata"]["name"]) for item in objects_of(template({}, name=name))} for name in names
        )
        assert not first & second

    @pytest.mark.parametrize("name", ["a" * 53, "shop.eu", "2024", "a" * 30 + "-" * 10 + "b"])
    def test_services_have_names_that_kubernetes_takes(self, name: str) -> None:
        services = [
            item["metadata"]["name"] for item in objects_of(template({}, name=name)) if item["kind"] == "Service"
        ]
        assert [found for found in services if not re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", found)] == []


class TestNotes:
    def notes(self, tmp_path: Path, values: Object) -> str:
        """`helm template` leaves the notes out, so here they are the text of an object."""
        chart = tmp_path / "plinth"
        run("cp", "-r", str(CHART), str(chart))
        (chart / "templates" / "NOTES.txt").rename(chart / "files" / "notes")
        (chart / "templates" / "notes.yaml").write_text(
            'kind: Notes\ntext: {{ tpl (.Files.Get "files/notes") . | toJson }}'
        )
        manifest = template(values, chart=chart, options=("--show-only=templates/notes.yaml",))
        return str(yaml.safe_load(manifest)["text"])

    def test_a_try_out_is_called_one_in_capitals(self, tmp_path: Path) -> None:
        notes = self.notes(tmp_path, {})
        assert "THIS IS A TRY-OUT, NOT A DEPLOYMENT" in notes
        assert "TOKENS OF ANY USER CAN BE SIGNED WITH ITS KEY" in notes
        assert "NO BACKUP" in notes
        assert "WELL-KNOWN" not in notes
        assert "NO NETWORK POLICY" not in notes

    def test_they_say_what_reaches_a_try_out_and_how_its_key_is_kept(self, tmp_path: Path) -> None:
        notes = self.notes(tmp_path, {})
        assert "Pods of shop reach its API, and no others" in notes
        assert "networkPolicy.apiFrom" in notes
        assert "--reset-then-reuse-values" in notes
        assert KEY not in notes

    def test_they_tell_the_next_commands(self, tmp_path: Path) -> None:
        notes = self.notes(tmp_path, {"fullnameOverride": "store", "networkPolicy": {"enabled": False}})
        assert "helm -n shop test plinth" in notes
        assert "kubectl -n shop port-forward svc/store-api 8000:80" in notes
        assert "exec deploy/store-api -c api -- plinth token --sub me" in notes
        assert "http://localhost:8000/api/v1/me" in notes
        assert "NO NETWORK POLICY" in notes

    def test_they_say_whether_prometheus_knows_of_the_pods(self, tmp_path: Path) -> None:
        notes = self.notes(tmp_path, {})
        assert "port-forward deploy/plinth-api 9090\n  curl http://localhost:9090/metrics" in notes
        assert "Prometheus does not scrape them yet" in notes

    def test_they_fill_in_the_hosts(self, tmp_path: Path) -> None:
        values = {
            "ingress": {"enabled": True, "hosts": ["{{ .Release.Name }}.example.com"]},
            "networkPolicy": {"apiFrom": [{"podSelector": {}}]},
        }
        assert "http://plinth.example.com" in self.notes(tmp_path, values)

    def test_they_do_not_if_it_does(self, tmp_path: Path) -> None:
        assert "Prometheus does not scrape" not in self.notes(tmp_path, CASES["full"])

    def test_they_name_what_an_uninstall_leaves(self, tmp_path: Path) -> None:
        (database,) = [
            item for item in release("default").all("StatefulSet") if "postgresql" in item["metadata"]["name"]
        ]
        (claim,) = database["spec"]["volumeClaimTemplates"]
        volume = f"{claim['metadata']['name']}-{database['metadata']['name']}-0"
        assert f"delete pvc {volume}" in self.notes(tmp_path, {})

    def test_a_deployment_is_not_shouted_at(self, tmp_path: Path) -> None:
        notes = self.notes(tmp_path, CASES["production"])
        assert "environment production" in notes
        for word in ("TRY-OUT", "WELL-KNOWN", "delete pvc", "plinth token"):
            assert word not in notes

    def test_with_a_key_in_a_secret_the_password_is_said_to_be_known(self, tmp_path: Path) -> None:
        notes = self.notes(tmp_path, CASES["full"])
        assert "ITS SERVERS HAVE A WELL-KNOWN PASSWORD" in notes
        assert "reach its API, and no others" not in notes
        assert "--reset-then-reuse-values" not in notes
        assert "https://api.example.com" in notes


def test_the_default_manifest_is_the_reviewed_one() -> None:
    """Kept so that a change of the chart shows what it changes in a cluster. UPDATE=1 writes it anew; then read it."""
    manifest = template({})
    if os.environ.get("UPDATE"):
        SNAPSHOT.write_text(manifest)
    assert manifest == SNAPSHOT.read_text(), "UPDATE=1 make chart-test writes tests/chart/default.yaml anew; review it"


def test_the_readme_is_what_helm_docs_makes() -> None:
    command = (
        tool("HELM_DOCS"),
        "--dry-run",
        "--sort-values-order=file",
        "--log-level=warn",
        "--chart-search-root=charts",
    )
    assert run(*command).stdout.strip() == (CHART / "README.md").read_text().strip(), "run make chart-docs"


def _by_name(manifest: str) -> dict[tuple[str, str], Object]:
    return {(item["kind"], item["metadata"]["name"]): item for item in objects_of(manifest)}
