#!/usr/bin/env bash
# Makes the checkout as bare as a fresh clone: stops our servers, throws away their data, what was fetched and every cache.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -x .venv/bin/python ]; then
    for memory in .weighbridge/memory.json .weighbridge/*/memory.json; do
        [ -f "$memory" ] || continue
        .venv/bin/python -c 'from deploy.embedded.command import down; down()' --erase --state "$(dirname "$memory")"
    done
fi
rm -rf .weighbridge .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
find . -name __pycache__ -type d -prune -exec rm -rf {} +
