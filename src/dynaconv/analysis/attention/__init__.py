"""What layers attend to: collected over images, summed up, drawn; and what happens if they attend otherwise."""

from dynaconv.analysis.attention.collect import collect_attention
from dynaconv.analysis.attention.maps import AttentionMap, AttentionMaps
from dynaconv.analysis.attention.perturb import PERTURBATIONS, perturbations_for, perturbed

__all__ = [
    "PERTURBATIONS",
    "AttentionMap",
    "AttentionMaps",
    "collect_attention",
    "perturbations_for",
    "perturbed",
]
