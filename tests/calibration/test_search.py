"""The choice of an Argon2id cost, on machines whose every time is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.calibration.machines import Machine

from kvseal import Argon2idParams
from kvseal.calibration import measurement, search
from kvseal.calibration.goal import FLOOR, CostGoal
from kvseal.calibration.measurement import Measurement
from kvseal.calibration.memory_limit import MemoryLimit
from kvseal.calibration.search import Calibration, Search, Step, calibrate
from kvseal.errors import KDFParametersError

MIB = 1024
GIB = 1024 * MIB
LIMIT = "a limit"

machines = st.builds(
    Machine,
    rate=st.floats(-6, -2).map(lambda exponent: 10**exponent),
    cpus=st.integers(1, 8),
    overhead=st.floats(0, 2),
    bend=st.floats(0, 0.1),
)
goals = st.builds(
    CostGoal,
    target_ms=st.floats(50, 3000),
    max_memory=st.integers(64, 4 * MIB).map(lambda units: units * MIB),
    limited_by=st.just(LIMIT),
    parallelism=st.integers(1, 8),
)
weak_goals = st.builds(
    CostGoal,
    target_ms=st.floats(50, 3000),
    max_memory=st.integers(32, 4 * MIB).map(lambda units: units * 32),
    limited_by=st.just(LIMIT),
    parallelism=st.sampled_from([1, 2, 4, 8]),
    allow_weak=st.just(True),
)


def calibrated(machine: Machine, goal: CostGoal) -> Calibration:
    """Return the calibration of *machine*."""
    return Search(goal, machine, cpus=machine.cpus).run()


def chosen(machine: Machine, goal: CostGoal) -> Argon2idParams:
    """Return the cost that is chosen for *machine*."""
    found = calibrated(machine, goal)
    assert found.choice is not None
    return found.choice.params


def reachable(machine: Machine, goal: CostGoal) -> bool:
    """Whether some cost that may be chosen is well within the band: every memory in steps of a 100th, every t."""
    low, high = 0.99 * goal.target_ms, 1.06 * goal.target_ms
    memory = goal.max_memory
    while (least := goal.least_passes(memory)) is not None:
        for passes in range(least, 65):
            took = machine.takes(Argon2idParams(passes, memory, goal.parallelism))
            if low <= took <= high:
                return True
            if took > high:
                break
        memory = min(memory * 99 // 100, memory - 4 * goal.parallelism)
    return False


@given(machine=machines, goal=st.one_of(goals, weak_goals))
def test_the_choice_is_allowed_whatever_the_machine(machine: Machine, goal: CostGoal) -> None:
    """Nothing above the memory limit is even measured, and nothing below the floor is chosen."""
    params = chosen(machine, goal)

    assert [] == [asked for asked in machine.asked if asked.memory_cost > goal.max_memory]
    assert params.memory_cost <= goal.max_memory
    assert (goal.parallelism, True) == (params.parallelism, params.time_cost <= 64)
    if not goal.allow_weak:
        assert params.memory_cost >= FLOOR.memory_cost
        assert params.memory_cost * params.time_cost >= FLOOR.memory_cost * FLOOR.time_cost


@pytest.mark.exhaustive
@given(machine=machines, goal=st.one_of(goals, weak_goals))
def test_within_the_band_wherever_a_cost_is(machine: Machine, goal: CostGoal) -> None:
    """If any cost that may be chosen takes what is wanted, one that does is chosen, and called steady."""
    found = calibrated(machine, goal)

    assert found.choice is not None
    assert found.steady
    low, high = 0.95 * goal.target_ms, 1.10 * goal.target_ms
    if reachable(machine, goal):
        assert low <= machine.takes(found.choice.params) <= high


@given(machine=machines, goal=goals)
def test_memory_comes_first(machine: Machine, goal: CostGoal) -> None:
    """If some number of passes over all the memory takes what is wanted, all of it is chosen."""
    lanes, most = goal.parallelism, goal.max_memory
    least = goal.least_passes(most)
    assert least is not None
    times = [machine.takes(Argon2idParams(t, most, lanes)) for t in range(least, 65)]
    # Well within: where it takes the edge of the band, a little less memory is as right.
    if any(0.995 * goal.target_ms <= took <= 1.055 * goal.target_ms for took in times):
        found = calibrated(machine, goal)

        assert found.choice is not None
        assert (most, LIMIT) == (found.choice.params.memory_cost, found.decided_by)


@pytest.mark.parametrize(
    ("machine", "goal", "cost", "decided_by"),
    [
        pytest.param(
            Machine(4e-3, cpus=4),
            CostGoal(500, 4 * GIB, LIMIT),
            (1, 500 * MIB, 4),
            "the target time",
            id="time",
        ),
        pytest.param(Machine(4e-3), CostGoal(525, 128 * MIB, LIMIT), (4, 128 * MIB, 4), LIMIT, id="memory"),
        pytest.param(
            Machine(4e-2),
            CostGoal(500, 4 * GIB, LIMIT),
            (3, 64 * MIB, 4),
            "the floor, RFC 9106's second option",
            id="floor",
        ),
        pytest.param(
            Machine(4e-2),
            CostGoal(500, 4 * GIB, LIMIT, allow_weak=True),
            (1, 50 * MIB, 4),
            "the target time",
            id="weak",
        ),
        pytest.param(
            Machine(1e-7),
            CostGoal(500, 64 * MIB, LIMIT),
            (64, 64 * MIB, 4),
            f"kvseal's ceiling of 64 passes, and {LIMIT}",
            id="ceiling",
        ),
        pytest.param(
            Machine(100.0),
            CostGoal(500, 64 * MIB, LIMIT, allow_weak=True),
            (1, 32, 4),
            "the least cost there is",
            id="slowest",
        ),
    ],
)
def test_what_decided(machine: Machine, goal: CostGoal, cost: tuple[int, int, int], decided_by: str) -> None:
    """The choice is near the one that a formula gives, and the limit that decided it is named."""
    found = calibrated(machine, goal)

    assert found.choice is not None
    params = found.choice.params
    assert (cost[0], cost[2], decided_by) == (params.time_cost, params.parallelism, found.decided_by)
    assert params.memory_cost == pytest.approx(cost[1], rel=0.08)


def test_a_machine_that_gives_less_than_it_says() -> None:
    """A size that cannot be had is a result: half of it is the most from then on, and is named."""
    machine = Machine(1e-4, memory=300 * MIB)
    found = calibrated(machine, CostGoal(500, GIB, LIMIT))

    assert found.choice is not None
    assert found.choice.params.memory_cost <= 300 * MIB
    assert "failed (Memory allocation error)" in found.decided_by
    assert [512 * MIB] == [one.params.memory_cost for one in found.measurements if one.failure]


def test_a_machine_that_gives_nothing() -> None:
    """Where not even the least cost can be measured there is no choice, but an error."""
    with pytest.raises(KDFParametersError, match="not even"):
        calibrated(Machine(1e-4, memory=4), CostGoal(500, GIB, LIMIT))


@pytest.mark.parametrize("noise", [(1.0, 3.0), (1.0, 1.6, 0.6)], ids=["two-speeds", "three-speeds"])
def test_a_noisy_machine_is_called_so(noise: tuple[float, ...]) -> None:
    """Where one cost takes now this and now that, there is a choice within the limits, and it is not steady."""
    goal = CostGoal(500, 4 * GIB, LIMIT)
    found = calibrated(Machine(4e-3, noise=noise), goal)

    assert found.choice is not None
    assert goal.allows(found.choice.params)
    assert not found.steady


def test_few_runs_that_disagree_count() -> None:
    """A second measurement outside of the band is no confirmation, even if its one run is outvoted."""
    machine = Machine(4e-3, noise=(1.0, 4.0, 4.0, 4.0))

    def measure(params: Argon2idParams) -> Measurement:
        return machine(params, runs=50, enough_ms=1500)

    assert not Search(CostGoal(500, 4 * GIB, LIMIT), measure).run().steady


def test_the_spread_of_one_measurement_counts() -> None:
    """Runs that differ by more than the band within one process are no steady choice."""

    def measure(params: Argon2idParams) -> Measurement:
        took = Machine(4e-3).takes(params)
        return Measurement(params, (0.7 * took, 0.7 * took, took, 1.3 * took, 1.3 * took), 1, 1)

    assert not Search(CostGoal(500, 4 * GIB, LIMIT), measure).run().steady


def test_interrupted_at_any_time() -> None:
    """Whenever Ctrl-C comes, what was measured until then is there, and nothing weak is called a choice."""
    goal = CostGoal(500, 4 * GIB, LIMIT)
    whole = Machine(4e-3)
    calibrated(whole, goal)
    for stops_at in range(1, len(whole.asked) + 1):
        machine = Machine(4e-3, stops_at=stops_at)
        search = Search(goal, machine)

        with pytest.raises(KeyboardInterrupt):
            search.run()

        found = search.result()
        assert {*machine.asked[:-1]} == {one.params for one in found.measurements}
        assert found.choice is None or goal.allows(found.choice.params)
        assert not found.steady


def test_the_grid() -> None:
    """Memory, passes, lanes and every profile that the limits and the time allow are measured."""
    machine = Machine(4e-3, cpus=4)
    calibrated(machine, CostGoal(500, 4 * GIB, LIMIT))

    asked = {(one.time_cost, one.memory_cost, one.parallelism) for one in machine.asked}
    assert {(1, size * MIB, 4) for size in (64, 128, 256, 512)} <= asked
    assert {(2, 64 * MIB, 4), (3, 64 * MIB, 4)} <= asked
    assert {(1, 64 * MIB, 1), (1, 64 * MIB, 2)} <= asked
    assert (2, 19 * MIB, 1) in asked
    assert (1, 2 * GIB, 4) not in asked


def test_a_listener_is_told_of_all() -> None:
    """Each measurement is announced, counted, and told when it is done."""
    told: list[Step | Measurement] = []
    machine = Machine(4e-3)
    Search(CostGoal(500, 4 * GIB, LIMIT), machine, listener=told.append).run()

    steps, done = told[::2], told[1::2]
    assert machine.asked == [one.params for one in steps] == [one.params for one in done]
    assert list(range(len(steps))) == [one.done for one in steps if isinstance(one, Step)]
    assert all(one.done < one.expected for one in steps if isinstance(one, Step))


class TestGoal:
    """The bound of memory, and whose it is."""

    @pytest.mark.parametrize(
        ("size", "wanted", "memory", "source"),
        [
            (GIB, None, 256 * MIB, "a quarter of x"),
            (GIB, 300 * MIB, 300 * MIB, "--max-memory"),
            (GIB, 8 * GIB, GIB, "x"),
            (64 * GIB, None, 4 * GIB, "kvseal's own ceiling of 4 GiB"),
            (64 * GIB, 8 * GIB, 4 * GIB, "kvseal's own ceiling of 4 GiB"),
        ],
    )
    def test_max_memory(self, size: int, wanted: int | None, memory: int, source: str) -> None:
        """By default a quarter; what is asked for, but never more than there is or than kvseal opens."""
        goal = CostGoal.within(MemoryLimit(size * 1024, "x"), target_ms=500, max_memory=wanted)

        assert (memory, source) == (goal.max_memory, goal.limited_by)

    @pytest.mark.parametrize("weak", [False, True])
    def test_less_than_the_least(self, weak: bool) -> None:
        """Less memory than the floor is refused before anything is measured, and --allow-weak lowers it."""
        with pytest.raises(KDFParametersError, match="less than") as refused:
            CostGoal.within(
                MemoryLimit(2**30, "x"), target_ms=500, max_memory=31 if weak else 65535, allow_weak=weak
            )

        assert weak is not ("--allow-weak" in refused.value.hint)


def test_calibrate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's one call measures this machine within the limits of this process."""
    machine = Machine(4e-3)
    monkeypatch.setattr(measurement, "measure", machine)
    monkeypatch.setattr(search, "memory_limit", lambda: MemoryLimit(2**30, "x"))

    found = calibrate(target_ms=525, runs=3)

    assert found.choice is not None
    assert "a quarter of x" == found.decided_by
    assert 256 * MIB == found.choice.params.memory_cost
