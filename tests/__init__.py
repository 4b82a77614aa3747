"""The tests; every process that imports one of them runs against the kernels that `kernels` chooses."""

import tests.kernels  # noqa: F401
