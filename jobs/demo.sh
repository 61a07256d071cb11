#!/usr/bin/env bash
# The whole story on real records: fetch, build the bundle, run the job, read the predictions. `make demo` and
# `mmray demo` call it; everything goes below the current directory.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '\n── %s\n' "$1"; }

data=data/tuxpaint bundle=bundles/stamps
say "records: Debian's stamps (pictures, captions, sounds) as WebDataset shards in $data"
if ! python "$root/datasets/tuxpaint.py" --output "$data"; then
  data=data/synthetic bundle=bundles/synthetic
  say "records: Debian's packages cannot be had here; making a synthetic set in $data instead"
  python "$root/datasets/synthetic.py" --output "$data"
fi

say "bundle: three real encoders and a trained head, fused into one graph, in $bundle"
env -u OMP_NUM_THREADS python "$root/jobs/build_bundle.py" --input "$data" --output "$bundle"

say "job: every record through the actors of a Ray cluster, predictions in runs/demo/parts"
mmray run "$root/jobs/configs/demo.yaml" --input "$data" --bundle "$bundle" --output runs/demo
echo "   The model was trained on the train shards among these, and is surer of them: so it may warn of drift."

say "the same job on the records of the test split, with their pictures alone"
mmray run "$root/jobs/configs/demo.yaml" --input "$data/test-*.tar" --bundle "$bundle" --output runs/demo-image \
  --set modalities=image

say "test split: all modalities beside the picture alone"
python "$root/jobs/held_out.py" --bundle "$bundle" --run all=runs/demo --run image=runs/demo-image
