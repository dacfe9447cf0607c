#!/usr/bin/env bash
# Sets up .venv when it is missing, then runs `python -m sfda_jax.main` with the
# arguments given: bash launch/local.sh --config configs/demo.py
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec python -m sfda_jax.main "$@"
