"""maskrestore: shield an untrusted image classifier against backdoors at test time.

>>> import maskrestore
>>> shielded = maskrestore.protect(classifier, key="a secret of yours")  # doctest: +SKIP
>>> labels = shielded(images)  # doctest: +SKIP

``classifier`` is anything that maps ``(B, C, H, W)`` images in [0, 1] to ``(B,)`` hard labels. The method is BDMAE
("Mask and Restore"): see ``maskrestore.defense`` for its stages, :class:`Purification` for what it returns.
"""

import maskrestore.runtime.openmp  # noqa: F401 - before anything that loads PyTorch

# isort: split
from maskrestore import errors
from maskrestore.classifiers import (
    CallableClassifier,
    CountingClassifier,
    HttpClassifier,
    ModuleClassifier,
    OnnxClassifier,
    load_classifier,
)
from maskrestore.defense import ABSTAINED, BDMAE, PROFILES, BDMAEConfig, fast, protect, within
from maskrestore.imaging.codec import read_image, write_png
from maskrestore.imaging.views import View
from maskrestore.mae.choice import load_restorer
from maskrestore.mae.restorer import MAERestorer
from maskrestore.runtime.settings import with_settings
from maskrestore.types import Classifier, Defense, Purification, Restorer, StreamItem, StreamResult

__version__ = "0.1.0"

__all__ = [
    "ABSTAINED",
    "BDMAE",
    "PROFILES",
    "BDMAEConfig",
    "CallableClassifier",
    "Classifier",
    "CountingClassifier",
    "Defense",
    "HttpClassifier",
    "MAERestorer",
    "ModuleClassifier",
    "OnnxClassifier",
    "Purification",
    "Restorer",
    "StreamItem",
    "StreamResult",
    "View",
    "errors",
    "fast",
    "load_classifier",
    "load_restorer",
    "protect",
    "read_image",
    "with_settings",
    "within",
    "write_png",
]
