"""Pure functions on tensors: attention, mixing, and convolution with one kernel per sample."""

from dynaconv.ops.attention import ATTENTION_FUNCTIONS, attention_function, blend_with_assignment, contrasting
from dynaconv.ops.backends import BACKENDS, pinned_backend, use_backend
from dynaconv.ops.cost import Madds
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.layout import empty_cells, keeping_layout
from dynaconv.ops.low_rank import factorise, with_zero_cell
from dynaconv.ops.mixing import assemble_kernels, cut_kernel, mix_cells
from dynaconv.ops.mixture import Mixture
from dynaconv.ops.mixture_conv import mixture_conv, mixture_linear, scale_and_shift
from dynaconv.ops.native import native_status
from dynaconv.ops.per_sample_conv import per_sample_conv, static_conv
from dynaconv.ops.pooling import average

__all__ = [
    "ATTENTION_FUNCTIONS",
    "BACKENDS",
    "Geometry",
    "Madds",
    "Mixture",
    "assemble_kernels",
    "attention_function",
    "average",
    "blend_with_assignment",
    "contrasting",
    "cut_kernel",
    "empty_cells",
    "factorise",
    "keeping_layout",
    "mix_cells",
    "mixture_conv",
    "mixture_linear",
    "native_status",
    "per_sample_conv",
    "pinned_backend",
    "scale_and_shift",
    "static_conv",
    "use_backend",
    "with_zero_cell",
]
