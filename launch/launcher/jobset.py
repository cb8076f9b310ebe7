"""The JobSet of a run on TPU slices of a GKE cluster, as JSON.

JSON, which kubectl reads as it reads YAML, since there every text is quoted in
one way only. Sources, of which docs/launch.md has the addresses: JobSet's
reference and its page on failure policies; Kubernetes' page on pod failure
policies (exit statuses); GKE's pages on Multislice (selectors, limits, ports)
and on the Cloud Storage FUSE driver (the bucket).

GKE tells each pod of a JobSet what JAX needs to find its peers
(TPU_WORKER_HOSTNAMES, TPU_WORKER_ID, MEGASCALE_*).
"""

from collections.abc import Sequence
from typing import Any

from .accelerators import GkeSlice
from .flags import Command
from .marks import LABEL
from .preemption import preempted_status

_CONTAINER = "calrec"
_WEEK_SECONDS = 7 * 24 * 3600
_GRACE_SECONDS = 120  # To save in, after SIGTERM; GKE's spot nodes give less.


def jobset(
  name: str,
  token: str,
  asked: GkeSlice,
  command: Command,
  *,
  image: str,
  slices: int = 1,
  spot: bool = False,
  bucket: str | None = None,
  service_account: str | None = None,
  max_retries: int = 0,
) -> dict[str, Any]:
  """The manifest.

  A pod that was preempted, or told to leave and saved, restarts the whole set
  as often as it happens; other failures at most `max_retries` times.

  Args:
    name: of the JobSet.
    token: the mark by which it is known later.
    asked: the slice.
    command: what every pod runs.
    image: of launch/Dockerfile, for TPU.
    slices: how many.
    spot: whether on spot nodes.
    bucket: mounted at /mnt/BUCKET.
    service_account: of Kubernetes; may reach the bucket.
    max_retries: restarts for failures.
  """
  pod = _pod(asked, command, image=image, spot=spot)
  metadata: dict[str, Any] = {}
  if service_account:
    pod["serviceAccountName"] = service_account
  if bucket:
    metadata["annotations"] = {"gke-gcsfuse/volumes": "true"}
    pod["volumes"] = [_volume(bucket)]
    pod["containers"][0]["volumeMounts"] = [
      {"name": "bucket", "mountPath": f"/mnt/{bucket}"}
    ]
  job = {
    "parallelism": asked.hosts,
    "completions": asked.hosts,
    "backoffLimit": 0,
    "podFailurePolicy": {"rules": _preempted_pods()},
    "template": {"metadata": metadata, "spec": pod},
  }
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {
      "name": name,
      "labels": {LABEL: token},
      # Every slice has a node pool of its own.
      "annotations": {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": (
          "cloud.google.com/gke-nodepool"
        )
      },
    },
    "spec": {
      "ttlSecondsAfterFinished": _WEEK_SECONDS,
      "failurePolicy": {
        "maxRestarts": max_retries,
        "restartStrategy": "BlockingRecreate",
        "rules": [
          {
            "name": "preempted",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
          }
        ],
      },
      "replicatedJobs": [
        {"name": "slice", "replicas": slices, "template": {"spec": job}}
      ],
    },
  }


def _pod(
  asked: GkeSlice, command: Command, *, image: str, spot: bool
) -> dict[str, Any]:
  selector = {
    "cloud.google.com/gke-tpu-accelerator": asked.accelerator,
    "cloud.google.com/gke-tpu-topology": asked.topology,
  }
  if spot:
    selector["cloud.google.com/gke-spot"] = "true"
  words = ["bash", "launch/on_host.sh", "work", *command.words()]
  return {
    "restartPolicy": "Never",  # JobSet restarts all pods together.
    "terminationGracePeriodSeconds": _GRACE_SECONDS,
    "nodeSelector": selector,
    "containers": [
      {
        "name": _CONTAINER,
        "image": image,
        "command": _literal(words),
        # The TPU's device files belong to root.
        "securityContext": {"runAsUser": 0},
        # The coordinators' of libtpu and of JAX.
        "ports": [{"containerPort": port} for port in (8471, 8080, 8482)],
        "resources": {"limits": {"google.com/tpu": asked.chips}},
      }
    ],
  }


def _preempted_pods() -> list[dict[str, Any]]:
  """Rules by which a job fails for the reason `PodFailurePolicy`."""
  return [
    {
      "action": "FailJob",
      "onExitCodes": {
        "containerName": _CONTAINER,
        "operator": "In",
        "values": [preempted_status()],
      },
    },
    {
      "action": "FailJob",
      "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    },
  ]


def _volume(bucket: str) -> dict[str, Any]:
  return {
    "name": "bucket",
    "csi": {
      "driver": "gcsfuse.csi.storage.gke.io",
      "volumeAttributes": {
        "bucketName": bucket,
        # As `mount_bucket` of launch/on_host.sh says, in this driver's words.
        "mountOptions": "implicit-dirs,metadata-cache:ttl-secs:0,"
        "metadata-cache:negative-ttl-secs:0",
      },
    },
  }


def _literal(words: Sequence[str]) -> list[str]:
  """Words in which Kubernetes replaces nothing: `$(X)` would be a variable."""
  return [word.replace("$", "$$") for word in words]
