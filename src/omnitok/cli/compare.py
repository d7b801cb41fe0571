"""`omnitok compare`: the same as `omnitok evaluate compare`."""

from omnitok.cli.evaluate import Compare

__all__ = ["Compare"]
