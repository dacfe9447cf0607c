#!/usr/bin/env bash
# Sets up .venv when it is missing, then runs `python -m sfda_jax.main` with the
# arguments given: bash launch/local.sh --config configs/demo.py
set -euo pipefail

# The empty argument keeps this script's own from being taken for an extra.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" ""
exec python -m sfda_jax.main "$@"
