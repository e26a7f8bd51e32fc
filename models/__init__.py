"""The zoo, generative half: one file per family, each a Pyro program for p(x, z), or p(x, z | condition).

The folder ``models/`` of the repository is installed as ``pyro_priors.models``. The inference half of each
pair is in the file of the same name in :mod:`pyro_priors.guides`.
"""

if __name__ != "pyro_priors.models":
    raise ImportError(
        f"this folder is the package pyro_priors.models, but was imported as {__name__}, which would give a "
        "second copy of each class: install the project (pip install -e .), then `import pyro_priors.models`"
    )

from .cp_vae import CPVAE  # noqa: E402
from .cvae import CVAE  # noqa: E402
from .hvae import HVAE  # noqa: E402
from .vae import VAE  # noqa: E402

__all__ = ["CPVAE", "CVAE", "HVAE", "VAE"]
