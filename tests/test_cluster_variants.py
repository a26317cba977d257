"""The variants of cluster.yaml differ from it where they must, and every one of them can hold a trial of the profile
that README names for a cluster.

KubeRay publishes its schema as a custom resource definition of 1.4 MB, which is not kept here. What the manifest uses
of it is written down below, by hand, with nothing else allowed; the manifest has passed the whole one, made as strict
(ray.io_rayjobs.yaml of KubeRay's commit feeaf72, 2026-08-19).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml

from sweeps.node_types import offer_of, price_of, shortfall
from sweeps.space_file import load_space
from tests.test_cluster_yaml import ROOT, SECRETS, TEXT, locked_version, ray_objections

AWS = yaml.safe_load(TEXT)
ON_PREMISE_FILE, KUBERAY_FILE = ROOT / "docs/clusters/on-premise.yaml", ROOT / "docs/clusters/kuberay.yaml"
ON_PREMISE, KUBERAY = (yaml.safe_load(file.read_text()) for file in (ON_PREMISE_FILE, KUBERAY_FILE))
TRIAL = load_space(ROOT / "search_spaces/repa.yaml", "cluster").resources
Config = dict[str, Any]


def test_readme_names_that_profile() -> None:
    assert "search_spaces/repa.yaml --profile cluster" in (ROOT / "README.md").read_text()


def node_types_of(manifest: Config) -> Config:
    (head,) = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (told,) = [entry["value"] for entry in head["env"] if entry["name"] == "SWEEP_NODE_TYPES"]
    return json.loads(told)


@pytest.mark.parametrize("config", [AWS, {"available_node_types": node_types_of(KUBERAY)}], ids=["aws", "kuberay"])
def test_node_types_hold_a_trial(config: Config) -> None:
    assert shortfall(offer_of([], config), TRIAL) is None
    smaller = copy.deepcopy(config)
    smaller["available_node_types"]["gpu8"]["resources"]["GPU"] = 4
    assert "a trial needs 8 GPUs on one node; the cluster's node types offer at most 4" in str(
        shortfall(offer_of([], smaller), TRIAL)
    )


@pytest.mark.parametrize("config", [AWS, {"available_node_types": node_types_of(KUBERAY)}], ids=["aws", "kuberay"])
def test_every_node_type_that_costs_has_a_price(config: Config) -> None:
    assert all(price_of(given.get("labels")) for given in config["available_node_types"].values())


@pytest.mark.parametrize(("gpus", "held"), [(8, True), (4, False)])
def test_machines_of_ones_own_hold_what_they_turn_out_to_have(gpus: int, held: bool) -> None:
    assert shortfall(offer_of([], prepared(ON_PREMISE)), TRIAL) is None, "nobody knows before they are up"
    nodes = [{"Alive": True, "Resources": {"CPU": 64, "GPU": gpus}, "Labels": {}} for _ in range(3)]
    assert (shortfall(offer_of(nodes, {}), TRIAL) is None) == held


def prepared(config: Config) -> Config:
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(copy.deepcopy(config))


def test_on_premise_passes_rays_own_validation() -> None:
    assert ray_objections(ON_PREMISE) == []
    assert ray_objections({**ON_PREMISE, "max_wokers": 3}) != []
    assert prepared(ON_PREMISE)["max_workers"] == len(ON_PREMISE["provider"]["worker_ips"])


def test_on_premise_differs_where_it_must_only() -> None:
    same = ("cluster_name", "upscaling_speed", "idle_timeout_minutes", "file_mounts", "rsync_exclude", "rsync_filter")
    same += ("setup_commands", "head_setup_commands", "worker_setup_commands", "worker_start_ray_commands")
    assert {key: ON_PREMISE[key] for key in same} == {key: AWS[key] for key in same}
    assert ON_PREMISE["docker"]["image"] == AWS["docker"]["image"]
    assert set(AWS["docker"]["run_options"]) < set(ON_PREMISE["docker"]["run_options"])
    head = ON_PREMISE["head_start_ray_commands"][-1]
    drivers = AWS["available_node_types"]["head"]["resources"]["driver"]
    for part in (
        "--num-gpus=0",
        "--dashboard-host=127.0.0.1",
        "ulimit -n 65536",
        f"""--resources='{{"driver": {drivers}}}'""",
    ):
        assert part in head
    # Under the newer autoscaler, which is the default, provider `local` starts no worker.
    assert "export RAY_UP_enable_autoscaler_v2=0" in ON_PREMISE_FILE.read_text()


@pytest.mark.parametrize("file", [ON_PREMISE_FILE, KUBERAY_FILE], ids=lambda file: file.stem)
def test_variants_hold_no_secret(file: Any) -> None:
    assert SECRETS.findall(file.read_text()) == []


# -- KubeRay

TEXT_ONLY = {"type": "object", "additionalProperties": {"type": "string"}}


def only(required: str = "", **fields: Any) -> Config:
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def a_list(of: Config) -> Config:
    return {"type": "array", "items": of, "minItems": 1}


STRING, COUNT, ON = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
CONTAINER = only(
    "name image resources",
    name=STRING,
    image=STRING,
    resources=only("limits requests", limits=TEXT_ONLY, requests=TEXT_ONLY),
    env=a_list(only("name value", name=STRING, value=STRING)),
    volumeMounts=a_list(only("name mountPath", name=STRING, mountPath=STRING)),
)
POD = only(
    "containers",
    serviceAccountName=STRING,
    nodeSelector=TEXT_ONLY,
    tolerations=a_list(only("", key=STRING, operator={"enum": ["Exists", "Equal"]}, effect=STRING)),
    containers=a_list(CONTAINER),
    volumes=a_list(only("name", name=STRING, emptyDir=only("", sizeLimit=STRING, medium={"enum": ["", "Memory"]}))),
)
GROUP = {"rayStartParams": TEXT_ONLY, "labels": TEXT_ONLY, "template": only("spec", spec=POD)}
WORKERS = only(
    "groupName minReplicas maxReplicas template",
    groupName=STRING,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    **GROUP,
)
CLUSTER = only(
    "headGroupSpec",
    rayVersion=STRING,
    authOptions=only("", mode={"enum": ["disabled", "token"]}, secretName=STRING),
    enableInTreeAutoscaling=ON,
    autoscalerOptions=only("", version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
    headGroupSpec=only("template", **GROUP),
    workerGroupSpecs=a_list(WORKERS),
)
JOB = only("", entrypoint=STRING, shutdownAfterJobFinishes=ON, backoffLimit=COUNT, rayClusterSpec=CLUSTER)
MANIFEST = only(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=only("name", name=STRING),
    spec=JOB,
)


def kuberay_problems(manifest: Config) -> list[str]:
    """What is wrong with the manifest: by its fields, then by what is meant by it."""
    wrong = [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(MANIFEST).iter_errors(manifest)
    ]
    if wrong:
        return wrong
    cluster = manifest["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["rayStartParams"]
    expectations = {
        "rayVersion: not the lock's": cluster["rayVersion"] == locked_version("ray"),
        "token authentication is off": cluster["authOptions"]["mode"] == "token",
        "head offers GPUs": head.get("num-gpus") == "0",
        "head has no drivers": json.loads(json.loads(head.get("resources", '"{}"'))) == {"driver": 32},
        "the autoscaler is off": cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2",
        "SWEEP_NODE_TYPES differs from the groups": node_types_of(manifest) == groups_of(cluster),
        "it stays when the job has ended": manifest["spec"]["shutdownAfterJobFinishes"],
    }
    return [what for what, holds in expectations.items() if not holds]


def groups_of(cluster: Config) -> Config:
    """The worker groups in the form of SWEEP_NODE_TYPES."""
    found = {}
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        resources = {"CPU": int(limits["cpu"]), "GPU": int(limits.get("nvidia.com/gpu", 0))}
        found[group["groupName"]] = {
            "max_workers": group["maxReplicas"],
            "resources": resources,
            "labels": group["labels"],
        }
    return found


def test_kuberay_manifest_has_no_problem() -> None:
    assert kuberay_problems(KUBERAY) == []


def gpu1(manifest: Config) -> Config:
    return manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]


KUBERAY_BREAKS: dict[str, Callable[[Config], object]] = {
    "$.spec: Additional": lambda m: m["spec"].update(entrypont="x"),
    "$.spec.rayClusterSpec.workerGroupSpecs[1]: 'maxReplicas' is": lambda m: gpu1(m).pop("maxReplicas"),
    "SWEEP_NODE_TYPES differs": lambda m: gpu1(m).update(maxReplicas=9),
    "token authentication is off": lambda m: m["spec"]["rayClusterSpec"]["authOptions"].update(mode="disabled"),
    "rayVersion": lambda m: m["spec"]["rayClusterSpec"].update(rayVersion="2.9.0"),
    "head offers": lambda m: m["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].pop("num-gpus"),
}


@pytest.mark.parametrize("expected", KUBERAY_BREAKS)
def test_broken_manifest_is_noticed(expected: str) -> None:
    manifest = copy.deepcopy(KUBERAY)
    KUBERAY_BREAKS[expected](manifest)
    found = kuberay_problems(manifest)
    assert any(problem.startswith(expected) for problem in found), found
