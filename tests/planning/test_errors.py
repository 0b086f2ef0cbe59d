"""Requests that can not be met say which layer, which sizes, and what would work."""

import pytest

from dynaconv import DynaconvError, KernelWarehouseConfig
from dynaconv.convert import config_from_dict
from dynaconv.errors import PlanError
from dynaconv.planning import make_plan
from tests.planning.test_structure import RESNET, conv


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": 0}, "budget=0 is out of range"),
        ({"budget": "much"}, "budget='much'"),
        ({"cell_scale": 1.5}, "cell_scale=1.5"),
        ({"cell_scale": (1, 1, 1)}, "expected one number or a pair"),
        ({"partition": "half"}, "partition='half' is not known; expected one of 'full'"),
        ({"sharing": "galaxy"}, "sharing='galaxy'"),
        ({"sharing": 3}, "sharing is a int"),
        ({"assignment": "random"}, "assignment='random'"),
        ({"attention": "tanh"}, "attention='tanh'"),
        ({"norm": "group"}, "norm='group'"),
        ({"reduction": 2}, "reduction=2"),
        ({"stage_splits": {0: 0}}, "stage_splits"),
        ({"overrides": {"stage0*": {"sharing": "layer"}}}, "only .*budget.* may differ"),
        ({"overrides": {"stage0*": {"budget": -1}}}, "budget=-1"),
    ],
)
def test_config_values(values, message):
    with pytest.raises(DynaconvError, match=message):
        KernelWarehouseConfig(**values)


def test_config_goes_through_a_dictionary():
    config = KernelWarehouseConfig(
        budget=0.5, cell_scale=(1, 0.5), stage_splits={2: 3}, overrides={"a*": {"budget": 1}}
    )
    assert config_from_dict(config.to_dict()) == config
    with pytest.raises(DynaconvError, match=r"unknown fields \['budgets'\]"):
        config_from_dict({"budgets": 1})
    with pytest.raises(DynaconvError, match="method='magic'"):
        config_from_dict({"method": "magic"})
    with pytest.raises(DynaconvError, match="a file can not hold"):
        KernelWarehouseConfig(sharing=lambda spec: "all").to_dict()


@pytest.mark.parametrize(
    ("specs", "config", "message"),
    [
        (
            [conv("a", 64, 64)],
            {"cell_scale": 0.3},
            r"\(19, 19, 1, 1\) do not tile the kernel of 'a', shape \(64, 64, 3, 3\)",
        ),
        (
            RESNET,
            {"partition": "channel", "sharing": {"*": "one"}},
            "'stem' has kernel .* need equal kernel sizes",
        ),
        (RESNET, {"partition": "none", "sharing": {"*": "one"}}, "need equal shapes"),
        (RESNET, {"sharing": {"layer1.*": "one"}}, "names no warehouse for the selected layers"),
        (RESNET, {"sharing": {"*": "one", "layer9.*": "two"}}, r"not selected: \['layer9"),
        (RESNET, {"sharing": lambda spec: None}, "names no warehouse"),
        (RESNET, {"sharing": "none", "budget": 0.5}, "every mixture its own cells"),
        (RESNET, {"stage_splits": {7: 2}}, r"stages \[7\]; this network has stages 0 to 1"),
        (RESNET, {"stage_splits": {1: 5}}, "5 runs of stage 1, which has 2 blocks"),
        (RESNET, {"overrides": {"stage9*": {"budget": 1}}}, r"do not exist: \['stage9\*'\]; this plan has"),
        (RESNET, {"sharing": lambda s: "a.b" if "1" in s.name else "a_b"}, "differ only in punctuation"),
    ],
)
def test_plans(specs, config, message):
    with pytest.raises(PlanError, match=message):
        make_plan(specs, KernelWarehouseConfig(**config))


def test_a_plan_warns_when_branches_outweigh_kernels():
    note = make_plan(RESNET, KernelWarehouseConfig()).notes[0]
    assert "branches weigh more than the kernels" in note
    assert "cell_scale" in note
    assert not make_plan([conv("a", 512, 512)], KernelWarehouseConfig()).notes


def test_a_plan_tells_of_layers_that_start_empty():
    specs = [conv(str(i), 64, 64, 1) for i in range(5)]
    notes = make_plan(specs, KernelWarehouseConfig(budget=0.25, cell_scale=1, sharing={"*": "one"})).notes
    assert any("start as zero" in note for note in notes)
