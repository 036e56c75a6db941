"""What a recorded result depends on, as digests: results with another digest are computed again."""

from __future__ import annotations

import glob
import sys
from pathlib import Path

from maskrestore.classifiers import ModuleClassifier
from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.streams import key_fingerprint
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.runtime.digests import digest_of_file, digest_of_json
from maskrestore.types import Classifier

__all__ = ["classifier_identity", "settings_digest"]


def classifier_identity(spec: str, classifier: Classifier, *options: object) -> str:
    """The name of a classifier with a digest of its files, its weights and its options.

    spec: as for :func:`maskrestore.classifiers.load_classifier`, which has loaded ``classifier`` from it. options: all
    else that its labels depend on, such as mean, std and device.

    Replacing the model behind the same name changes the digest. Of ``package.module:name`` the file of that module
    counts, and of a ``torch.nn.Module`` its weights as well; files that the module reads or imports do not. Nothing is
    known of a model behind an address: its address should name a version.
    """
    module = None if "://" in spec else sys.modules.get(spec.partition(":")[0])
    source = Path(getattr(module, "__file__", None) or spec)
    # A large ONNX model keeps its weights in files beside it, whose names begin with its own.
    files = sorted(source.parent.glob(f"{glob.escape(source.name)}*")) if source.suffix == ".onnx" else [source]
    contents = [digest_of_file(file) for file in files if file.is_file()]
    weights = weights_digest(classifier.module) if isinstance(classifier, ModuleClassifier) else None
    return f"{spec} ({digest_of_json([contents, weights, *map(repr, options)])})"


def settings_digest(defense: BDMAE, *more: object) -> str:
    """A digest of everything that a defense's results depend on, but the image and the classifier.

    That is its settings, its key, and its restorer: class, weights, number format and device. A restorer without an
    attribute ``weights_digest`` is identified by its class alone. more: other values of plain JSON types.
    """
    restorer = defense.restorer
    identity = [
        f"{type(restorer).__module__}.{type(restorer).__qualname__}",
        getattr(restorer, "weights_digest", None),
        getattr(restorer, "precision", None),
        str(getattr(restorer, "device", "cpu")),
    ]
    return digest_of_json([defense.config.to_dict(), key_fingerprint(defense.key), identity, *more])
