"""Ask Kubernetes whose the pods are that hold GPUs.

Which pod holds which GPU is told by the labels of an exporter (name and namespace) or by the control groups of
processes (UID). The API tells the rest: the pod's name, the job that it belongs to, its user and its queue. Only
metadata of pods is asked for, since their specifications may hold secrets; and only when a pod is seen that is not
known yet. Kubernetes itself knows no users: labels and annotations that are usual for them are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from powerflow.errors import InputError
from powerflow.watch.owners import OwnersLook, WatchedJob
from powerflow.watch.sources.kubernetes_access import ApiAccess

#: Time limit of one request, seconds.
TIMEOUT_S = 20.0
#: Pods in one answer, and answers to one question, at most.
_PAGE, _MOST_PAGES = 500, 200
_ACCEPT = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
#: Labels or annotations that name the user, and the queue; the first that is there counts. JupyterHub, usual names,
#: Kueue and Volcano.
_USER = ("hub.jupyter.org/username", "user", "username", "owner")
_QUEUE = ("kueue.x-k8s.io/queue-name", "scheduling.volcano.sh/queue-name")
#: Labels that name a whole of several jobs.
_WHOLE = ("jobset.sigs.k8s.io/jobset-name",)
_POD = "pod:"


class Pod(NamedTuple):
    """What Kubernetes tells of a pod.

    Attributes:
        uid: Its UID.
        id: Namespace and name: ``ml/train-0``.
        namespace: Its namespace.
        owner: Name of the job, PyTorchJob, deployment … that it belongs to; its own name if it belongs to none.
        user, queue: Its user, and the queue it came from; "" if no label tells.
    """

    uid: str
    id: str
    namespace: str
    owner: str
    user: str
    queue: str


class PodNames:
    """Tells whose the pods of a look are.

    Attributes:
        name: The API, for the user.
    """

    def __init__(self, access: ApiAccess) -> None:
        self._access = access
        self.name = f"Kubernetes at {access.url}"
        #: By UID, and by namespace and name; None: Kubernetes does not know it any more.
        self._pods: dict[str, Pod | None] = {}

    def named(self, look: OwnersLook) -> OwnersLook:
        """Return a look whose pods have names, users and queues; one that Kubernetes no longer knows stays as it is.

        Where the API does not answer, the names that are known are used, and a note says so.
        """
        pods = {key: _identity(key) for key in look.jobs if key.startswith(_POD)}
        self._pods = {each: self._pods[each] for each in pods.values() if each in self._pods}
        notes = list(look.notes)
        if pods.values() - self._pods.keys():
            try:
                told = {name: pod for pod in self._list() for name in (pod.uid, pod.id)}
                self._pods = {each: told.get(each, self._pods.get(each)) for each in pods.values()}
            except InputError as error:
                notes.append(f"{error}; pods have no names of their jobs meanwhile")
        jobs = {key: _named(job, self._pods.get(pods.get(key, ""))) for key, job in look.jobs.items()}
        return replace(look, jobs=jobs, notes=notes)

    def _list(self) -> Iterator[Pod]:
        """Yield all pods of the cluster.

        Raises:
            InputError: The API cannot be reached, refuses, or answers something else.
        """
        import httpx

        more = ""
        headers = {"accept": _ACCEPT, **self._access.headers()}
        try:
            with httpx.Client(verify=self._access.trust, timeout=TIMEOUT_S) as client:
                for _ in range(_MOST_PAGES):
                    parameters = {"limit": str(_PAGE)} | ({"continue": more} if more else {})
                    answer = client.get(f"{self._access.url}/api/v1/pods", params=parameters, headers=headers)
                    if answer.status_code != 200:
                        raise self._refused(answer.status_code, answer.text)
                    document = json.loads(answer.content)
                    yield from (_pod(each["metadata"]) for each in document["items"])
                    more = str(document["metadata"].get("continue") or "")
                    if not more:
                        return
        except InputError:
            raise
        except httpx.HTTPError as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"cannot be reached ({why[:200]})", where=self.name, exit_code=5) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError("its answer is no list of pods", where=self.name, exit_code=5) from None

    def _refused(self, status: int, text: str) -> InputError:
        try:
            said = " ".join(str(json.loads(text)["message"]).split())[:200]
        except (ValueError, KeyError, TypeError, RecursionError):
            said = f"HTTP status {status}"
        fix = {401: "check the token", 403: "let it list pods of the whole cluster (ClusterRole)"}.get(status, "")
        return InputError(f"refuses ({said})", where=self.name, fix=fix, exit_code=5)


def _identity(key: str) -> str:
    """Return the UID, or namespace and name, in the key of a job."""
    return key.removeprefix(_POD).partition("@")[0]


def _pod(metadata: Mapping[str, Any]) -> Pod:
    """Read the metadata of a pod."""
    labels = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
    name, namespace = str(metadata["name"]), str(metadata["namespace"])
    owner = _first(labels, _WHOLE)
    for each in metadata.get("ownerReferences") or ():
        if each.get("controller") and not owner:
            owner = str(each["name"])
            if each.get("kind") == "ReplicaSet":  # which a deployment has made, with this at the end of its name
                owner = owner.removesuffix(f"-{labels.get('pod-template-hash', '')}")
    uid = str(metadata["uid"])
    return Pod(uid, f"{namespace}/{name}", namespace, owner or name, _first(labels, _USER), _first(labels, _QUEUE))


def _first(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((str(labels[name]) for name in names if labels.get(name)), "")


def _named(job: WatchedJob, pod: Pod | None) -> WatchedJob:
    if pod is None:
        return job
    return replace(
        job, id=pod.id, name=pod.owner, user=pod.user, account=pod.namespace, partition=pod.queue or job.partition
    )
