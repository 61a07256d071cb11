"""The batch job: survey, plan, read, preprocess, infer, write, audit."""

import os

# Ray's C++ half reads this when `ray` is imported and would print into our display; its errors reach us as
# exceptions anyway. Set RAY_BACKEND_LOG_LEVEL yourself to see them.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
