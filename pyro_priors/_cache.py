"""Where things are kept that can be made again."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``pyro_priors`` in the user's cache: in XDG_CACHE_HOME where that is set (to an absolute path, as the XDG Base
    Directory Specification has it), else in ``~/.cache``."""
    found = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (found if found.is_absolute() else Path("~/.cache").expanduser()) / "pyro_priors"
