"""Where work runs: local processes (``local``), or a batch system's nodes (``cluster``)."""

from potstill.engine.local import cores, each, end_with, end_worker, local_processes

__all__ = ["cores", "each", "end_with", "end_worker", "local_processes"]
