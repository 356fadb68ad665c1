#!/usr/bin/env bash
# Makes .venv: Python 3.11 or newer, everything in requirements.lock (by hash), and this project, editable.
# Does nothing when nothing has changed. Only bash, coreutils and awk are needed to start.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }
may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

makes_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# It comes first, if it is whole: distributions build theirs with profiles of its use, which makes the worker a tenth
# faster than one that was compiled without.
system_python() {
    local own
    own=$(command -pv python3) && makes_environments "$own" && echo "$own"
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-$(system_python) python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    stop "Python 3.11 or newer is needed, ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 | tail -n 1);" \
        "type: make setup PYTHON=/path/to/python3.11"
}

make_environment() {
    local python=$1 package
    if ! makes_environments "$python"; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        may_install || stop "the venv module of $python is missing; type: sudo apt-get install -y $package"
        say "installing $package with apt-get"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"; } >&2
    fi
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

# A user's pip settings may name a mirror or certificates: those stay. What would change the set of packages, or where
# they go, does not: the lock alone says that.
tidy_pip() {
    unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT PIP_NO_DEPS PIP_PRE PIP_NO_BINARY PIP_EDITABLE
    export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    unset PYTHONPATH PYTHONHOME
}

install_lock() {
    local total
    total=$(grep -c '^[A-Za-z0-9].*==' requirements.lock)
    say "installing up to $total packages from requirements.lock"
    .venv/bin/python -m pip install --require-hashes --only-binary=:all: --progress-bar off -r requirements.lock |
        awk -v total="$total" '
            /^Collecting / { n++; printf "setup: [%d/%d] %s\n", n, total, $2; fflush() }
            /^Requirement already/ { n++ }
            /^Installing collected/ { print "setup: unpacking them"; fflush() }' >&2
}

stamp() {
    # the path too: a virtual environment does not survive being moved
    { cat requirements.lock pyproject.toml; pwd; .venv/bin/python --version; } 2>/dev/null | sha256sum
}

main() {
    local python
    mkdir -p .weighbridge
    if command -v flock >/dev/null; then
        exec 9>.weighbridge/setup.lock
        flock -n 9 || { say "another setup is at work here, waiting for it"; flock -w 900 9; }
    fi
    if [ -f .venv/.stamp ] && [ "$(stamp)" = "$(cat .venv/.stamp)" ]; then
        say ".venv is up to date"
        return
    fi
    tidy_pip
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        make_environment "$python"
    fi
    install_lock
    say "installing weighbridge itself, editable"
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
    stamp >.venv/.stamp
    say ".venv is ready"
}

main
