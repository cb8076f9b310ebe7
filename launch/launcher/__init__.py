"""The logic of the launch scripts.

Standard library only: it runs on a laptop before anything is installed. The
shell scripts beside this folder find a Python and call a module here; what
runs on the machines themselves is `launch/on_host.sh`.

    tpu_vm, tpu_pod, gpu_box   a script each; they share `runs`
    gke, slurm                 a script each; the cluster does the retrying
    runs                       create, install, run, retry, fetch, delete
    tpu, box                   kinds of machines, as command lines
    hosts                      what is asked of `on_host.sh`, on every host
    marks                      what was made here, and so may be deleted
    accelerators, jobset       TPU types; the manifest for GKE
    shell, flags, preemption   running and printing; shared flags; exit status
"""
