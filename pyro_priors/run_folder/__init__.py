"""A run folder: everything that is needed to rebuild, resume and cite one training.

::

    runs/NAME/  config.json  pair/ (safetensors + JSON)  last/ (resume state)
                metrics.jsonl  evaluation.json  figures/*.png
                evaluation-PART-seedN.json (earlier evaluations of other parts and seeds)
                examples/SPLIT-seedN.json (values per example, and the safetensors file that it names)
                evaluation-damaged-DIGEST.json  metrics.damaged.jsonl (unreadable content, set aside)
                evaluation-PART-seedN-WEIGHTS.json (of a pair that was replaced while it was evaluated)
                .lock, .evaluation.lock, pair/.pair.lock, last/.state.lock (empty)

A folder has one place for a pair, which :func:`save_pair` and :func:`find_pair` use. In a run folder this place is
``pair/``. Any other folder contains ``pair.json`` itself.

A folder may come from a stranger. Only regular files in the folder are read, and their content is checked against a
schema and a checksum (:mod:`pyro_priors._records`). A checksum detects accidents; it is not a signature.
"""

from .evaluations import SavedEvaluation
from .folder import RunFolder, find_pair, save_pair
from .options import MAY_CHANGE
from .state import ResumeState

__all__ = ["MAY_CHANGE", "ResumeState", "RunFolder", "SavedEvaluation", "find_pair", "save_pair"]
