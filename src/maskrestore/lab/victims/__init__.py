"""The classifiers under attack (victims): networks, training and cache."""

from maskrestore.lab.victims.architectures import ARCHITECTURES
from maskrestore.lab.victims.augment import Augmentation
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.fit import TrainingProgress
from maskrestore.lab.victims.network import VictimNetwork
from maskrestore.lab.victims.packaged import (
    PACKAGED,
    PackagedVictim,
    export_victim,
    load_packaged_victim,
    read_feature_extractor,
)
from maskrestore.lab.victims.plain import VGG16, Conv6
from maskrestore.lab.victims.poisoning import Restoration
from maskrestore.lab.victims.recipe import Recipe, default_recipe
from maskrestore.lab.victims.resnet import ResNet18, ResNet50
from maskrestore.lab.victims.small_vit import ViTSmall
from maskrestore.lab.victims.starts import STARTS
from maskrestore.lab.victims.store import cache_folder, load_victim, read_victim_record, trigger_path, victim_path
from maskrestore.lab.victims.train import VictimData, measure, train_victim, untrained_attack, victim_attack

__all__ = [
    "ARCHITECTURES",
    "PACKAGED",
    "STARTS",
    "VGG16",
    "Augmentation",
    "Conv6",
    "PackagedVictim",
    "Recipe",
    "ResNet18",
    "ResNet50",
    "Restoration",
    "TrainingProgress",
    "ViTSmall",
    "VictimConfig",
    "VictimData",
    "VictimNetwork",
    "cache_folder",
    "default_recipe",
    "export_victim",
    "load_packaged_victim",
    "load_victim",
    "measure",
    "read_feature_extractor",
    "read_victim_record",
    "train_victim",
    "trigger_path",
    "untrained_attack",
    "victim_attack",
    "victim_path",
]
