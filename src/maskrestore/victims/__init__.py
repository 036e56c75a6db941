"""The classifiers under attack: networks, their training, and the cache that keeps them."""

from maskrestore.victims.augment import Augmentation
from maskrestore.victims.config import Recipe, VictimConfig, default_recipe
from maskrestore.victims.packaged import (
    PACKAGED,
    PackagedVictim,
    export_victim,
    load_packaged_victim,
    read_feature_extractor,
)
from maskrestore.victims.resnet import ResNet18
from maskrestore.victims.store import cache_folder, load_victim, read_record, victim_path
from maskrestore.victims.train import VictimData, measure, train_victim, victim_attack
from maskrestore.victims.training import TrainingProgress

__all__ = [
    "PACKAGED",
    "Augmentation",
    "PackagedVictim",
    "Recipe",
    "ResNet18",
    "TrainingProgress",
    "VictimConfig",
    "VictimData",
    "cache_folder",
    "default_recipe",
    "export_victim",
    "load_packaged_victim",
    "load_victim",
    "measure",
    "read_feature_extractor",
    "read_record",
    "train_victim",
    "victim_attack",
    "victim_path",
]
