"""The service of the serving tests, to be hurt."""

from tests.serving.conftest import serving

__all__ = ["serving"]
