"""The zoo, inference half: one file per family, each a Pyro program for q(z | x), or q(z | x, condition).

The folder ``guides/`` of the repository is installed as ``pyro_priors.guides``. The generative half of each
pair is in the file of the same name in :mod:`pyro_priors.models`.
"""

if __name__ != "pyro_priors.guides":
    raise ImportError(
        f"this folder is the package pyro_priors.guides, but was imported as {__name__}, which would give a "
        "second copy of each class: install the project (pip install -e .), then `import pyro_priors.guides`"
    )

from .cp_vae import CPVAEGuide  # noqa: E402
from .cvae import CVAEGuide  # noqa: E402
from .hvae import HVAEGuide  # noqa: E402
from .vae import VAEGuide  # noqa: E402

__all__ = ["CPVAEGuide", "CVAEGuide", "HVAEGuide", "VAEGuide"]
