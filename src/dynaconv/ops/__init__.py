"""Pure functions on tensors: attention, mixing, and convolution with one kernel per sample."""

from dynaconv.ops.attention import ATTENTION_FUNCTIONS, blend_with_assignment, contrasting
from dynaconv.ops.cost import Madds
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixing import assemble_kernels, mix_cells
from dynaconv.ops.mixture_conv import mixture_conv, mixture_linear
from dynaconv.ops.per_sample_conv import per_sample_conv, static_conv

__all__ = [
    "ATTENTION_FUNCTIONS",
    "Geometry",
    "Madds",
    "assemble_kernels",
    "blend_with_assignment",
    "contrasting",
    "mix_cells",
    "mixture_conv",
    "mixture_linear",
    "per_sample_conv",
    "static_conv",
]
