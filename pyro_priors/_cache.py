"""Where things are kept that can be made again."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``pyro_priors`` in the user's cache: in XDG_CACHE_HOME where that is set, else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyro_priors"
