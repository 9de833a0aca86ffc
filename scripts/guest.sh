#!/usr/bin/env bash
# guest.sh TEST...: runs each test file (or test) in a virtual machine of its own, by $ENGINE_VM (see the Makefile). It may
# have options of pytest behind it: guest.sh "tests/compat/test_macvlan.py -k ipvlan". GUEST_TIMEOUT_S is for each.
#
# The guest gets the project as one archive and unpacks it at its own path: reading thousands of small files through a
# shared folder takes an emulated machine minutes, each time it imports the engine.
set -euo pipefail
cd "$(dirname "$0")/.."
project=$PWD
vm=${ENGINE_VM:-engine-vm}
command -v "$vm" >/dev/null || { echo "skipped: no $vm here (see ENGINE_VM)"; exit 0; }

pack=$(mktemp -d)
trap 'rm -rf "$pack"' EXIT
cp "$(command -v docker || echo .tools/usr/bin/docker)" "$pack/docker"
# Compiled here, also pytest's own form of the tests: an emulated machine would take half a minute for it, each time.
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m pytest --collect-only -qq "${@%% *}" >/dev/null
# Neither what checks the code nor what other tests talk to.
tar -cf "$pack/project.tar" --exclude=./.git --exclude='./.*_cache' --exclude='./.tools/[!.]*' --exclude=./.venv/bin/ruff \
  --exclude='mypy*' --exclude='*mypyc*' --exclude=site-packages/pip .

# The guest's own Python may be of another version than the environment's.
python=$(.venv/bin/python -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

status=0
for test in "$@"; do
  echo "== $test"
  (cd "$pack" && "$vm" run --timeout "${GUEST_TIMEOUT_S:-3600}" -- sh -ec "
    mkdir -p $project
    tar -xf project.tar -C $project
    export PATH=\$PWD:\$PATH ISHMAEL_PATIENCE=5
    cd $project
    .venv/bin/python -c 'import pytest' 2>/dev/null || for name in python python3 $python; do
      ln -sf \"\$(command -v $python)\" .venv/bin/\$name
    done
    .venv/bin/python -m pytest --timeout 900 -p no:cacheprovider $test") || status=1
done
exit $status
