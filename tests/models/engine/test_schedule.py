"""Slots, buckets, packing and turns, as properties."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from soundmill.models.engine.schedule import SlotTable, Turns, bucket_for, bucket_sizes, pack


def test_buckets_are_few_and_near_to_what_is_needed() -> None:
    for slots in range(1, 385):
        sizes = bucket_sizes(slots)
        assert len(sizes) <= 16
        assert sizes[-1] == slots
        for occupied in range(1, slots + 1):
            assert occupied <= bucket_for(occupied, slots) <= max(1.5 * occupied, 2)


@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=40), budget=st.integers(1, 1024))
def test_what_is_packed_has_the_oldest_and_fits(lengths: list[int], budget: int) -> None:
    chosen = pack(lengths, budget)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert len(chosen) * min(max(lengths[index] for index in chosen), budget) <= budget
    left = [index for index in range(len(lengths)) if index not in chosen]
    longest = min(max(lengths[index] for index in chosen), budget)
    shorter = [index for index in left if lengths[index] <= longest]
    assert not shorter or (len(chosen) + 1) * longest > budget, "there was room for one that needs no padding"


def test_prompts_of_a_length_run_together() -> None:
    assert pack([100, 700, 110, 90, 20], 300) == [0, 3, 4]
    assert pack([100, 700, 110, 90, 20], 330) == [0, 2, 3]
    assert pack([5000, 10, 10], 1024) == [0]


class Sitting(RuleBasedStateMachine):
    """People come, go and close up; slots are checked against the plainest model of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table: SlotTable[int] = SlotTable(6)
        self.where: dict[int, int] = {}
        self.come = 0

    @precondition(lambda self: not self.table.full)
    @rule()
    def seat(self) -> None:
        slot = self.table.seat(self.come)
        assert slot == min(set(range(self.table.slots)) - set(self.where.values()))
        self.where[self.come] = slot
        self.come += 1

    @precondition(lambda self: self.where)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.where)))
        assert self.table.leave(self.where.pop(who)) == who

    @rule()
    def close_up(self) -> None:
        gap = self.table.gap()
        if gap is None:
            assert 2 * len(self.where) >= self.table.bucket
            return
        source, target = gap
        assert source == max(self.where.values())
        assert target == min(set(range(self.table.slots)) - set(self.where.values())) < source
        self.table.move(source, target)
        [who] = [who for who, slot in self.where.items() if slot == source]
        self.where[who] = target

    @precondition(lambda self: self.table.slots > 1)
    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        slots = data.draw(st.integers(1, self.table.slots - 1))
        for source, target in self.table.beyond(slots):
            [who] = [who for who, slot in self.where.items() if slot == source]
            if target is None:
                self.table.leave(source)
                del self.where[who]
            else:
                self.table.move(source, target)
                self.where[who] = target
        assert len(self.where) <= slots
        self.table.shrink(slots)

    @invariant()
    def agrees(self) -> None:
        assert self.table.rows == sorted(self.where)  # by age
        assert len(self.table) == len(self.where)
        assert self.table.full == (len(self.where) == self.table.slots)
        assert self.table.bucket >= max(self.where.values(), default=-1) + 1


TestSitting = Sitting.TestCase


@given(
    costs=st.dictionaries(st.sampled_from("abcd"), st.floats(0.001, 1), min_size=2),
    turns=st.integers(50, 300),
)
def test_models_that_always_have_work_use_the_same_time(costs: dict[str, float], turns: int) -> None:
    waits = Turns()
    used: Counter[str] = Counter()
    for _ in range(turns):
        name = waits.next(list(costs))
        assert name is not None
        waits.charge(name, costs[name])
        used[name] += costs[name]  # type: ignore[assignment]
        assert max(used.values()) - min(used.get(name, 0) for name in costs) <= max(costs.values()) + 1e-9


@given(idle=st.integers(1, 500))
def test_a_model_that_was_idle_has_no_claim_to_the_time_it_missed(idle: int) -> None:
    waits = Turns()
    for name in ("busy", "rare"):
        waits.next(["busy", "rare"])
        waits.charge(name, 1.0)
    for _ in range(idle):
        assert waits.next(["busy"]) == "busy"
        waits.charge("busy", 1.0)
    got: Counter[str] = Counter()
    for _ in range(20):
        chosen = waits.next(["busy", "rare"])
        assert chosen is not None
        waits.charge(chosen, 1.0)
        got[chosen] += 1
    assert abs(got["busy"] - got["rare"]) <= 1


def test_a_model_with_work_is_never_starved_by_newcomers() -> None:
    waits = Turns()
    got: Counter[str] = Counter()
    for turn in range(400):
        ready = ["steady", f"newcomer {turn % 7}"]
        name = waits.next(ready)
        assert name is not None
        waits.charge(name, 1.0)
        got[name] += 1
    assert got["steady"] >= 150


def test_nobody_is_chosen_where_nobody_has_work() -> None:
    assert Turns().next([]) is None
