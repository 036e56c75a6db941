"""Black-box classifiers: adapters that turn a model, a file or a function into ``images -> hard labels``."""

from maskrestore.classifiers.callable import CallableClassifier
from maskrestore.classifiers.counting import CountingClassifier
from maskrestore.classifiers.http import HttpClassifier
from maskrestore.classifiers.loading import as_classifier, load_classifier
from maskrestore.classifiers.module import ModuleClassifier
from maskrestore.classifiers.onnx import OnnxClassifier

__all__ = [
    "CallableClassifier",
    "CountingClassifier",
    "HttpClassifier",
    "ModuleClassifier",
    "OnnxClassifier",
    "as_classifier",
    "load_classifier",
]
