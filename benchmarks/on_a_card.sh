#!/bin/bash
# Runs harden_joint.py and audit.py side by side on one GPU, and stops after so many seconds.
# Call from the root of the repository: OUT=FOLDER bash benchmarks/on_a_card.sh SECONDS [NAME...]
# A NAME is a choice of harden_joint.py with _ for spaces, some-CHOICE for eight plants in place of
# 48, twin-CHOICE for the twin without half a, or one of audit-soft, audit-bounded, audit-rest.
# Without names, what is most wanted runs.
# The audit goes on from benchmarks/records/audit. OUT/records.tar.gz holds records and logs. It is
# renewed every 20 seconds, so little is lost if the call is cut off.
# CPU=1 tries it without a GPU: everything as small as can be.
set -u
seconds=$1
shift
names=("$@")
if ((${#names[@]} == 0)); then names=(shifted twin-shifted); fi
work=$(mktemp -d)
mkdir -p "$OUT" "$work/records/audit" "$work/logs"
cp benchmarks/records/audit/*.json "$work/records/audit/"
export PYTHONPATH=src:benchmarks${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
python=${PYTHON:-python3}
common=(--ordinary 300 --kept-images 500) audit=()
all=(--plants all "${common[@]}")
some=(--plants some --samples 4 --substitutes 64 "${common[@]}")
if [ -n "${CPU:-}" ]; then
    all=(--plants 15 --controls 2 --seeds 1 --images 2 --steps 2 --ordinary 4 --few 2 --looks 1
        --kept-images 4 --attack-steps 2 --most 20 --substitutes 2 --kept 2 --batch 8)
    some=("${all[@]}" --samples 2)
    audit=(--plants 1 --files 1 --ordinary 1 --images 2 --steps 2 --ladder 0 1)
    rm "$work"/records/audit/*.json
fi

# a checkout that is not installed has no version, which the package asks for
if ! "$python" -c "import importlib.metadata as m; m.version('unmemorize')" 2> /dev/null; then
    mkdir -p "$work/meta/unmemorize-0.dist-info"
    printf 'Metadata-Version: 2.1\nName: unmemorize\nVersion: 0\n' \
        > "$work/meta/unmemorize-0.dist-info/METADATA"
    export PYTHONPATH=$PYTHONPATH:$work/meta
fi

begin() { # NAME SCRIPT ARGUMENT...
    local name=$1 script=$2
    shift 2
    timeout --signal=KILL "$seconds" "$python" "benchmarks/$script.py" "$@" \
        --seconds $((seconds - 15)) --records "$work/records/${script/_/-}" \
        > "$work/logs/$name.log" 2>&1 &
    running+=($!)
}

collect() {
    tar --create --gzip --file "$OUT/records.new" --directory "$work" records logs 2> "$work/tar.log"
    mv "$OUT/records.new" "$OUT/records.tar.gz"
}

running=()
for name in "${names[@]}"; do
    case $name in
    audit-soft) begin "$name" audit --only L4 L4-imageless L4-long "${audit[@]}" ;;
    audit-bounded) begin "$name" audit --only L3 L0-L1 images "${audit[@]}" ;;
    audit-rest) begin "$name" audit --only L2-L5-L6 "${audit[@]}" ;;
    some-*)
        choice=${name#some-}
        begin "$name" harden_joint "${some[@]}" --choice "${choice//_/ }"
        ;;
    twin-*)
        choice=${name#twin-}
        begin "$name" harden_joint "${all[@]}" --half a --controls 24 --choice "${choice//_/ }"
        ;;
    *) begin "$name" harden_joint "${all[@]}" --choice "${name//_/ }" ;;
    esac
done

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
