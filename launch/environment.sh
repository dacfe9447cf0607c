# Sourced by launch/local.sh and tests/run.sh: makes .venv once, with the tested set.
# Usage: . launch/environment.sh [extra]

PYTHON="${PYTHON:-python3}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "sfda_jax needs Python 3.11 or newer; found $("$PYTHON" --version)." >&2
  echo "Name another one: PYTHON=python3.12 bash $0" >&2
  exit 1
fi

extra="${1:-}"
wanted="$(cat requirements.txt pyproject.toml | cksum) $extra $("$PYTHON" --version)"
stamp=".venv/.installed${extra:+-$extra}"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  echo "Setting up .venv (once; a few minutes)." >&2
  [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint requirements.txt --editable ".${extra:+[$extra]}"
  echo "$wanted" > "$stamp"
fi
. .venv/bin/activate
