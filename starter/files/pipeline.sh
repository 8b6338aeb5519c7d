#!/bin/sh
# For a pipeline: deploys what needs no restart, and fails where a person has to look first.
# The secrets of .env come from the environment; the SSH key from the agent.
set -eu
export PYTHONPATH="$PWD/datatier"
make setup
found=0
datatier/.venv/bin/python -m tasks.drift --json inventory.py >plan.json || found=$?
case $found in
  0) echo "nothing to do"; exit 0 ;;
  2) ;;
  *) exit 1 ;;
esac
datatier/.venv/bin/python - <<'PYTHON'
import json
import sys

harm = {"restart", "failover", "destroys data"} & set(json.load(open("plan.json"))["summary"]["impacts"])
sys.exit(f"needs a person: {', '.join(sorted(harm))}; make plan" if harm else 0)
PYTHON
datatier/.venv/bin/pyinfra -y inventory.py deploy.py
