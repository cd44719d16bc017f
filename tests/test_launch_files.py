"""Laws of launch/: fields that JobSet, Kubernetes and SkyPilot have, flags of ours.

Nothing is asked of a cluster. `JOBSET` lists the fields that may stand in jobset.yaml,
by the reference of jobset.x-k8s.io/v1alpha2 and of batch/v1 and core/v1 of Kubernetes;
`SKYPILOT` those of https://docs.skypilot.co/en/latest/reference/yaml-spec.html.
"""

import importlib.metadata
import re
import shlex

import documents
import pytest
import yaml

from experiments.preemption import REQUEUE

FOLDER = documents.ROOT / "launch"


class OneOf(frozenset):
    """Values of which one is taken."""


QUANTITY = re.compile(r"\d+(\.\d+)?(m|[KMGT]i?)?")
NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
RESOURCES = {"cpu": QUANTITY, "memory": QUANTITY, "nvidia.com/gpu": QUANTITY}
CONTAINER = {
    "name": NAME,
    "image": str,
    "command": [str],
    "args": [str],
    "workingDir": str,
    "env": [{"name": str, "value": str}],
    "resources": {"requests": RESOURCES, "limits": RESOURCES},
    "volumeMounts": [
        {"name": NAME, "mountPath": str, "subPath": str, "readOnly": bool}
    ],
}
POD = {
    "restartPolicy": OneOf(["Never", "OnFailure"]),
    "terminationGracePeriodSeconds": int,
    "nodeSelector": dict,
    "tolerations": list,
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": NAME,
            "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
            "emptyDir": {"medium": str, "sizeLimit": QUANTITY},
        }
    ],
}
EXIT_CODES = {
    "containerName": NAME,
    "operator": OneOf(["In", "NotIn"]),
    "values": [int],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": OneOf(["Indexed", "NonIndexed"]),
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules": [
            {
                "action": OneOf(["FailJob", "Ignore", "Count"]),
                "onExitCodes": EXIT_CODES,
            }
        ]
    },
    "template": {"metadata": {"labels": dict, "annotations": dict}, "spec": POD},
}
JOBSET = {
    "apiVersion": OneOf(["jobset.x-k8s.io/v1alpha2"]),
    "kind": OneOf(["JobSet"]),
    "metadata": {"name": NAME, "namespace": NAME, "labels": dict, "annotations": dict},
    "spec": {
        "network": {"enableDNSHostnames": bool, "subdomain": NAME},
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [
                {
                    "name": re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"),
                    "action": OneOf(["FailJobSet", "RestartJobSet"]),
                    "onJobFailureReasons": [
                        OneOf(
                            [
                                "BackoffLimitExceeded",
                                "DeadlineExceeded",
                                "PodFailurePolicy",
                            ]
                        )
                    ],
                }
            ],
        },
        "replicatedJobs": [{"name": NAME, "replicas": int, "template": {"spec": JOB}}],
    },
}
BUCKET = {
    "source": str,
    "name": str,
    "store": str,
    "mode": OneOf(["MOUNT", "COPY", "MOUNT_CACHED"]),
}
SKYPILOT = {
    "name": NAME,
    "workdir": str,
    "num_nodes": int,
    "resources": {
        "infra": str,
        "accelerators": re.compile(r"[A-Za-z0-9-]+(:\d+)?"),
        "cpus": str,
        "memory": str,
        "disk_size": int,
        "image_id": str,
        "use_spot": bool,
        "job_recovery": {
            "strategy": str,
            "max_restarts_on_errors": int,
            "recover_on_exit_codes": [int],
        },
    },
    "envs": dict,
    "file_mounts": {"/runs": BUCKET},
    "setup": str,
    "run": str,
}


def check(value, schema, where=""):
    """Refuses a field that the schema lacks, and a value of another kind."""
    if schema in (str, int, bool, dict, list):
        assert type(value) is schema, where
    elif isinstance(schema, OneOf):
        assert value in schema, where
    elif isinstance(schema, re.Pattern):
        assert isinstance(value, str), where
        assert schema.fullmatch(value), where
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for number, one in enumerate(value):
            check(one, schema[0], f"{where}[{number}]")
    else:
        assert isinstance(value, dict), where
        for name, one in value.items():
            assert name in schema, f"{where}.{name}"
            check(one, schema[name], f"{where}.{name}")


def read(name):
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


def train_flags() -> set[str]:
    """The flags that scripts/train.py and what it shares define."""
    text = "".join(
        (documents.ROOT / name).read_text("utf-8")
        for name in ("scripts/train.py", "experiments/cli.py")
    )
    defined = r"(?:define_\w+|DEFINE_\w+)\(\s*\"(\w+)\""
    return {"config", *re.findall(defined, text)}


def flags_of(words) -> dict[str, str]:
    """The flags among the words of a call of scripts/train.py; all of them exist."""
    given = [word[2:].partition("=") for word in words if word.startswith("--")]
    assert {name for name, _, _ in given} <= train_flags()
    return {name: value for name, _, value in given}


def test_the_jobset_has_fields_that_there_are():
    check(read("jobset.yaml"), JOBSET)


def test_the_task_of_skypilot_has_fields_that_there_are():
    check(read("skypilot.yaml"), SKYPILOT)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("jobset.yaml", lambda d: d["spec"].update(replicas=2)),
        ("jobset.yaml", lambda d: d["spec"]["failurePolicy"].update(maxRestarts="2")),
        ("skypilot.yaml", lambda d: d["resources"].update(spot=True)),
        ("skypilot.yaml", lambda d: d["file_mounts"]["/runs"].update(mode="CACHED")),
    ],
)
def test_the_check_refuses_what_there_is_not(name, change):
    document = read(name)
    change(document)
    with pytest.raises(AssertionError):
        check(document, JOBSET if name.startswith("jobset") else SKYPILOT)


def test_the_processes_of_the_jobset_find_one_another():
    """By the host name that JobSet gives the first pod of the only job."""
    jobset = read("jobset.yaml")
    (one,) = jobset["spec"]["replicatedJobs"]
    job = one["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert [*container["command"]] == ["python", "scripts/train.py"]
    flags = flags_of(container["args"])
    assert int(flags["processes"]) == job["completions"] == job["parallelism"]
    assert flags["process_id"] == "$(JOB_COMPLETION_INDEX)"
    name = jobset["metadata"]["name"]
    host, _, port = flags["coordinator"].partition(":")
    assert host == f"{name}-{one['name']}-0-0.{name}"
    assert port.isdecimal()
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert flags["workdir"].startswith(tuple(f"{mount}/" for mount in mounts))
    volumes = {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_what_stopped_goes_on_and_what_cannot_be_done_ends():
    """By exit codes: REQUEUE, and 2 of a wrong flag or config."""
    spec = read("jobset.yaml")["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [2]
    (policy,) = spec["failurePolicy"]["rules"]
    assert policy["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert policy["action"] == "FailJobSet"
    assert job["backoffLimit"] == 0  # so that all processes start again, not one
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    recovery = read("skypilot.yaml")["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [REQUEUE]


def test_the_task_of_skypilot_calls_what_there_is():
    task = read("skypilot.yaml")
    lines = task["run"].replace("\\\n", " ").splitlines()
    flags = flags_of(shlex.split(lines[-1]))
    assert flags["workdir"].startswith("/runs/")
    used = set(re.findall(r"\$\{?([A-Z]+)", task["run"] + str(task["file_mounts"])))
    assert used - {"HOME"} == task["envs"].keys()
    for script in re.findall(r"scripts/\w+\.py", task["run"]):
        assert (documents.ROOT / script).is_file()


def test_the_container_is_made_of_what_there_is():
    text = (FOLDER / "Containerfile").read_text("utf-8")
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (documents.ROOT / name).exists(), name
    extras = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    told = re.search(r"for the devices: cpu, ([\w, ]+) or (\w+)\.", text)
    assert told
    assert {*told[1].split(", "), told[2]} <= set(extras)
    version = re.search(r"FROM \S+python:([\d.]+)-slim", text)
    assert version
    lock = (documents.ROOT / "requirements.lock").read_text("utf-8")
    assert f"Python {version[1]}." in lock.splitlines()[0]
