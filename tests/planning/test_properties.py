"""Properties that hold for any request: cells tile, n = b m_t, beta one-hot, no cell given twice."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dynaconv
from dynaconv import KernelWarehouseConfig
from dynaconv.errors import DynaconvError, PlanError
from dynaconv.planning import LayerSpec, assign, cell_grid, cell_shape, make_plan, warehouse_size

budgets = st.one_of(st.sampled_from([0.25, 0.5, 1, 2, 4]), st.floats(0.1, 6, allow_nan=False))
mixtures = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@st.composite
def sharing_layers(draw):
    unit_out, unit_in = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    specs = []
    for index in range(draw(st.integers(1, 5))):
        groups = draw(st.sampled_from([1, 1, 2]))
        kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 5)]))
        specs.append(
            LayerSpec(
                name=f"layer{index}",
                in_channels=unit_in * draw(st.integers(1, 4)) * groups,
                out_channels=unit_out * draw(st.integers(1, 4)) * groups,
                kernel_size=kernel,
                stride=(1, 1),
                groups=groups,
            )
        )
    return specs


@given(sharing_layers(), st.sampled_from([1.0, 0.5, 0.25]))
def test_cells_tile_every_kernel_exactly(specs, scale):
    cell = cell_shape(specs, scale=(scale, scale))
    for spec in specs:
        try:
            grid = cell_grid(spec, cell)
        except PlanError:
            # Only a scale that makes no divisor of the gcd may fail, never the gcd itself.
            assert scale < 1
            continue
        assert grid.num_mixtures * math.prod(cell) == spec.kernel_parameters


def test_cells_are_halved_below_one_as_in_the_paper_where_they_can_be():
    even = LayerSpec(name="even", in_channels=96, out_channels=128, kernel_size=(3, 3), stride=(1, 1))
    odd = LayerSpec(name="odd", in_channels=99, out_channels=128, kernel_size=(3, 3), stride=(1, 1))
    shapes = {
        (spec.name, budget): make_plan([spec], KernelWarehouseConfig(budget=budget)).warehouses[0].cell_shape
        for spec in (even, odd)
        for budget in (0.5, 1)
    }
    assert shapes == {
        ("even", 1): (128, 96, 1, 1),
        ("even", 0.5): (64, 48, 1, 1),
        ("odd", 1): (128, 99, 1, 1),
        ("odd", 0.5): (64, 99, 1, 1),
    }


def test_cells_are_not_halved_where_branches_would_eat_the_saving():
    narrow = LayerSpec(name="narrow", in_channels=8, out_channels=8, kernel_size=(3, 3), stride=(1, 1))
    plan = make_plan([narrow], KernelWarehouseConfig(budget=0.5))
    assert plan.warehouses[0].cell_shape == (8, 8, 1, 1)
    assert plan.config.cell_scale is None
    assert make_plan([narrow], KernelWarehouseConfig(budget=0.5, cell_scale=0.5)).warehouses[0].cell_shape == (
        4,
        4,
        1,
        1,
    )


@given(mixtures, budgets)
def test_one_to_one_gives_every_cell_at_most_once(counts, budget):
    n = warehouse_size(budget, sum(counts))
    owned = assign(counts, n, budget)
    given_cells = [row[0] for part in owned for row in part.rows if row != (n,)]
    assert all(len(row) == 1 and 0 <= row[0] <= n for part in owned for row in part.rows)
    assert len(set(given_cells)) == len(given_cells)
    assert [len(part.rows) for part in owned] == counts
    if budget >= 1:
        assert len(given_cells) == sum(counts)


@given(mixtures, budgets)
def test_slices_of_owned_cells_lie_side_by_side(counts, budget):
    n = warehouse_size(budget, sum(counts))
    end = 0
    for part in assign(counts, n, budget):
        assert part.first == end
        end = part.first + part.size
        assert all(part.first <= row[0] < end for row in part.rows if row != (n,))
    assert end <= n


@given(st.lists(st.integers(2, 40), min_size=1, max_size=8), st.sampled_from([0.5, 0.6, 0.75, 0.9]))
def test_below_one_no_layer_is_starved_and_no_cell_left_over(counts, budget):
    n = warehouse_size(budget, sum(counts))
    owned = assign(counts, n, budget)
    assert sum(part.size for part in owned) == n
    for part, count in zip(owned, counts, strict=True):
        assert abs(part.size - budget * count) <= 1
        assert part.size >= 1


@given(st.lists(st.sampled_from([4, 8, 36, 72]), min_size=1, max_size=5), st.sampled_from([0.25, 0.5]))
def test_regular_budgets_hand_out_everything(counts, budget):
    counts = [count * 4 for count in counts]
    n = warehouse_size(budget, sum(counts))
    assert sum(part.size for part in assign(counts, n, budget)) == n == budget * sum(counts)


@given(sharing_layers(), budgets)
def test_plan_adds_up(specs, budget):
    plan = make_plan(specs, KernelWarehouseConfig(budget=budget, sharing=lambda spec: f"k{len(set(spec.kernel_size))}"))
    for house in plan.warehouses:
        members = [layer for layer in plan.layers if layer.warehouse == house.name]
        assert house.num_mixtures == sum(layer.num_mixtures for layer in members)
        assert house.num_cells == max(int(budget * house.num_mixtures), 1)
        assert all(layer.num_cells == house.num_cells for layer in members)
    assert {layer.name for layer in plan.layers} == {spec.name for spec in specs}
    assert str(plan).count("\n") > len(specs)


@pytest.mark.parametrize(
    ("kind", "budget", "expected"),
    [
        ("one-to-one", 2, [((0,), (2,)), ((4,),)]),
        ("one-to-one", 0.5, [((0,), (1,)), ((1,),)]),  # n = 1: the second layer finds no cell left
        ("several", 2, [((0, 1), (2, 3)), ((4, 5),)]),
        ("pairs", 0.5, [((0,), (0,)), ((0,),)]),
        ("all", 1, [((0, 1, 2), (0, 1, 2)), ((0, 1, 2),)]),
        ("none", 1, [((), ()), ((),)]),
    ],
)
def test_assignments_of_the_ablations(kind, budget, expected):
    n = warehouse_size(budget, 3)
    assert [part.rows for part in assign([2, 1], n, budget, kind)] == expected


@pytest.mark.parametrize(("kind", "budget"), [("several", 1), ("several", 1.5), ("pairs", 1), ("pairs", 0.75)])
def test_assignments_that_do_not_fit_the_budget(kind, budget):
    with pytest.raises(PlanError, match=f"assignment='{kind}'"):
        assign([4], 4, budget, kind)


any_value = st.one_of(
    st.sampled_from(
        ["stage", "model", "block", "layer", "none", "full", "channel", "all", "pairs", "4M", "layer", "batch"]
    ),
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.floats(),
    st.lists(st.floats(0, 2), max_size=3),
    st.dictionaries(
        st.sampled_from(["*", "layer*", "layer0", "budget", "0"]), st.sampled_from(["a", 1, 0.5]), max_size=2
    ),
)
any_fields = st.dictionaries(
    st.sampled_from([field.name for field in dataclasses.fields(KernelWarehouseConfig)]), any_value, max_size=4
)


@pytest.mark.filterwarnings("ignore")
@given(sharing_layers(), any_fields)
@settings(max_examples=150, deadline=None)
def test_any_config_is_planned_or_refused(specs, values):
    try:
        config = dynaconv.config_from_dict(values)
        plan = make_plan(specs, config)
    except DynaconvError:
        return
    assert plan.warehouses
    for house in plan.warehouses:
        assert house.num_cells >= 1
