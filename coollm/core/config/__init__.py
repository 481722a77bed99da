"""The configuration: schema, loading with places, checks, origins."""

from coollm.core.config.load import Loaded, load, load_or_raise
from coollm.core.config.schema import Settings

__all__ = ["Loaded", "Settings", "load", "load_or_raise"]
