"""What the manifests of deploy/kube are held to: a reader of Kustomize's folders, and KubeRay's fields.

The schema is ours, written from KubeRay's API reference (ray.io/v1) and, for `authOptions`, from Ray's guide
"Configure Ray clusters to use token authentication". It has the fields that the manifests may use and refuses
all others, so that a slip in a name shows. It is not the operator's own definition, which only
`kubectl apply --dry-run=server` asks. What is Kubernetes' own, pods among it, kubernetes-validate checks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from support.scripts import ROOT

KUBE = ROOT / "deploy" / "kube"


def manifests(folder: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl kustomize FOLDER` prints, in the order of its resources.

    Reads `resources` and `images`, which is all that these folders use, and refuses anything else.
    """
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unread = set(settings) - {"apiVersion", "kind", "resources", "images"}
    assert not unread, f"{folder}: this reader knows no {unread}"
    found: list[dict[str, Any]] = []
    for resource in settings["resources"]:
        place = folder / resource
        found += manifests(place) if place.is_dir() else yaml.safe_load_all(place.read_text())
    names = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in settings.get("images", [])}
    for container in containers(found):
        container["image"] = names.get(container["image"], container["image"])
    return found


def containers(value: object) -> list[dict[str, Any]]:
    """All containers in it, at whatever depth; one that an anchor repeats is copied first."""
    if isinstance(value, list):
        return [container for item in value for container in containers(item)]
    if not isinstance(value, dict):
        return []
    own = [dict(container) for container in value.get("containers", [])]
    if own:
        value["containers"] = own
    return own + [
        container for key, item in value.items() if key != "containers" for container in containers(item)
    ]


def _object(required: tuple[str, ...] = (), **properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
OTHERS = {"type": "object"}  # Kubernetes' own

_HEAD = _object(("rayStartParams", "template"), rayStartParams=TEXTS, serviceType=TEXT, template=OTHERS)
_WORKERS = _object(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    numOfHosts=COUNT,
    rayStartParams=TEXTS,
    template=OTHERS,
)
_AUTOSCALER = _object(
    version={"enum": ["v1", "v2"]},
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    idleTimeoutSeconds=COUNT,
    resources=OTHERS,
    securityContext=OTHERS,
    image=TEXT,
    env={"type": "array"},
)
CLUSTER_SPEC = _object(
    ("headGroupSpec", "rayVersion"),
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    authOptions=_object(("mode",), mode={"enum": ["token", "disabled"]}),
    autoscalerOptions=_AUTOSCALER,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
    suspend=FLAG,
)
_JOB_SPEC = _object(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    runtimeEnvYAML=TEXT,
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    suspend=FLAG,
    rayClusterSpec=CLUSTER_SPEC,
)
_SERVICE_SPEC = _object(
    ("serveConfigV2", "rayClusterConfig"),
    serveConfigV2=TEXT,
    upgradeStrategy=_object(type={"enum": ["NewCluster", "None"]}),
    excludeHeadPodFromServeSvc=FLAG,
    rayClusterConfig=CLUSTER_SPEC,
)


def _resource(kind: str, spec: dict[str, object]) -> dict[str, object]:
    return _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=OTHERS,
        spec=spec,
    )


SCHEMAS = {
    kind: _resource(kind, spec)
    for kind, spec in (("RayCluster", CLUSTER_SPEC), ("RayJob", _JOB_SPEC), ("RayService", _SERVICE_SPEC))
}


def cluster_of(resource: dict[str, Any]) -> dict[str, Any]:
    """The spec of the cluster in a RayCluster, RayJob or RayService."""
    spec = resource["spec"]
    return dict(spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec)
