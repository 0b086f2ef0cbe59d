"""Conversion: select layers of any network, plan, and put dynamic ones in their place."""

from dynaconv.convert import kernel_warehouse as _kernel_warehouse  # registers its handler
from dynaconv.convert.convert import convert, draft_plan, plan
from dynaconv.convert.registry import register_method
from dynaconv.convert.select import Where, find_candidates, select_layers

__all__ = ["Where", "convert", "draft_plan", "find_candidates", "plan", "register_method", "select_layers"]

del _kernel_warehouse
