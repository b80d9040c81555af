"""The manifest for KubeRay has only fields that KubeRay's RayCluster has, and gives nobody a privilege.

The facts about the schema below were read in KubeRay's own definition (ray.io_rayclusters.yaml, version v1, commit
017710c). Give the path of another version of that file to compare with it: POWERFLOW_KUBERAY_CRD=FILE.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFEST = Path(__file__).parents[1] / "deploy" / "kuberay" / "powerflow.yaml"
#: A file with KubeRay's definition of a RayCluster.
DEFINITION = os.environ.get("POWERFLOW_KUBERAY_CRD", "")

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE])?")
Schema = dict[str, Any]


def _object(*required: str, **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITY: Schema = {"x-kubernetes-int-or-string": True, "pattern": "quantity"}
QUANTITIES: Schema = {"type": "object", "additionalProperties": QUANTITY}
SECCOMP = _object("type", type=TEXT)
FIELD, KEY = _object("fieldPath", fieldPath=TEXT), _object("key", key=TEXT, name=TEXT)
CONTAINER = _object(
    "name",
    name=TEXT,
    image=TEXT,
    command=_list(TEXT),
    args=_list(TEXT),
    env=_list(_object("name", name=TEXT, value=TEXT, valueFrom=_object(fieldRef=FIELD, secretKeyRef=KEY))),
    securityContext=_object(
        allowPrivilegeEscalation=BOOLEAN, privileged=BOOLEAN, capabilities=_object(add=_list(TEXT), drop=_list(TEXT))
    ),
    resources=_object(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=_list(_object("mountPath", "name", mountPath=TEXT, name=TEXT, readOnly=BOOLEAN)),
)
VOLUME = _object(
    "name",
    name=TEXT,
    emptyDir=_object(medium=TEXT, sizeLimit=QUANTITY),
    persistentVolumeClaim=_object("claimName", claimName=TEXT),
)
POD = _object(
    "containers",
    automountServiceAccountToken=BOOLEAN,
    shareProcessNamespace=BOOLEAN,
    securityContext=_object(
        runAsNonRoot=BOOLEAN, runAsUser=INTEGER, runAsGroup=INTEGER, fsGroup=INTEGER, seccompProfile=SECCOMP
    ),
    containers=_list(CONTAINER),
    volumes=_list(VOLUME),
)
TEMPLATE = _object(metadata=_object(labels=TEXTS, annotations=TEXTS), spec=POD)
WORKERS = _object(
    "groupName",
    "maxReplicas",
    "minReplicas",
    "template",
    groupName=TEXT,
    replicas=INTEGER,
    minReplicas=INTEGER,
    maxReplicas=INTEGER,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
#: The parts of the definition that the manifest uses.
KNOWN = _object(
    "spec",
    apiVersion=TEXT,
    kind=TEXT,
    metadata={"type": "object"},
    spec=_object(
        "headGroupSpec",
        rayVersion=TEXT,
        authOptions=_object(mode={"type": "string", "enum": ["disabled", "token"]}),
        headGroupSpec=_object("template", rayStartParams=TEXTS, template=TEMPLATE),
        workerGroupSpecs=_list(WORKERS),
    ),
)
_TYPES = {"string": str, "boolean": bool, "integer": int, "array": list, "object": dict}


def faults(value: Any, schema: Schema, at: str = "") -> Iterator[str]:
    """Yield what a Kubernetes API server would refuse if it refuses unknown fields (as ``kubectl apply`` does)."""
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or ("pattern" in schema and not _QUANTITY.fullmatch(str(value))):
            yield f"{at}: {value!r} is not a quantity"
        return
    kind = schema.get("type", "object")
    if not isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, bool)):
        yield f"{at}: {value!r} is not of type {kind}"
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from faults(each, schema["items"], f"{at}[{number}]")
    elif isinstance(value, dict):
        yield from _faults_of_object(value, schema, at)
    elif value not in schema.get("enum", [value]):
        yield f"{at}: {value!r} is none of {schema['enum']}"


def _faults_of_object(value: dict[str, Any], schema: Schema, at: str) -> Iterator[str]:
    fields, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", []):
        if name not in value:
            yield f"{at}.{name}: is missing"
    for name, each in value.items():
        if name in fields or others:
            yield from faults(each, fields.get(name, others), f"{at}.{name}")
        elif fields:  # an object without fields, such as metadata, is not described
            yield f"{at}.{name}: there is no such field"


@pytest.fixture
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    return loaded


def _pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_each_field_is_known(manifest: dict[str, Any]) -> None:
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    assert [*faults(manifest, KNOWN)] == []


@pytest.mark.skipif(not DEFINITION, reason="POWERFLOW_KUBERAY_CRD names no file with KubeRay's definition")
def test_each_field_is_in_the_definition(manifest: dict[str, Any]) -> None:
    definition = yaml.safe_load(Path(DEFINITION).read_text())
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    assert [*faults(manifest, version["schema"]["openAPIV3Schema"])] == []


def test_wrong_fields_are_found(manifest: dict[str, Any]) -> None:
    wrong = copy.deepcopy(manifest)
    head = wrong["spec"]["headGroupSpec"]["template"]["spec"]
    wrong["spec"]["authOptions"]["mode"] = "tokens"
    wrong["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    head["container"] = head.pop("containers")
    del wrong["spec"]["workerGroupSpecs"][0]["groupName"]
    head["volumes"][1]["emptyDir"]["sizeLimit"] = "much"
    assert [*faults(wrong, KNOWN)] == [
        ".spec.authOptions.mode: 'tokens' is none of ['disabled', 'token']",
        ".spec.headGroupSpec.rayStartParams.num-cpus: 0 is not of type string",
        ".spec.headGroupSpec.template.spec.containers: is missing",
        ".spec.headGroupSpec.template.spec.volumes[1].emptyDir.sizeLimit: 'much' is not a quantity",
        ".spec.headGroupSpec.template.spec.container: there is no such field",
        ".spec.workerGroupSpecs[0].groupName: is missing",
    ]


def test_nobody_is_root_or_gets_a_privilege(manifest: dict[str, Any]) -> None:
    for pod in _pods(manifest):
        user = pod["securityContext"]
        assert user["runAsNonRoot"]
        assert user["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            restricted = container["securityContext"]
            assert not restricted["allowPrivilegeEscalation"]
            assert restricted["capabilities"] == {"drop": ["ALL"]}
            assert not restricted.get("privileged")


def test_what_is_mounted_exists_and_what_needs_ray_has_its_token(manifest: dict[str, Any]) -> None:
    for pod in _pods(manifest):
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} <= volumes
    ray, controller = _pods(manifest)[0]["containers"]
    assert "env" not in ray  # KubeRay gives the token to the first container only
    given = {each["name"]: each for each in controller["env"]}
    assert given["RAY_AUTH_MODE"]["value"] == manifest["spec"]["authOptions"]["mode"] == "token"
    key = {"name": manifest["metadata"]["name"], "key": "auth_token"}
    assert given["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == key
