#!/usr/bin/env bash
# The idea behind mmray on one page: other modalities make recognizing a picture faster and surer. From nothing it
# makes the emoji of four artists, encoders, three fusions, a teacher, a student, a pruned and an int8-trained
# model and a cascade, runs them all in the batch job over an artist that none has seen, and prints one table.
#
#     jobs/thesis.sh            what is there already is not made again; not yet timed as a whole
#     jobs/thesis.sh --quick    a few records and one epoch: shows that all of it works, no figure
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

say() { printf '\n── %s\n' "$1"; }

data=data/emoji bundles=bundles/thesis runs=runs/thesis rounds=2 set=()
if [ "${1:-}" = --quick ]; then
  data=data/emoji-quick bundles=bundles/thesis-quick runs=runs/thesis-quick rounds=1
  set=(--set epochs=1 --set least_records=5)
fi
recipes=$runs/recipes
mkdir -p "$recipes" "$bundles"
for file in jobs/configs/train/*.yaml jobs/configs/thesis-*.yaml; do
  sed "s#data/emoji#$data#; s#runs/thesis#$runs#g; s#bundles/thesis#$bundles#g" "$file" >"$recipes/${file##*/}"
done

train() { # NAME [RECIPE] [--set …]
  local name=$1 recipe=${2:-$1}
  shift $(($# > 1 ? 2 : 1))
  [ -f "$bundles/$name/manifest.json" ] && return
  say "training $name"
  mmray train "$recipes/$recipe.yaml" --work "$runs/$name" --output "$bundles/$name" \
    ${set[@]+"${set[@]}"} "$@"
}

optimize() { # NAME [RECIPE]: int8, and a cascade of it
  [ -f "$bundles/$1-optimized/manifest.json" ] && return
  say "int8 and cascade of $1"
  # Exit 1 says that no variant passed; the bundle is there all the same, and a missing variant is told below.
  mmray optimize "$bundles/$1" --recipe "$recipes/thesis-${2:-optimize}.yaml" --output "$bundles/$1-optimized" || true
}

say "records: four artists' emoji, a keyword and a spoken word each, in $data"
[ -f data/emoji/dataset.json ] || python datasets/emoji.py
if [ "$data" != data/emoji ]; then
  mkdir -p "$data"
  cp data/emoji/{train-00000[07],tune-000000,test-000000}.tar "$data"
fi

train sound
train image
train image-large
train teacher-late
train teacher-intermediate
train early
for seed in 0 1 2; do
  suffix=$([ "$seed" = 0 ] || echo "-$seed")
  train "student$suffix" student --set "seed=$seed"
  train "student-logits$suffix" student --set "seed=$seed" --set distil.features=0
done
train pruned
train qat
optimize teacher-intermediate
optimize student
optimize qat qat
optimize pruned

say "the batch job on an artist that none of them has seen"
teacher=$bundles/teacher-intermediate student=$bundles/student-optimized
python jobs/bench_variants.py --input "$data" --copies 1 --rounds "$rounds" \
  "$teacher:fp32" "$teacher:fp32:image" "$bundles/teacher-late:fp32" "$bundles/early:fp32" \
  "$teacher-optimized:int8-best" "$teacher-optimized:cascade" \
  "$student:fp32" "$student:fp32:image" "$student:int8-best" "$student:cascade" \
  "$bundles/qat-optimized:int8-qat" "$bundles/pruned:fp32" "$bundles/image:fp32"
