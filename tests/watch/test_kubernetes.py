"""Whose the pods are that hold GPUs: an API of Kubernetes over TLS, and dcgm-exporter's labels through Prometheus."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import yaml

from powerflow.errors import InputError
from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob
from powerflow.watch.sources.kubernetes import PodNames
from powerflow.watch.sources.kubernetes_access import find_api
from powerflow.watch.sources.prometheus import MetricsSource
from powerflow.watch.sources.prometheus_api import PrometheusApi
from powerflow.watch.watcher import Watcher
from tests.watch.exporter import PROMETHEUS, EmulatedGpu, Exporter, Work, newest_sample_s, running_prometheus
from tests.watch.site import GPU, TrueDraw

UID = "11111111-2222-3333-4444-555555555555"


def pod(namespace: str, name: str, **more: Any) -> dict[str, Any]:
    """A pod as Kubernetes 1.30 tells its metadata alone."""
    return {"metadata": {"name": name, "namespace": namespace, "uid": more.pop("uid", f"uid-{name}"), **more}}


def owned_by(kind: str, name: str) -> list[dict[str, Any]]:
    return [
        {"apiVersion": "x/v1", "kind": "Other", "name": "not-me", "uid": "o0"},
        {"apiVersion": "x/v1", "kind": kind, "name": name, "uid": "o1", "controller": True},
    ]


PODS = [
    pod(
        "ml",
        "bert-worker-0",
        labels={"owner": "ada", "kueue.x-k8s.io/queue-name": "research"},
        ownerReferences=owned_by("PyTorchJob", "bert"),
    ),
    pod("ml", "bert-worker-1", ownerReferences=owned_by("PyTorchJob", "bert")),
    pod("hub", "jupyter-ben", annotations={"hub.jupyter.org/username": "ben"}, uid=UID),
    pod(
        "web",
        "chat-5d8f7-x2x4z",
        labels={"pod-template-hash": "5d8f7"},
        ownerReferences=owned_by("ReplicaSet", "chat-5d8f7"),
    ),
    pod(
        "ml",
        "llm-workers-0-0-q1",
        labels={"jobset.sigs.k8s.io/jobset-name": "llm"},
        ownerReferences=owned_by("Job", "llm-workers-0"),
    ),
]


class Cluster:
    """An API of Kubernetes on the loopback, over TLS, that knows one token; two pods a page."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pods, self.asked = folder, [*PODS], 0
        self.status = 200
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                cluster.asked += 1
                status, document = cluster.answer(self.path, self.headers["authorization"], self.headers["accept"])
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"

    def answer(self, path: str, login: str | None, accept: str) -> tuple[int, dict[str, Any]]:
        if login != "Bearer secret":
            return 401, {"kind": "Status", "message": "Unauthorized", "code": 401}
        if self.status == 403:
            said = 'pods is forbidden: User "system:serviceaccount:a:b" cannot list resource "pods" in API group ""'
            return 403, {"kind": "Status", "message": said, "code": 403}
        parts = urlsplit(path)
        if parts.path != "/api/v1/pods" or not accept.startswith("application/json;as=PartialObjectMetadataList"):
            return 404, {"message": "not found"}
        begin = int(parse_qs(parts.query).get("continue", ["0"])[0])
        rest = {"continue": str(begin + 2)} if begin + 2 < len(self.pods) else {}
        return 200, {
            "kind": "PartialObjectMetadataList",
            "metadata": {"resourceVersion": "7", **rest},
            "items": self.pods[begin : begin + 2],
        }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=kube", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def cluster(certificate: Path) -> Iterator[Cluster]:
    cluster = Cluster(certificate)
    thread = threading.Thread(target=cluster.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield cluster
    cluster.server.shutdown()
    cluster.server.server_close()
    thread.join()


def names_in_a_pod(cluster: Cluster, folder: Path, token: str = "secret") -> PodNames:
    """What a pod of the cluster finds."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(f"{token}\n")
    (folder / "ca.crt").write_bytes((cluster.folder / "cert.pem").read_bytes())
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(cluster.port)}
    return PodNames(find_api(environment, folder))


def look(*keys: str) -> OwnersLook:
    jobs = {key: WatchedJob(key, key[4:16], 10.0, user="root") for key in keys}
    return OwnersLook(20.0, jobs, [Holding(key, GPU, 10.0, None) for key in keys])


def told(found: OwnersLook) -> dict[str, tuple[str, str, str, str, str]]:
    return {key: (job.id, job.name, job.user, job.account, job.partition) for key, job in found.jobs.items()}


def test_pods_have_the_names_of_their_jobs_users_and_queues(cluster: Cluster, tmp_path: Path) -> None:
    names = names_in_a_pod(cluster, tmp_path)
    found = names.named(
        look("pod:ml/bert-worker-0@1700", "pod:ml/bert-worker-1", f"pod:{UID}", "pod:web/chat-5d8f7-x2x4z", "slurm:7@1")
    )
    assert told(found) == {
        "pod:ml/bert-worker-0@1700": ("ml/bert-worker-0", "bert", "ada", "ml", "research"),
        "pod:ml/bert-worker-1": ("ml/bert-worker-1", "bert", "", "ml", ""),
        f"pod:{UID}": ("hub/jupyter-ben", "jupyter-ben", "ben", "hub", ""),
        "pod:web/chat-5d8f7-x2x4z": ("web/chat-5d8f7-x2x4z", "chat", "", "web", ""),
        "slurm:7@1": ("m:7@1", "", "root", "", ""),
    }
    assert (found.notes, len(found.holdings)) == ([], 5)
    assert names.named(look("pod:ml/llm-workers-0-0-q1")).jobs["pod:ml/llm-workers-0-0-q1"].name == "llm"


def test_it_is_asked_only_when_a_pod_is_new(cluster: Cluster, tmp_path: Path) -> None:
    names = names_in_a_pod(cluster, tmp_path)
    names.named(look("slurm:7@1"))
    assert cluster.asked == 0
    for _ in range(3):
        found = names.named(look("pod:ml/bert-worker-1", "pod:ml/gone"))
    assert cluster.asked == 3  # one list, of three pages
    assert told(found)["pod:ml/gone"] == ("ml/gone", "", "root", "", "")
    cluster.pods = []  # the pod has ended, and its labels are still read
    assert told(names.named(look("pod:ml/bert-worker-1", "pod:ml/new")))["pod:ml/bert-worker-1"][1] == "bert"


def test_an_api_that_refuses_is_said_and_known_names_stay(cluster: Cluster, tmp_path: Path) -> None:
    names = names_in_a_pod(cluster, tmp_path)
    names.named(look("pod:ml/bert-worker-0"))
    cluster.status = 403
    found = names.named(look("pod:ml/bert-worker-0", "pod:ml/bert-worker-1"))
    assert [job.name for job in found.jobs.values()] == ["bert", ""]
    (note,) = found.notes
    assert "refuses (pods is forbidden" in note
    assert "list pods of the whole cluster (ClusterRole)" in note
    (tmp_path / "token").write_text("other")  # it was renewed, wrongly
    (note,) = names.named(look("pod:ml/bert-worker-1")).notes
    assert "refuses (Unauthorized); check the token" in note


def test_a_certificate_that_is_not_trusted_and_a_server_that_is_away(cluster: Cluster, tmp_path: Path) -> None:
    config = kubeconfig(cluster, tmp_path / "config", cluster={"server": cluster.url}, user={"token": "secret"})
    (note,) = PodNames(find_api({"KUBECONFIG": str(config)})).named(look("pod:a/b")).notes
    assert "cannot be reached" in note
    assert "CERTIFICATE_VERIFY_FAILED" in note


def kubeconfig(web: Cluster, path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    document = {
        "current-context": "here",
        "contexts": [{"name": "other", "context": {}}, {"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": web.url, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_kubeconfig_with_a_token_or_a_certificate(cluster: Cluster, tmp_path: Path) -> None:
    authority = base64.b64encode((cluster.folder / "cert.pem").read_bytes()).decode()
    config = kubeconfig(cluster, tmp_path / "config", {"certificate-authority-data": authority}, {"token": "secret"})
    assert told(PodNames(find_api({"KUBECONFIG": str(config)})).named(look(f"pod:{UID}")))[f"pod:{UID}"][2] == "ben"
    (tmp_path / "t").write_text("secret")
    own = {
        "client-certificate": str(cluster.folder / "cert.pem"),
        "client-key-data": base64.b64encode((cluster.folder / "key.pem").read_bytes()).decode(),
        "tokenFile": "t",
    }
    config = kubeconfig(cluster, tmp_path / "config", {"certificate-authority": str(cluster.folder / "cert.pem")}, own)
    assert told(PodNames(find_api({"KUBECONFIG": str(config)})).named(look(f"pod:{UID}")))[f"pod:{UID}"][2] == "ben"


@pytest.mark.parametrize(
    ("cluster_part", "user", "said"),
    [
        ({}, {"exec": {"command": "aws"}}, "logs in with 'exec', which is not known here"),
        ({}, {"username": "a", "password": "b"}, "logs in with 'username'"),
        ({"insecure-skip-tls-verify": True}, {"token": "t"}, "trusts any certificate"),
        ({"certificate-authority-data": "%"}, {"token": "t"}, "is not base64"),
        ({"certificate-authority": "nowhere.pem"}, {"token": "t"}, "a certificate cannot be used"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_refused(
    cluster: Cluster, tmp_path: Path, cluster_part: dict[str, Any], user: dict[str, Any], said: str
) -> None:
    config = kubeconfig(cluster, tmp_path / "config", cluster_part, user)
    with pytest.raises(InputError, match=said):
        find_api({"KUBECONFIG": str(config)})


def test_no_kubernetes_and_a_file_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no Kubernetes"):
        find_api({"HOME": str(tmp_path)}, tmp_path)
    (tmp_path / "x").write_text("current-context: a\ncontexts: []\n")
    with pytest.raises(InputError, match="is no kubeconfig"):
        find_api({"KUBECONFIG": str(tmp_path / "x")})
    with pytest.raises(InputError, match="names several files"):
        find_api({"KUBECONFIG": "a:b"})


#: What GPUs draw: a pod of a PyTorchJob on each of two, after a notebook on the second, seconds and watts.
BERT_S, NOTEBOOK_S, LASTS_S = (2.0, 6.5), (0.6, 1.6), 8.0


@pytest.mark.skipif(PROMETHEUS is None, reason="there is no prometheus (Debian: prometheus)")
def test_joules_of_pods_from_a_cluster_whose_prometheus_scrapes_the_exporters_pods(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Prometheus names the exporter's pod in ``pod``, and the pod on the GPU in ``exported_pod``."""
    power = np.full(600, 60.0)
    power[int(10 * BERT_S[0]) : int(10 * BERT_S[1])] = 400.0
    gpus = []
    for number in range(2):
        labels = f'pod="bert-worker-{number}",namespace="ml",container="pytorch"'
        works = [Work(0, *BERT_S, labels)]
        if number:
            works.append(Work(0, *NOTEBOOK_S, 'pod="jupyter-ben",namespace="hub",container="notebook"'))
        gpus.append(EmulatedGpu(TrueDraw(power, [BERT_S]), works))
    exporters_pod = "pod: nvidia-dcgm-exporter-7xk2p, namespace: gpu-operator, container: nvidia-dcgm-exporter"
    with contextlib.ExitStack() as stack:
        exporter = stack.enter_context(Exporter(gpus, "n1"))
        (tmp_path / "prometheus").mkdir()
        running = running_prometheus(tmp_path / "prometheus", {"dcgm": [exporter.port]}, 500, exporters_pod)
        url = stack.enter_context(running)
        while not newest_sample_s(url, "DCGM_FI_DEV_POWER_USAGE"):
            time.sleep(0.1)
        start_s = exporter.start_s = time.time()
        while (end_s := newest_sample_s(url, "DCGM_FI_DEV_POWER_USAGE")) < start_s + LASTS_S:
            time.sleep(0.25)
        readings = MetricsSource(PrometheusApi(url)).read(start_s, end_s)
    assert readings.owners is not None
    owners = names_in_a_pod(cluster, tmp_path / "account").named(readings.owners)
    assert told(owners) == {
        "pod:ml/bert-worker-0": ("ml/bert-worker-0", "bert", "ada", "ml", "research"),
        "pod:ml/bert-worker-1": ("ml/bert-worker-1", "bert", "", "ml", ""),
        "pod:hub/jupyter-ben": ("hub/jupyter-ben", "jupyter-ben", "ben", "hub", ""),
    }
    watcher = Watcher()
    watcher.take(readings, owners)
    watcher.settle(end_s, all_of_it=True)
    truth = gpus[0].draw.energy_j(*BERT_S)
    for key in ("pod:ml/bert-worker-0", "pod:ml/bert-worker-1"):
        use = watcher.uses[key]
        assert use.energy_j == pytest.approx(truth, rel=0.03)
        assert use.low_j <= truth <= use.high_j
    assert {each.gpu for each in owners.holdings} == {GpuAddress("n1", 0), GpuAddress("n1", 1)}
