#!/usr/bin/env bash
# Sets up .venv when it is missing, then runs every test: bash tests/run.sh [pytest args]
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../launch/environment.sh" dev
exec python -m pytest -n "${SFDA_JAX_TEST_PROCESSES:-2}" "$@"
