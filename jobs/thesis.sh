#!/usr/bin/env bash
# The idea behind mmray on one page: other modalities make recognizing a picture faster and surer. From nothing it
# makes the emoji of four artists, encoders, three fusions, a teacher, a student, a pruned and an int8-trained
# model and a cascade, runs them all in the batch job over an artist that none has seen, and prints one table.
#
#     jobs/thesis.sh            an hour on two quiet cores; what is there is not made again
#     jobs/thesis.sh --folds    then teacher and student with each of the other artists as the unseen one: 50 minutes
#     jobs/thesis.sh --quick    a few records and one epoch: shows that all of it works, no figure; five minutes
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1

started=$SECONDS
say() { printf '\n── %s (%d min)\n' "$1" $(((SECONDS - started) / 60)); }

seeds='0 1 2' quick='' set=() optimized='late student-whole pruned image-small qat'
if [ "${1:-}" = --quick ]; then
  seeds=0 quick=yes optimized='student-whole qat' set=(--set epochs=1 --set least_records=5)
fi

use() { # SUFFIX: of the folders of records, bundles and trainings; the recipes for these folders
  local file
  data=data/emoji$1 bundles=bundles/thesis$1 runs=runs/thesis$1
  recipes=$runs/recipes
  mkdir -p "$recipes" "$bundles"
  for file in jobs/configs/train/*.yaml jobs/configs/thesis-*.yaml; do
    sed "s#data/emoji#$data#; s#runs/thesis#$runs#g; s#bundles/thesis#$bundles#g" "$file" >"$recipes/${file##*/}"
  done
}

all() { # NAME...: one after the other
  local name
  for name in "$@"; do train "$name"; done
}

train() { # NAME [RECIPE] [--set …]
  local name=$1 recipe=${2:-$1}
  shift $(($# > 1 ? 2 : 1))
  [ -f "$bundles/$name/manifest.json" ] && return
  mmray train "$recipes/$recipe.yaml" --work "$runs/$name" --output "$bundles/$name" \
    ${set[@]+"${set[@]}"} "$@" | sed -u "s/^/$name  /"
}

published_and_sound() { # what there is before anything is trained: published encoders at 224 pixels, a linear head
  if [ -z "$quick" ] && [ ! -f "$bundles/published/manifest.json" ]; then
    python jobs/build_bundle.py --input "$data" --output "$bundles/published"
  fi
  train sound
}

together() { # COMMAND COMMAND: two of them at once, a core each
  local command pids=()
  say "${*%% --set*}"
  for command in "$@"; do
    $command &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
}

optimize() { # NAME [RECIPE]: int8, and a cascade of it
  [[ " $optimized " != *" $1 "* || -f "$bundles/$1-optimized/manifest.json" ]] && return
  say "int8 and cascade of $1"
  # Exit 1 says that no variant passed; the bundle is there all the same, and a missing variant is told below.
  mmray optimize "$bundles/$1" --recipe "$recipes/thesis-${2:-optimize}.yaml" --output "$bundles/$1-optimized" || true
}

fold() { # ARTIST: the same, with another unseen artist
  use "-$1"
  [ -f "$data/dataset.json" ] || python datasets/emoji.py --fold "$1" --output "$data" | sed -u "s/^/$1  /"
  all sound image image-small late
  train student-0 student
  train student-whole
}

use "${quick:+-quick}"
say "records: four artists' emoji, a keyword and a spoken word each, in $data"
[ -f data/emoji/dataset.json ] || python datasets/emoji.py
if [ "$quick" ]; then
  mkdir -p "$data"
  cp data/emoji/{train-00000[07],tune-000000,test-000000}.tar "$data"
fi

together 'published_and_sound' 'train image'
together 'all image-small late intermediate' 'all pruned early'
for seed in $seeds; do
  together "train student-$seed student --set seed=$seed" \
    "train logits-$seed student --set seed=$seed --set distil.features=0"
done
together 'train student-whole' 'optimize late'
together 'train qat' 'optimize student-whole'
together 'optimize pruned' 'optimize image-small'
optimize qat qat

contenders=()
enter() { # BUNDLE VARIANT [MODALITIES], unless it was not made or did not pass
  if [ ! -e "$bundles/$1" ]; then
    return
  elif python -c 'import json, sys; sys.exit(sys.argv[2] not in json.load(open(sys.argv[1]))["variants"])' \
    "$bundles/$1/manifest.json" "$2"; then
    contenders+=("$bundles/$1:$2${3:+:$3}")
  else
    printf '   %s has no variant %s: it did not pass\n' "$1" "$2"
  fi
}

say "the batch job on an artist that none of them has seen"
enter late fp32
enter late-optimized int8-best
enter late-optimized int8-best image+text
enter late fp32 image+text
enter published fp32
enter intermediate fp32
enter early fp32
enter image fp32
enter pruned fp32
enter pruned-optimized int8-best
enter image-small-optimized int8-best
enter student-whole fp32
enter student-whole-optimized int8-best
enter student-whole-optimized int8-best image+text
enter student-whole-optimized cascade
enter qat-optimized int8-qat
enter qat-optimized int8-static
if [ "$quick" ]; then contenders=("${contenders[@]::1}" "${contenders[@]: -1}"); fi
python jobs/bench variants --input "$data" --copies 1 --rounds 1 --seconds "$([ "$quick" ] && echo 1 || echo 30)" \
  --plot "$runs/table.png" "${contenders[@]}"

say "a student that learns the teacher's features too, and one that learns its scores alone"
of() { for seed in $seeds; do printf '%s' "$bundles/$1-$seed,"; done | sed 's/,$//'; }
python jobs/bench seeds --input "$data" --one "$(of student)" --other "$(of logits)"

if [ "${1:-}" = --folds ]; then
  together 'fold apple' 'fold facebook'
  say 'fold google'
  (OMP_NUM_THREADS=2 fold google)
  say "the student against its teacher, on each artist as the unseen one"
  folds() { printf "%s," "$1${2:-}" "$1-apple${2:-}" "$1-facebook${2:-}" "$1-google${2:-}" | sed 's/,$//'; }
  python jobs/bench seeds --input "$(folds data/emoji)" \
    --one "$(folds bundles/thesis /student-whole:fp32:image+text)" --other "$(folds bundles/thesis /late)"
fi

say "all of it"
