#!/bin/bash
# Runs the parts of compare.py side by side on one GPU, and stops after so many seconds.
# Call from the root of the repository:
#     OUT=FOLDER bash benchmarks/compare_on_a_card.sh SECONDS [OPTION ...]
# OUT/compare.tar.gz holds records and logs. It is renewed every 20 seconds, so little is lost if
# the call is cut off. OPTIONs go to all parts, such as --images 4 --null-images 19 for a trial.
# PARTS="greedy esd" measures some of the parts below; by default it is all of them.
set -u
seconds=$1
shift
options=("$@")
work=$(mktemp -d)
mkdir -p "$OUT" "$work/compare" "$work/logs"
export PYTHONPATH=src:benchmarks${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python=${PYTHON:-python3}

# a checkout that is not installed has no version, which the package asks for
if ! $python -c "import importlib.metadata as m; m.version('unmemorize')" 2> /dev/null; then
    mkdir -p "$work/meta/unmemorize-0.dist-info"
    printf 'Metadata-Version: 2.1\nName: unmemorize\nVersion: 0\n' \
        > "$work/meta/unmemorize-0.dist-info/METADATA"
    export PYTHONPATH=$PYTHONPATH:$work/meta
fi

measure() { # PART ARGUMENT...; PART also names the log and the run folder
    local part=$1 left=$((seconds - SECONDS))
    shift
    ((left > 20)) || return # a timeout of 0 would be none
    timeout --signal=KILL "$left" $python benchmarks/compare.py --records "$work/compare" \
        "$@" "${options[@]}" --run "$work/runs/$part" --seconds $((left - 15)) \
        > "$work/logs/$part.log" 2>&1
}

wanted() { # PART
    [[ -z ${PARTS:-} || " $PARTS " == *" $1 "* ]]
}

apart() { # PART ARGUMENT...
    wanted "$1" || return
    measure "$@" &
    running+=($!)
}

drawn() { # PART METHOD...
    local part=$1
    shift
    wanted "$part" || return
    cp -r "$work/runs/unedited" "$work/runs/$part"
    apart "$part" --only "$@"
}

collect() {
    tar --create --gzip --file "$OUT/compare.new" --directory "$work" compare logs 2> "$work/tar.log"
    mv "$OUT/compare.new" "$OUT/compare.tar.gz"
}

mkdir -p "$work/runs"
running=()
apart step-detectors --captions 1000 --only late-noise-magnitude seed-similarity \
    noise-magnitude dsm layer-entropy white-box anisotropy hessian-difference sharpness
# A whole run takes 98 to 131 samples a prompt: with 500 captions of each part and 48 plants, these
# four take 450,000 samples, and the nine above about as many passes as 200,000.
apart run-detectors --captions 500 --only bright-ending attention-entropy score-difference
apart curvature --captions 500 --only curvature
# Training and long optimization take every few plants, in run folders of their own.
apart siss --every 6 --only siss
apart esd --every 6 --only esd
apart noise-sample --every 2 --only noise-sample
# All others share the unedited images, which one of them draws first.
measure unedited --only random-tokens=4 --records "$work/unused"
drawn neurons neurons
drawn greedy neurons-greedy
drawn bisect neurons-bisect
drawn edits closed-form wanda
drawn text embedding random-tokens pads repad attention
drawn guidance guard attenuation dynamic-guidance opposite-dynamic
drawn noise noise-batch delayed-guidance static-guidance opposite-guidance

ending=$seconds
while ((SECONDS < ending)); do
    sleep $((ending - SECONDS < 20 ? ending - SECONDS : 20))
    collect
    alive=0
    for pid in "${running[@]}"; do kill -0 "$pid" 2> /dev/null && alive=1; done
    if ((!alive)); then break; fi
done
wait 2> /dev/null
collect
tail -n 3 "$work"/logs/*.log
