"""The JobSet of a run on TPU slices of a GKE cluster, as JSON.

JSON rather than YAML, since its quoting is unambiguous; kubectl reads both.
Sources, with addresses in docs/launch.md: JobSet's reference and its page on
failure policies; Kubernetes' page on pod failure policies (exit statuses);
GKE's pages on Multislice (selectors, limits, ports) and on the Cloud Storage
FUSE driver (the bucket).

GKE sets the environment variables by which JAX finds the peers of a pod
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
_GRACE_SECONDS = 120  # For saving after SIGTERM; GKE's spot nodes grant less.


def jobset(
  name: str,
  token: str,
  tpu: GkeSlice,
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

  A preempted or terminated pod restarts the whole set, any number of times;
  other failures at most `max_retries` times.

  Args:
    name: Name of the JobSet.
    token: Label that identifies it later.
    tpu: TPU slice.
    command: Command of every pod.
    image: Image of launch/Dockerfile for TPUs.
    slices: Number of slices.
    spot: Whether to use spot nodes.
    bucket: Bucket to mount at /mnt/BUCKET.
    service_account: Kubernetes account with access to the bucket.
    max_retries: Maximum number of restarts after failures.
  """
  pod = _pod(tpu, command, image=image, spot=spot)
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
    "parallelism": tpu.hosts,
    "completions": tpu.hosts,
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
      # Every slice has its own node pool.
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
  tpu: GkeSlice, command: Command, *, image: str, spot: bool
) -> dict[str, Any]:
  selector = {
    "cloud.google.com/gke-tpu-accelerator": tpu.accelerator,
    "cloud.google.com/gke-tpu-topology": tpu.topology,
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
        # The TPU's device files are owned by root.
        "securityContext": {"runAsUser": 0},
        # Ports of the coordinators of libtpu and JAX.
        "ports": [{"containerPort": port} for port in (8471, 8080, 8482)],
        "resources": {"limits": {"google.com/tpu": tpu.chips}},
      }
    ],
  }


def _preempted_pods() -> list[dict[str, Any]]:
  """Rules under which a job fails with the reason `PodFailurePolicy`."""
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
        # The options of `mount_bucket` in launch/on_host.sh, for this driver.
        "mountOptions": "implicit-dirs,metadata-cache:ttl-secs:0,"
        "metadata-cache:negative-ttl-secs:0",
      },
    },
  }


def _literal(words: Sequence[str]) -> list[str]:
  """Escapes words for Kubernetes, where `$(X)` would be a variable."""
  return [word.replace("$", "$$") for word in words]
