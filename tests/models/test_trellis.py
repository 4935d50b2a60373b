from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

import itertools

from soundmill.models import trellis_loops
from soundmill.models.errors import InputError
from soundmill.models.trellis import best_path, frames_needed

from .aligner import golden

# Pointers for everything at once; then a few at a time; then divided again and again.
MEMORIES: list[dict[str, Any]] = [
    {},
    {"leaf_cells": 5_000, "snapshot_bytes": 4_000},
    {"leaf_cells": 50, "snapshot_bytes": 1_000},
]
CASES = {case["case"]: case for case in golden.facts()["viterbi"]}
EXACT = sorted(
    name for name, case in CASES.items() if "error" not in case and name not in ("uniform", "large")
)

Floats = npt.NDArray[np.float64]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("name", EXACT)
def test_the_states_and_scores_are_those_of_the_reference(name: str, memory: dict[str, Any]) -> None:
    case, vectors = CASES[name], golden.arrays()
    emissions = golden.synthetic(case["em_seed"], case["T"])
    for kind in (emissions, emissions.astype(np.float32)):  # the numbers are exact in both
        path = best_path(kind, vectors[f"v_{name}_targets"], **memory)
        assert np.array_equal(path.states, vectors[f"v_{name}_states"])
        assert path.score == case["score"]


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_long_path_is_the_one_of_float64(memory: dict[str, Any]) -> None:
    case, vectors = CASES["large"], golden.arrays()
    states = np.cumsum(vectors["v_large_state_steps"].astype(np.int64))
    path = best_path(
        golden.synthetic(case["em_seed"], case["T"]).astype(np.float32), vectors["v_large_targets"], **memory
    )
    assert path.states[0] == case["first_state"]
    assert np.array_equal(path.states, states)
    assert path.score == case["score"]


def test_where_all_is_equal_some_path_is_found() -> None:
    case = CASES["uniform"]
    emissions = np.full((case["T"], 31), -2.0)
    path = best_path(emissions, case["targets"])
    assert path.score == case["score"]
    assert _is_path(path.states.tolist(), case["targets"])


def test_too_many_labels_are_refused_with_the_numbers() -> None:
    case = CASES["too_short"]
    targets = golden.arrays()["v_too_short_targets"]
    assert frames_needed(targets) == case["T"] + 1
    with pytest.raises(
        InputError, match=r"52 frames cannot hold 40 labels, of which 13 repeat .* 53 frames are needed"
    ):
        best_path(golden.synthetic(case["em_seed"], case["T"]), targets)


@pytest.mark.parametrize("case", ["em0", "em1"])
def test_the_labels_of_a_recording_are_those_of_the_reference(case: str) -> None:
    vectors = golden.arrays()
    emissions, targets = vectors[f"{case}_logprobs"].astype(np.float32), vectors[f"{case}_targets"]
    states = best_path(emissions, targets).states
    labels = np.where(states % 2 == 1, np.append(targets, 0)[states // 2], 0)
    assert np.array_equal(labels, vectors[f"{case}_path"])


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_no_path_is_better(data: st.DataObject) -> None:
    """Against every path there is, with repeated labels, stars, no frame to spare, and no label at all."""
    labels = data.draw(st.lists(st.integers(1, 3), max_size=4))  # 3 is the star
    needed = frames_needed(labels)
    frames = needed + data.draw(st.integers(0, 4)) if needed else data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    emissions = np.log(rng.dirichlet(np.ones(3), frames))
    path = best_path(emissions, labels, leaf_cells=data.draw(st.sampled_from([4, 2**20])))
    best = max(_sum(emissions, labels, states) for states in _paths(frames, labels))
    assert path.score == pytest.approx(best, abs=1e-9)
    assert _is_path(path.states.tolist(), labels)
    assert _sum(emissions, labels, path.states.tolist()) == pytest.approx(best, abs=1e-9)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_ties_are_broken_as_stated(data: st.DataObject) -> None:
    """Against the textbook's table with the stated rule, on emissions that are equal everywhere and often."""
    labels = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    frames = frames_needed(labels) + data.draw(st.integers(0, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    emissions = -rng.integers(0, 3, (frames, 3)).astype(np.float64)
    memory = data.draw(st.sampled_from([*MEMORIES, {"leaf_cells": 4, "snapshot_bytes": 1}]))
    path = best_path(emissions, labels, **memory)
    states, score = _textbook(emissions, labels)
    assert path.states.tolist() == states
    assert path.score == score


def test_divided_problems_have_the_same_path() -> None:
    rng = np.random.default_rng(1)
    emissions = np.log(rng.dirichlet(np.ones(31), 4_000)).astype(np.float32)
    labels = rng.integers(1, 32, 1_700)
    whole = best_path(emissions, labels)
    for leaf_cells, snapshot_bytes in ((10_000, 2**26), (10_000, 30_000), (300, 5_000)):
        divided = best_path(emissions, labels, leaf_cells=leaf_cells, snapshot_bytes=snapshot_bytes)
        assert np.array_equal(whole.states, divided.states)
        assert whole.score == divided.score


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    rng = np.random.default_rng(2)
    best_path(
        rng.standard_normal((3_000, 5)),
        rng.integers(1, 6, 900),
        shares.append,
        leaf_cells=9_000,
        snapshot_bytes=40_000,
    )
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert shares[-1] == 1.0


def test_a_search_can_be_stopped() -> None:
    class Stopped(Exception):
        pass

    def stop(share: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        best_path(np.zeros((100, 3)), [1, 2], stop)


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="labels are classes from 1 to 3"):
        best_path(np.zeros((9, 3)), [1, 4])
    with pytest.raises(ValueError, match="labels are classes from 1 to 3"):
        best_path(np.zeros((9, 3)), [0])


def test_many_classes_have_a_path_too() -> None:
    rng = np.random.default_rng(3)
    emissions = rng.standard_normal((50, 300))
    labels = rng.integers(200, 301, 20).tolist()
    path = best_path(emissions, labels)
    assert (path.states.tolist(), path.score) == _textbook(emissions, labels)


def test_without_a_folder_for_its_cache_numba_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def njit(*, cache: bool = False, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file '/f.py'")
        return lambda function: function

    monkeypatch.setattr(trellis_loops, "njit", njit)
    assert trellis_loops.compiled(sum) is sum
    assert asked == [True, False]


def test_the_trellis_is_there_without_numba() -> None:
    """Helper processes and other models import it, and need no compiler."""
    code = "import sys, soundmill.models.trellis; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def _moves(state: int, labels: list[int]) -> Iterator[int]:
    yield state
    if state < 2 * len(labels):
        yield state + 1
    if state % 2 and state + 2 <= 2 * len(labels) and labels[state // 2] != labels[state // 2 + 1]:
        yield state + 2


def _paths(frames: int, labels: list[int], begun: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Every sequence of states that a path may have."""
    if len(begun) == frames:
        if begun[-1] >= 2 * len(labels) - 1:
            yield begun
        return
    for state in _moves(begun[-1], labels) if begun else range(min(2, 2 * len(labels) + 1)):
        yield from _paths(frames, labels, (*begun, state))


def _is_path(states: list[int], labels: list[int]) -> bool:
    moves = all(after in _moves(before, labels) for before, after in itertools.pairwise(states))
    return moves and states[0] in (0, 1) and states[-1] >= 2 * len(labels) - 1


def _emission(row: Floats, labels: list[int], state: int) -> float:
    label = labels[state // 2] if state % 2 else 0
    return 0.0 if label == len(row) else float(row[label])


def _sum(emissions: Floats, labels: list[int], states: tuple[int, ...] | list[int]) -> float:
    return sum(_emission(row, labels, state) for row, state in zip(emissions, states, strict=True))


def _textbook(emissions: Floats, labels: list[int]) -> tuple[list[int], float]:
    """The whole table of sums and pointers, a cell at a time."""
    count = 2 * len(labels) + 1
    sums = [_emission(emissions[0], labels, state) if state < 2 else -np.inf for state in range(count)]
    pointers: list[list[int]] = []
    for row in emissions[1:]:
        found, came = [], []
        for state in range(count):
            stay, one = sums[state], sums[state - 1] if state else -np.inf
            leaps = state % 2 == 1 and state > 1 and labels[state // 2] != labels[state // 2 - 1]
            two = sums[state - 2] if leaps else -np.inf
            if two > one and two > stay:
                best, move = two, 2
            elif one > stay and one > two:
                best, move = one, 1
            else:
                best, move = stay, 0
            found.append(best + _emission(row, labels, state))
            came.append(move)
        sums, pointers = found, [*pointers, came]
    state = count - 1 if sums[-1] > sums[-2] else count - 2
    states, score = [state], sums[state]
    for came in reversed(pointers):
        states.append(states[-1] - came[states[-1]])
    return states[::-1], score
