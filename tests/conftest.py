"""How hypothesis searches, in every room of the tests."""

import os

from hypothesis import HealthCheck, settings

# A busy machine is no failure: nothing here depends on how long an example takes.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")
