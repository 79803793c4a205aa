#!/bin/bash
# Runs the checks and benchmarks of docs/gpu.md on a GPU machine that is lent for some minutes, most valuable first.
#
#   bash scripts/gpu_run.sh OUT [SECONDS] [WHEELS]        in the checkout; default: 270, .whl
#
# OUT gets at most eight files: results.tar.gz with every log and JSON file, written anew after each step; summary.txt
# with the last lines of each step; and the JSON files that say most. Steps run strictly one after another, because
# whatever runs beside a benchmark changes its figures. Every process that a step leaves behind is ended after it.
#
#   STEPS="chat flux"  only these, in this order        PYTHON=…          default: python3
#   TESTS="…" CHATS="…"  some tests for the step tests; some variants for the step chat, by parts of their names
#   TINY=1             tiny models, also on a CPU       SKIP_INSTALL=1    the libraries are there already
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:?usage: scripts/gpu_run.sh OUT [SECONDS] [WHEELS]}
until=$((SECONDS + ${2:-270}))
wheels=${3:-.whl}
python=${PYTHON:-python3}
steps=${STEPS:-check tests chat flux steps caching eight graphs served trace sampling attention vae pictures}
site=${SITE:-/tmp/site}
work=$(mktemp -d)
compiled=$(mktemp -d) # the compiler's cache, which a later step may read from an earlier one
tiny=() device=cuda
[[ -n ${TINY:-} ]] && tiny=(--tiny) device=cpu
mkdir -p "$out"
noise="Writing model shards\|should be kept in float32\|Unable to import .torchao\|^\[transformers\]\|^\[W"
noise+="\|, kernel [0-9]*x "

# The most seconds that each step gets.
declare -A limits=([check]=110 [tests]=90 [chat]=80 [flux]=95 [steps]=150 [caching]=70 [eight]=100 [graphs]=60 [zimage]=90
    [klein]=90 [sdxl]=80 [wan22]=80 [qwen]=100 [served]=130 [trace]=75 [sampling]=25 [attention]=40 [vae]=45
    [pictures]=110)

# Sets `command` for a step that is to begin no measurement after so many seconds.
define() {
    local name=$1 seconds=$2
    local steps=(benchmarks/step_times.py --seconds "$seconds" "${tiny[@]}")
    case $name in
    check) command=(scripts/gpu_check.py --parts facts server --budget "$seconds" "${tiny[@]}") ;;
    pictures) command=(scripts/gpu_check.py --parts pictures --budget "$seconds" "${tiny[@]}") ;;
    tests) command=(-m pytest -v -m gpu -p no:cacheprovider ${TESTS:-tests/gpu} -s) && return ;;
    chat)
        command=(benchmarks/chat_decode.py --variants "${CHATS:-}" --profile --seconds "$seconds" "${tiny[@]}")
        ;;
    flux) command=(benchmarks/compiled.py --family flux --cache "$compiled" --seconds "$seconds" "${tiny[@]}") ;;
    steps) command=("${steps[@]}" --lane-only --families zimage klein sdxl wan22) ;;
    caching)
        command=(benchmarks/step_caching.py --models flux --steps 28 --device "$device" --seconds "$seconds" "${tiny[@]}")
        ;;
    eight) command=(benchmarks/eight_bit.py --seconds "$seconds" "${tiny[@]}") ;;
    zimage | klein | sdxl | wan22 | qwen) command=("${steps[@]}" --families "$name") ;;
    served) command=(benchmarks/served.py --turns 3 --seconds "$seconds" "${tiny[@]}") ;;
    trace) command=(benchmarks/trace_steps.py --families flux chat --compiled --traces "$work" --seconds "$seconds" "${tiny[@]}") ;;
    sampling) command=(benchmarks/sampling.py --device "$device" --seconds 10) ;;
    vae) command=(benchmarks/vae_decode.py --seconds "$seconds" "${tiny[@]}") ;;
    graphs) command=(benchmarks/denoiser_graphs.py --seconds "$seconds" "${tiny[@]}") ;;
    attention) command=(benchmarks/attention_backends.py --seconds "$seconds" "${tiny[@]}") ;;
    esac
    command+=(--out "$work/$name.json")
}

# Ends what a step has left running. Its processes are known by a variable in their environment, because some of them
# are in sessions of their own.
end_step() {
    local environment
    for environment in /proc/[0-9]*/environ; do
        if grep -qsz "^GPU_RUN_STEP=$1$" "$environment"; then
            kill -KILL "$(basename "$(dirname "$environment")")" 2>/dev/null
        fi
    done
}

# What is there so far, to OUT, where a lent machine that is taken back has left it.
collect() {
    tar -czf "$out/results.new" -C "$work" . && mv "$out/results.new" "$out/results.tar.gz"
    cp "$work/summary.txt" "$out/"
    for name in check chat flux steps caching eight; do
        [[ -f $work/$name.json ]] && cp "$work/$name.json" "$out/"
    done
}

if [[ -z ${SKIP_INSTALL:-} ]]; then
    "$python" -m tarfile -e "$wheels/wheels.tar.xz" "$work" || exit 1
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$work"/wheels/*.whl || exit 1
    rm -r "$work/wheels"
    # Once and without warnings, which a test would take for errors; else every process compiles the libraries again.
    "$python" -W ignore -m compileall -q -j 0 "$site" >/dev/null 2>&1
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export TORCHINDUCTOR_CACHE_DIR=$compiled
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}:$PWD/scripts/without_ffmpeg PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
echo "installed, $((until - SECONDS)) s left" | tee "$work/summary.txt"

for step in $steps; do
    limit=${limits[$step]:?there is no step $step}
    left=$((until - SECONDS - 5))
    if ((left * 3 < limit * 2)); then # a part of the step would not tell much
        echo "== $step: skipped, $left s left" | tee -a "$work/summary.txt"
        continue
    fi
    ((limit = left < limit ? left : limit))
    define "$step" $((limit - 8)) # and then it writes its file and ends
    mark=$step-$$ began=$SECONDS
    GPU_RUN_STEP=$mark timeout --kill-after=3 "$limit" "$python" "${command[@]}" >"$work/$step.txt" 2>&1 </dev/null
    code=$?
    end_step "$mark"
    {
        echo "== $step: code $code, $((SECONDS - began)) s, $((until - SECONDS)) s left"
        grep -v "$noise" "$work/$step.txt" | tail -n 10 | cut -c -400
    } >>"$work/summary.txt"
    grep "^== $step:" "$work/summary.txt"
    collect
done
collect
echo
cat "$work/summary.txt"
rm -rf "$work" "$compiled"
