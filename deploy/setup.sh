#!/usr/bin/env bash
# Makes .venv with exactly the packages of requirements.lock, and this package in it.
set -euo pipefail
cd "$(dirname "$0")/.."

good() { "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

python=""
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
  if command -v "$candidate" >/dev/null && good "$candidate"; then python="$candidate"; break; fi
done
if [ -z "$python" ]; then
  echo "make setup: no Python 3.11 or newer found (python3 is $(python3 --version 2>&1 || true));" \
       "install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi

if [ -x .venv/bin/python ] && ! good .venv/bin/python; then
  echo "make setup: .venv holds an older Python; making it anew"
  rm -rf .venv
fi
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && [ -z "${PAM_NO_APT:-}" ] && command -v apt-get >/dev/null; then
      export DEBIAN_FRONTEND=noninteractive
      apt-get update -qq </dev/null
      apt-get install -y -qq --no-install-recommends python3-venv </dev/null >/dev/null
    else
      echo "make setup: $python has no venv module; install it: apt-get install python3-venv" >&2
      exit 1
    fi
  fi
  echo "make setup: .venv with $("$python" --version)"
  "$python" -m venv .venv
fi

echo "make setup: installing $(grep -c '==' requirements.lock) locked packages"
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --only-binary :all: \
  --require-hashes -r requirements.lock
# setuptools is in the lock, so building our own package downloads nothing
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
touch .venv/.locked
