#!/bin/bash
# Runs the parts of harden.py and audit.py side by side on one GPU, and stops after so many seconds.
# Call from the root of the repository: OUT=FOLDER bash benchmarks/on_a_card.sh SECONDS
# OUT/records.tar.gz holds records and logs. It is renewed every 20 seconds, so little is lost if
# the call is cut off.
set -u
seconds=$1
work=$(mktemp -d)
mkdir -p "$OUT" "$work/records" "$work/logs"
export PYTHONPATH=src:benchmarks${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=3 PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

# a checkout that is not installed has no version, which the package asks for
if ! python3 -c "import importlib.metadata as m; m.version('unmemorize')" 2> /dev/null; then
    mkdir -p "$work/meta/unmemorize-0.dist-info"
    printf 'Metadata-Version: 2.1\nName: unmemorize\nVersion: 0\n' \
        > "$work/meta/unmemorize-0.dist-info/METADATA"
    export PYTHONPATH=$PYTHONPATH:$work/meta
fi

begin() { # NAME SCRIPT ARGUMENT...
    local name=$1 script=$2
    shift 2
    timeout --signal=KILL "$seconds" python3 "benchmarks/$script.py" "$@" \
        --seconds $((seconds - 12)) --records "$work/records/$script" \
        > "$work/logs/$name.log" 2>&1 &
    running+=($!)
}

collect() {
    tar --create --gzip --file "$OUT/records.new" --directory "$work" records logs 2> "$work/tar.log"
    mv "$OUT/records.new" "$OUT/records.tar.gz"
}

running=()
begin all harden --plants all --controls 20 --choices "for all"
begin all-half harden --plants all --controls 20 --choices "for all, half rate"
begin some harden --plants some --controls 20 --seeds 1 --choices \
    "best" "best, from captions" "best, distillation" "best, substitutes" "best, cross-attention" \
    "best, LoRA of rank 32" "best, up blocks" "best, half rate" "best, double rate" \
    "published objective" "best, 36 rounds" "best, middle block" "best, down blocks" \
    "best, 9 rounds" "best, 8 kept" "best, 64 kept images" "best, without settling" \
    "distillation" "best, LoRA of rank 8"
begin free audit --only L4 L4-long
begin images audit --only images L3
begin levels audit --only L0-L1 L4-imageless L2-L5-L6

ending=$((SECONDS + seconds))
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
