"""What the environment may say about the processes of a job."""

import jax
import pytest

from calrec_jax.runtime import distributed


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, (0, 1)),
    ({"CALREC_NUM_PROCESSES": "1", "CALREC_PROCESS_ID": "0"}, (0, 1)),
    ({"CALREC_NUM_PROCESSES": "3", "CALREC_PROCESS_ID": "2"}, (2, 3)),
    # A machine of Slurm or a TPU's host is not yet a job of ours.
    ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "1"}, (0, 1)),
  ],
)
def test_processes_are_counted_by_our_own_variables(environment, expected):
  assert distributed.processes(environment) == expected


@pytest.mark.parametrize(
  ("environment", "message"),
  [
    ({"NUM_PROCESSES": "2"}, "CALREC_PROCESS_ID is not"),
    ({"PROCESS_ID": "0"}, "CALREC_NUM_PROCESSES is not"),
    ({"NUM_PROCESSES": "2", "PROCESS_ID": "2"}, "count from 0 to 1"),
    ({"NUM_PROCESSES": "two", "PROCESS_ID": "0"}, "PROCESSES = 'two'"),
    ({"NUM_PROCESSES": "2", "PROCESS_ID": "-1"}, "PROCESS_ID = '-1'"),
    ({"NUM_PROCESSES": "2", "PROCESS_ID": "0"}, "HOST:PORT of process 0"),
    ({"COORDINATOR": "a:1"}, "Set all three"),
    (
      {"COORDINATOR": "a", "NUM_PROCESSES": "2", "PROCESS_ID": "0"},
      "COORDINATOR = 'a'",
    ),
    ({"DISTRIBUTED": "yes"}, "set it to auto"),
    ({"HEARTBEAT_SECONDS": "0"}, "HEARTBEAT_SECONDS = '0'"),
    ({"JOIN_SECONDS": "soon"}, "JOIN_SECONDS = 'soon'"),
  ],
)
def test_half_an_environment_is_refused(environment, message):
  environment = {f"CALREC_{key}": value for key, value in environment.items()}
  with pytest.raises(distributed.DistributedError, match=message):
    distributed.join(environment)


@pytest.mark.parametrize(
  ("environment", "named"),
  [
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "1"}, None),
    (
      {
        "CALREC_COORDINATOR": "a:1",
        "CALREC_NUM_PROCESSES": "1",
        "CALREC_PROCESS_ID": "0",
      },
      None,
    ),
    (
      {
        "CALREC_COORDINATOR": "a:1",
        "CALREC_NUM_PROCESSES": "2",
        "CALREC_PROCESS_ID": "1",
      },
      ("a:1", 2, 1),
    ),
    ({"CALREC_DISTRIBUTED": "auto"}, (None, None, None)),
  ],
)
def test_only_configured_processes_join(
  environment, named, monkeypatch, capsys
):
  joined = []
  monkeypatch.setattr(
    jax.distributed,
    "initialize",
    lambda *names, **times: joined.append((names, times)),
  )
  distributed.join(environment | {"CALREC_HEARTBEAT_SECONDS": "7"})
  assert [names for names, _ in joined] == ([] if named is None else [named])
  said = capsys.readouterr().err
  for _, times in joined:
    assert times["heartbeat_timeout_seconds"] == 7
    assert times["initialization_timeout"] == 600
    assert "at most 600 seconds (CALREC_JOIN_SECONDS)" in said
    assert "after 7 seconds (CALREC_HEARTBEAT_SECONDS)" in said
  assert bool(said) == bool(joined)
