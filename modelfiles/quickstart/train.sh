#!/bin/sh
# Makes the quick start model from nothing: rows, base, adapter, logs, grades. Run it anywhere; it works in the checkout it lies in.
#
#   cargo build --release && modelfiles/quickstart/train.sh
#
# Cost: about 6.5 million tokens for the base and 5 million for the adapter. One machine and one seed give the same bytes each time.
# WITNESS names the program, QUICKSTART_WORK a directory for rows and the store (about 100 MB; it is made new).
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
cd "$here/../.."
witness="${WITNESS:-target/release/witness}"
work="${QUICKSTART_WORK:-target/quickstart}"
test -x "$witness" || { echo "there is no $witness: run \`cargo build --release\`, or set WITNESS" >&2; exit 2; }

step() { printf '\n== %s\n' "$*"; }

# A store and a daemon of its own: nothing that is already here is touched.
rm -rf "$work/home"
mkdir -p "$work"
WITNESS_HOME="$(cd "$work" && pwd)/home"
WITNESS_HOST="${QUICKSTART_HOST:-127.0.0.1:11536}"
export WITNESS_HOME WITNESS_HOST
trap '"$witness" stop --daemon >/dev/null 2>&1 || true' EXIT

# The files of the newest run, and what it told while it went, without the single steps.
newest() { ls -dt "$WITNESS_HOME"/runs/*/ | head -n 1; }
keep() {
    run="$(newest)"
    rm -rf "${here:?}/$1"
    mkdir -p "$here/$1" "$here/logs"
    cp "$run"output/final/* "$here/$1/"
    grep -v '"type":"step"' "$run"events.jsonl > "$here/logs/$1.jsonl"
}

step "rows"
cargo run --quiet --example quickstart-corpus -- target/quickstart

step "base"
"$witness" train --recipe modelfiles/quickstart/base.yml
keep base

step "adapter, on the base as it will be committed"
printf 'FROM %s\n' "$here/base" | "$witness" create quick-base -f -
"$witness" train --recipe modelfiles/quickstart/expert.yml
keep witness-expert

step "grades"
"$witness" create witness-expert -f modelfiles/quickstart/Modelfile
cargo run --quiet --example quickstart-grade -- "$witness" witness-expert | tee "$here/logs/grades.txt"
du -ch "$here/base" "$here/witness-expert" "$here/logs" | tail -n 1
