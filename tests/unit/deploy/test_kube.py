"""The manifests for KubeRay: their form, and what they promise of their pods."""

from __future__ import annotations

import shutil
import subprocess
from copy import deepcopy

import jsonschema
import pytest
import ray
import yaml
from support.kuberay import KUBE, SCHEMAS, cluster_of, manifests

FOLDERS = ("cluster", "job", "service")
SPOT_TAINTS = {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"}


def ray_resource(folder):
    (found,) = (item for item in manifests(KUBE / folder) if item["apiVersion"] == "ray.io/v1")
    return found


def groups(folder):
    """Pod templates by group, "head" among them."""
    spec = cluster_of(ray_resource(folder))
    workers = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **workers}


def pods():
    return [
        pytest.param(group, template["spec"], template["metadata"], id=f"{folder}-{group}")
        for folder in FOLDERS
        for group, template in groups(folder).items()
    ]


every_pod = pytest.mark.parametrize(("group", "pod", "metadata"), pods())


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_resource_has_only_fields_that_kuberay_knows(folder):
    resource = ray_resource(folder)
    jsonschema.validate(resource, SCHEMAS[resource["kind"]])


def test_the_schema_finds_a_slip_in_a_name():
    resource = deepcopy(ray_resource("job"))
    resource["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(resource, SCHEMAS["RayJob"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_all_of_kubernetes_itself_is_valid(folder):
    kubernetes = pytest.importorskip("kubernetes_validate", reason="comes with the extra `test`")
    others = [item for item in manifests(KUBE / folder) if item["apiVersion"] != "ray.io/v1"]
    templates = [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": group}, "template": template}
        for group, template in groups(folder).items()
    ]
    for item in others + templates:
        kubernetes.validate(item, kubernetes.latest_version(), strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kubectl_prints_what_the_reader_of_these_tests_reads(folder):
    done = subprocess.run(["kubectl", "kustomize", KUBE / folder], capture_output=True, text=True, check=True)
    by_name = lambda item: (item["kind"], item["metadata"]["name"])  # noqa: E731
    printed = sorted(yaml.safe_load_all(done.stdout), key=by_name)
    assert printed == sorted(manifests(KUBE / folder), key=by_name)


@pytest.mark.parametrize("folder", FOLDERS)
def test_ray_is_the_one_installed_and_wants_a_token(folder):
    spec = cluster_of(ray_resource(folder))
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}


@every_pod
def test_a_pod_has_no_privileges(group, pod, metadata):
    user = pod["securityContext"]
    assert user["runAsNonRoot"] is True
    assert user["runAsUser"] != 0
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        limits = container["securityContext"]
        assert limits["allowPrivilegeEscalation"] is False
        assert limits["capabilities"] == {"drop": ["ALL"]}
        assert limits["readOnlyRootFilesystem"] is True
        assert {"/tmp", "/home/ray"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    # A worker runs what it is sent: it gets no say in Kubernetes.
    assert pod["automountServiceAccountToken"] is (group == "head")


@every_pod
def test_a_pod_is_asked_whether_it_lives_and_gets_all_that_it_asks_for(group, pod, metadata):
    for container in pod["containers"]:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) is (group == "gpu")
        assert container["image"].startswith(f"registry.example/mmray-{'gpu' if group == 'gpu' else 'cpu'}:")
        assert container["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
        assert "httpGet" in container["readinessProbe"]


@every_pod
def test_workers_take_spot_nodes_and_the_head_does_not(group, pod, metadata):
    tolerated = {toleration["key"] for toleration in pod.get("tolerations", [])}
    wishes = pod["affinity"]["nodeAffinity"]
    if group == "head":
        assert not tolerated
        (terms,) = wishes["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert {term["operator"] for term in terms["matchExpressions"]} == {"DoesNotExist", "NotIn"}
    else:
        assert tolerated >= SPOT_TAINTS
        assert ("nvidia.com/gpu" in tolerated) is (group == "gpu")
        assert set(wishes) == {"preferredDuringSchedulingIgnoredDuringExecution"}


@every_pod
def test_the_network_policy_means_this_pod(group, pod, metadata):
    for folder in FOLDERS:
        for policy in (item for item in manifests(KUBE / folder) if item["kind"] == "NetworkPolicy"):
            wanted = policy["spec"]["podSelector"]["matchLabels"]
            assert wanted.items() <= metadata["labels"].items()
            for rule in policy["spec"]["ingress"]:
                assert rule["from"], "a rule without `from` lets everybody in"


def test_a_run_leaves_its_output_on_a_disk_that_outlives_it():
    config, claim = (
        next(item for item in manifests(KUBE / "job") if item["kind"] == kind)
        for kind in ("ConfigMap", "PersistentVolumeClaim")
    )
    assert yaml.safe_load(config["data"]["run.yaml"])["output"].startswith("/output/")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for template in groups("job").values():
        (volume,) = (item for item in template["spec"]["volumes"] if item["name"] == "output")
        assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
        (container,) = template["spec"]["containers"]
        assert {"name": "output", "mountPath": "/output"} in container["volumeMounts"]


def test_the_run_of_the_job_is_a_config_that_mmray_takes(tmp_path):
    from mmray.config import load_config

    config = next(item for item in manifests(KUBE / "job") if item["kind"] == "ConfigMap")
    (tmp_path / "run.yaml").write_text(config["data"]["run.yaml"])
    settings = load_config(tmp_path / "run.yaml", {}, ())
    gpus = next(
        group for group in cluster_of(ray_resource("job"))["workerGroupSpecs"] if group["groupName"] == "gpu"
    )
    assert settings.actors == gpus["maxReplicas"]
    resource = ray_resource("job")
    grace_s = 30  # of the pod whose driver is still there when the next try begins
    assert resource["spec"]["backoffLimit"] > 0
    assert settings.lease_wait_s > grace_s
    (mount,) = (
        mount
        for mount in groups("job")["head"]["spec"]["containers"][0]["volumeMounts"]
        if mount["name"] == "config"
    )
    assert resource["spec"]["entrypoint"] == f"mmray run {mount['mountPath']}/run.yaml"


def test_the_service_is_a_config_that_serve_and_mmray_take():
    from ray.serve.schema import ServeDeploySchema

    from mmray.serve.settings import ServeSettings

    config = ServeDeploySchema.model_validate(
        yaml.safe_load(ray_resource("service")["spec"]["serveConfigV2"])
    )
    (application,) = config.applications
    assert application.import_path == "mmray.serve.app:build"
    ServeSettings.model_validate(application.args)
    ports = {
        port["name"]: port["containerPort"]
        for template in groups("service").values()
        for container in template["spec"]["containers"]
        for port in container["ports"]
    }
    assert ports["serve"] == config.http_options.port


def test_who_asks_the_service_needs_a_token_that_is_in_no_file():
    for template in groups("service").values():
        for container in template["spec"]["containers"]:
            (token,) = (variable for variable in container["env"] if variable["name"] == "MMRAY_TOKEN")
            assert token["valueFrom"] == {"secretKeyRef": {"name": "mmray-token", "key": "token"}}
    assert not [item for item in manifests(KUBE / "service") if item["kind"] == "Secret"]
