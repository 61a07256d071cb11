"""Run a bundle over a mountain of records on a Ray cluster.

    ray job submit --working-dir . -- python jobs/batch_infer.py jobs/configs/batch.yaml \
        --input 's3://my-bucket/shards/train-{000000..000999}.tar' --bundle /mnt/bundles/stamps \
        --output /mnt/runs/today

Takes what `mmray run` takes; paths must be visible from every node, so give absolute ones. Expected: the
closing table with `rows = predicted + rejected`, `audit clean`, exit code 0, and Parquet in OUTPUT/parts.
Submitting the same line again resumes what is unfinished. With token authentication (Ray's default since
2.60), run `ray get-auth-token --generate` once and set RAY_AUTH_MODE=token on both sides.
"""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
