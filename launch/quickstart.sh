#!/usr/bin/env bash
# From scratch to a trained and evaluated recommender, on a CPU, in minutes:
# environment, data from the package index, SASRec, both training stages,
# evaluation, report. Run again, it resumes, or shows the result.
#
#   launch/quickstart.sh                       writes to runs/quickstart
#   launch/quickstart.sh --gin.target/TRAIN_STEPS=400   any flag of calrec
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

make_environment
cd "$ROOT"
recipe=(--gin_file=recipes/quickstart.gin "$@")

say "1 of 3: data (1.5 million purchases of a grocery retailer, as text)"
"$PYTHON" -m calrec_jax data cache "${recipe[@]}"
say "2 of 3: training (SASRec; stage one on three departments, stage two on nutrition)"
"$PYTHON" -m calrec_jax train "${recipe[@]}"
say "3 of 3: evaluation (all users of nutrition, full catalogue)"
"$PYTHON" -m calrec_jax eval "${recipe[@]}"
