"""Runs pyright on the library and holds its errors within a budget.

The budget only shrinks: whenever errors are removed, lower it; never raise it.
`python -m launch.check_types --list` prints the errors.
"""

import collections
import json
import subprocess
import sys

BUDGET = 2


def errors() -> list[dict]:
  """The errors that pyright reports for the library, as it prints them."""
  command = [sys.executable, "-m", "pyright", "--outputjson"]
  found = subprocess.run(
    [*command, "--pythonpath", sys.executable], stdout=subprocess.PIPE
  )
  diagnostics = json.loads(found.stdout)["generalDiagnostics"]
  return [row for row in diagnostics if row["severity"] == "error"]


def main() -> int:
  """Returns 1 where there are more errors than the budget allows."""
  found = errors()
  if "--list" in sys.argv or len(found) > BUDGET:
    for row in found:
      line = row["range"]["start"]["line"] + 1
      print(f"{row['file']}:{line}: {row['message']}")
  per_rule = collections.Counter(row.get("rule", "syntax") for row in found)
  shown = ", ".join(f"{rule} {n}" for rule, n in per_rule.most_common())
  print(f"pyright: {len(found)} errors of {BUDGET} allowed ({shown})")
  if len(found) < BUDGET:
    print(f"Lower BUDGET in launch/check_types.py to {len(found)}.")
  return int(len(found) > BUDGET)


if __name__ == "__main__":
  sys.exit(main())
