"""The same model online: HTTP requests in, the batch job's predictions out, on Ray Serve."""

import os

# As in the batch job: Ray's C++ code reads this when `ray` is imported, and would print between our lines.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

# Read by Serve in every process of a cluster that is started from here. Our handlers compute in their own
# thread, so Serve's additional threads would only add hops.
os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0")
# With RAY_SERVE_ENABLE_HA_PROXY=1, HAProxy's replicas would stay alive for half a minute.
os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "5")
