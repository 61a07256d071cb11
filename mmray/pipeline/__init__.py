"""The batch job: survey, plan, read, preprocess, infer, write, audit."""

import os

# Ray's C++ code reads this when `ray` is imported; its logs would break our display, and its errors reach us
# as exceptions anyway. Set RAY_BACKEND_LOG_LEVEL yourself to see the logs.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
