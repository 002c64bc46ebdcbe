#!/usr/bin/env bash
# Install each domain's wheel with core's, and nothing else but what they ask for, into an empty environment; then use it.
#
#     scripts/check_install.sh [DOMAIN…]      audio, medical, nlp, point_clouds, remote_sensing; all by default
#
# Each environment holds torch and its libraries anew (minutes and gigabytes each, removed afterwards), so this runs on
# demand, not with every `make test`; tests/test_packaging.py checks on every run what can be told from the wheels.
# Versions are those of requirements.lock, which the tests ran with; LATEST=1 takes the newest of the registry.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
domains=("$@")
[ $# -gt 0 ] || domains=(audio medical nlp point_clouds remote_sensing)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

tool=$root/.venv/bin/python
[ -x "$tool" ] || { echo "run scripts/setup.sh first: it brings what builds wheels" >&2; exit 2; }
cp -r packages "$place/packages"
for package in core "${domains[@]}"; do
    "$tool" -m build --no-isolation --wheel --outdir "$place/wheels" "$place/packages/$package" >"$place/build.log" 2>&1 ||
        { cat "$place/build.log" >&2; exit 1; }
done
constraints=$place/constraints.txt
[ -z "${LATEST:-}" ] && sed -nE 's/^([A-Za-z0-9._-]+==[^ ;]+)( ;.*)? *\\?$/\1\2/p' requirements.lock |
    sed 's/ *\\$//' >"$constraints" || : >"$constraints"

# Train for two steps, then predict from what was trained or without weights: every import that daily use needs.
use() {
    local domain=$1 name=${1//_/-} data=$2 params=$3 model=$4 input=$5
    pentad "$name" prepare "$data" -o prepared --params "$params"
    case $model in
    threshold | differencing) ;;
    *)
        pentad "$name" train prepared/cases.jsonl --model "$model" -o bundle --run run --params "$params" --set steps=2
        pentad "$name" models show bundle >/dev/null
        model=bundle
        ;;
    esac
    pentad "$name" predict "$input" -o out --run first --model "$model" --dry-run
    pentad "$name" predict "$input" -o out --run first --model "$model" --quiet
    grep -q ',ok,' out/first/worklist.csv
    pentad "$name" models list >/dev/null
}

for domain in "${domains[@]}"; do
    began=$SECONDS
    work=$place/$domain
    "$python" -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --no-compile -c "$constraints" \
        "$place"/wheels/pentad_core-*.whl "$place"/wheels/pentad_"$domain"-*.whl
    installed=$((SECONDS - began))
    (
        export PATH=$work/venv/bin:$PATH HOME=$work/home
        unset XDG_CACHE_HOME PYTHONPATH
        mkdir -p "$HOME" && cd "$work"
        pip check
        pentad --help >/dev/null
        pentad "${domain//_/-}" --help >/dev/null
        pentad samples data
        case $domain in
        audio) use audio data/audio/sounds "$root/pipelines/sound_events/params.yaml" cnn data/audio/sounds ;;
        medical) use medical data/medical/liver "$root/pipelines/liver_seg/params.yaml" threshold \
            data/medical/liver/studies/liver-001 ;;
        nlp) use nlp data/nlp/entities "$root/pipelines/marathi_ner/params.yaml" crf data/nlp/entities ;;
        point_clouds) use point_clouds data/point_clouds/streets "$root/pipelines/lidar_detection/params.yaml" \
            point_pillars data/point_clouds/streets ;;
        remote_sensing) use remote_sensing data/remote_sensing/building_change \
            "$root/pipelines/building_change/params.yaml" differencing data/remote_sensing/building_change ;;
        esac
        pentad doctor
    ) >"$work/log" 2>&1 || { echo "pentad-$domain fails in an empty environment:" >&2; tail -40 "$work/log" >&2; exit 1; }
    tail -n 40 "$work/log" | sed -n '/^pentad-core /,$p'
    count=$("$work/venv/bin/pip" list --format freeze | wc -l)
    size=$(du -sm "$work/venv" | cut -f1)
    echo "pentad-$domain works: $count distributions, $size MB, installed in $installed s, all in $((SECONDS - began)) s"
    rm -rf "$work"
done
