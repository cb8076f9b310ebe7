"""The logic of the launch scripts.

Standard library only: it runs on a laptop before anything is installed. The
shell scripts next to this folder find a Python and call a module here;
`launch/on_host.sh` runs on the machines themselves.

    tpu_vm, tpu_pod, gpu_box   one script each; all use `runs`
    gke, slurm                 one script each; the cluster retries
    runs                       create, install, run, retry, fetch, delete
    tpu, box                   kinds of machines, as command lines
    hosts                      calls of `on_host.sh` on every host
    marks                      records what was created, and so may be deleted
    accelerators, jobset       TPU types; the manifest for GKE
    shell, flags, preemption   running and printing; shared flags; exit status
"""
