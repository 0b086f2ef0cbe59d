"""Compiled CPU kernels: mix a block of a sample's kernel in the cache, convolve with it there, forget it."""

from dynaconv.ops.native.branch import branch, branch_supports, describe_branch
from dynaconv.ops.native.build import native_status
from dynaconv.ops.native.calls import convolve, convolve_backward
from dynaconv.ops.native.depthwise import depthwise_conv
from dynaconv.ops.native.scaled import scaled_convolve
from dynaconv.ops.native.support import supports

__all__ = [
    "branch",
    "branch_supports",
    "convolve",
    "convolve_backward",
    "depthwise_conv",
    "describe_branch",
    "native_status",
    "scaled_convolve",
    "supports",
]
