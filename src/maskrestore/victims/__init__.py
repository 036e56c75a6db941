"""The classifiers under attack: networks, their training, and the cache that keeps them."""

from maskrestore.victims.architectures import ARCHITECTURES
from maskrestore.victims.augment import Augmentation
from maskrestore.victims.config import Recipe, VictimConfig, default_recipe
from maskrestore.victims.network import VictimNetwork
from maskrestore.victims.packaged import (
    PACKAGED,
    PackagedVictim,
    export_victim,
    load_packaged_victim,
    read_feature_extractor,
)
from maskrestore.victims.plain import VGG16, Conv6
from maskrestore.victims.poisoning import Restoration
from maskrestore.victims.resnet import ResNet18, ResNet50
from maskrestore.victims.starts import STARTS
from maskrestore.victims.store import cache_folder, load_victim, read_record, trigger_path, victim_path
from maskrestore.victims.train import VictimData, measure, train_victim, untrained_attack, victim_attack
from maskrestore.victims.training import TrainingProgress
from maskrestore.victims.vit import ViTSmall

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
    "read_record",
    "train_victim",
    "trigger_path",
    "untrained_attack",
    "victim_attack",
    "victim_path",
]
