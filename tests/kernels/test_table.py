"""Tables of int64 keys beside a dict, tables of strings beside another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmds.base import arguments
from llmds.kernels import strings, table
from llmds.kernels.table import BUCKET, CAPACITY, COUNT, FREE, HEAD, KEY, OWN, RETIRED, TOP

COLUMNS = 3
VALUE = 2


def colliding(n, buckets=64):
    """Keys that all want one bucket, as far as there are `buckets`."""
    out = []
    arena = table.new(buckets // 2, COLUMNS)
    _, rows, places = table.parts(arena)
    for key in range(100_000):
        rows[0, BUCKET] = -1
        places[:] = -1
        table.insert(rows, places, 0, key)
        if rows[0, BUCKET] == buckets - 1:  # the last one, so that runs go round the end
            out.append(key)
        if len(out) == n:
            return out
    raise AssertionError


crowd = colliding(6)
keys = st.sampled_from(crowd) | st.integers(-8, 8) | st.sampled_from([2**63 - 1, -(2**63), -1, 0])


class BesideDict(RuleBasedStateMachine):
    """Any sequence of rows taken, found, removed, and arenas resized, keeps what a dict keeps."""

    def __init__(self):
        super().__init__()
        self.arena, self.model = table.new(0, COLUMNS), {}

    def row_of(self, key):
        _, rows, buckets = table.parts(self.arena)
        return table.find(rows, buckets, key)

    @rule(key=keys, value=st.integers(-100, 100))
    def put(self, key, value):
        row = self.row_of(key)
        assert (row >= 0) == (key in self.model)
        if row < 0:
            head, rows, buckets = table.parts(self.arena)
            row = table.take_row(head, rows)
            if row < 0:
                assert head[COUNT] == head[CAPACITY], "only a full arena has no row"
                self.arena = table.resized(self.arena, max(2 * int(head[CAPACITY]), 1))
                assert head[RETIRED] == 1 and self.arena[RETIRED] == 0
                head, rows, buckets = table.parts(self.arena)
                row = table.take_row(head, rows)
            assert rows[row, BUCKET] == -1, "the row was free"
            table.insert(rows, buckets, row, key)
        _, rows, _ = table.parts(self.arena)
        rows[row, VALUE] = value
        self.model[key] = value

    @rule(key=keys)
    def take_out(self, key):
        row = self.row_of(key)
        assert (row >= 0) == (key in self.model)
        if row >= 0:
            head, rows, buckets = table.parts(self.arena)
            table.remove(rows, buckets, row)
            assert rows[row, KEY] == key and rows[row, VALUE] == self.model.pop(key), "all but BUCKET stays"
            table.free_row(head, rows, row)

    @rule(more=st.integers(0, 40))
    def resize(self, more):
        before = {key: self.row_of(key) for key in self.model}
        self.arena = table.resized(self.arena, int(self.arena[TOP]) + more)
        assert {key: self.row_of(key) for key in self.model} == before, "rows keep their numbers"

    @rule(a=keys, b=keys)
    def swap_rows(self, a, b):
        """What a heap does: two keyed rows change places."""
        if a != b and a in self.model and b in self.model:
            one, other = self.row_of(a), self.row_of(b)
            _, rows, buckets = table.parts(self.arena)
            rows[[one, other]] = rows[[other, one]]
            table.moved(rows, buckets, one), table.moved(rows, buckets, other)
            assert (self.row_of(a), self.row_of(b)) == (other, one)

    @rule(value=st.integers())
    def use_own_slots(self, value):
        self.arena[OWN] = self.arena[HEAD - 1] = value % 2**62
        self.arena = table.resized(self.arena, int(self.arena[CAPACITY]))
        assert self.arena[OWN] == self.arena[HEAD - 1] == value % 2**62, "the structure's own slots are carried along"

    @invariant()
    def agree(self):
        head, rows, buckets = table.parts(self.arena)
        assert table.well_formed(self.arena, COLUMNS) and table.first_fault(head, rows, buckets) == -1
        assert head[COUNT] == len(self.model) and head[TOP] <= head[CAPACITY]
        assert {int(row[KEY]): int(row[VALUE]) for row in rows if row[BUCKET] >= 0} == self.model
        assert len(buckets) >= 2 * head[CAPACITY]
        for key in (-9, 100_001):
            assert self.row_of(key) == -1


TestBesideDict = BesideDict.TestCase


def test_rows_are_used_again_before_new_ones():
    arena = filled(10)
    head, rows, buckets = table.parts(arena)
    for row in (3, 7):
        table.remove(rows, buckets, row)
        table.free_row(head, rows, row)
    assert [table.take_row(head, rows) for _ in range(2)] == [7, 3], "the last given back first"
    assert table.take_row(head, rows) == -1 and head[COUNT] == 10


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("columns", [2, 3, 8])
def test_an_arena_is_one_array_cut_in_three(capacity, columns):
    arena = table.new(capacity, columns)
    head, rows, buckets = table.parts(arena)
    assert arena.dtype == np.int64 and head.shape == (HEAD,) and rows.shape == (capacity, columns)
    assert buckets.dtype == np.int32 and len(buckets) == table.bucket_count(capacity) and (buckets == -1).all()
    assert head.nbytes + rows.nbytes + buckets.nbytes == arena.nbytes
    assert np.shares_memory(rows, arena) or capacity == 0
    assert table.well_formed(arena, columns) and not table.well_formed(arena, columns + 1)
    assert table.first_fault(head, rows, buckets) == -1


@given(st.integers(0, 2**31 - 1))
def test_buckets_are_a_power_of_two_at_most_half_full(capacity):
    count = table.bucket_count(capacity)
    assert count >= max(2 * capacity, 2) and count & (count - 1) == 0 and (count == 2 or count // 2 < 2 * capacity)


def filled(n, free=()):
    arena = table.new(n, COLUMNS)
    head, rows, buckets = table.parts(arena)
    for key in range(n):
        table.insert(rows, buckets, table.take_row(head, rows), 10 * key)
    for row in free:
        table.remove(rows, buckets, row)
        table.free_row(head, rows, row)
    return arena


@pytest.mark.parametrize("at", [CAPACITY, 1, RETIRED, COUNT, TOP])
@pytest.mark.parametrize("value", [-1, 1, 5, 11, 2**31, 2**62, -(2**63)])
def test_heads_that_do_not_add_up_are_not_well_formed(at, value):
    arena = filled(10)
    arena[at] = value
    assert not table.well_formed(arena, COLUMNS) or (at == COUNT and 0 <= value <= 10)


def test_arrays_of_other_lengths_are_not_well_formed():
    arena = filled(10)
    for length in (0, 1, HEAD - 1, HEAD, len(arena) - 1):
        assert not table.well_formed(arena[:length].copy(), COLUMNS)
    assert not table.well_formed(np.append(arena, 0), COLUMNS)


def test_every_single_change_of_keys_and_links_is_found():
    """But for a key whose look-up ends at the same row: then it is that row's key."""
    whole = filled(12, free=(2, 5, 9))
    start, rows_end = HEAD, HEAD + 12 * COLUMNS
    for at in [COUNT, TOP, FREE, *range(start, rows_end)]:
        column = (at - start) % COLUMNS
        if at >= start and column == VALUE:
            continue  # the structure's own column
        for value in (-(2**63), -2, -1, 0, 3, 5, 11, 12, 31, 32, 2**40, 2**63 - 1):
            hurt = whole.copy()
            hurt[at] = value
            if value == whole[at] or not table.well_formed(hurt, COLUMNS):
                continue
            head, rows, buckets = table.parts(hurt)
            sound = column == KEY and at >= start and table.find(rows, buckets, value) == (at - start) // COLUMNS
            assert sound or table.first_fault(head, rows, buckets) != -1, (at, value)


def test_every_single_change_of_buckets_is_found():
    whole = filled(12, free=(2, 5, 9))
    for bucket in range(len(table.parts(whole)[2])):
        for value in (-(2**31), -2, -1, 0, 5, 11, 12, 2**31 - 1):
            hurt = whole.copy()
            buckets = table.parts(hurt)[2]
            if buckets[bucket] != value:
                buckets[bucket] = value
                assert table.first_fault(*table.parts(hurt)) != -1, (bucket, value)


def test_a_free_chain_that_runs_in_a_circle_is_found():
    arena = filled(6, free=(1, 3, 4))
    head, rows, buckets = table.parts(arena)
    assert head[FREE] == 4 and rows[4, KEY] == 3 and rows[3, KEY] == 1
    rows[1, KEY] = 4
    assert table.first_fault(head, rows, buckets) == -2


@given(st.data())
def test_no_contents_crash_the_examination(data):
    arena = filled(6, free=(1, 3))
    for _ in range(data.draw(st.integers(1, 12))):
        arena[data.draw(st.integers(COUNT, len(arena) - 1))] = data.draw(
            st.integers(-3, 20) | st.integers(-(2**63), 2**63 - 1)
        )
    if table.well_formed(arena, COLUMNS):
        table.first_fault(*table.parts(arena))


any_text = st.sampled_from(["", "a", "b", "ab", "\0", "é", "\ud800"]) | st.text(max_size=4)


def string_table(values, stride=1):
    """(buckets, data, offsets) in which the string of row r is number stride * r."""
    flat = [part for value in values for part in [value, *["between"] * (stride - 1)]]
    data, offsets = arguments.packed_strings("values", flat)
    buckets = np.full(table.bucket_count(len(values)), strings.ABSENT)
    for row in range(len(values)):
        strings.insert(buckets, row, strings.tag(data, offsets[stride * row], offsets[stride * row + 1]))
    return buckets, data, offsets


@given(st.lists(any_text, unique=True), st.lists(any_text), st.sampled_from([1, 3]))
def test_strings_are_found_as_in_a_dict(values, wanted, stride):
    arrays = string_table(values, stride)
    assert strings.first_fault(*arrays, stride, len(values)) == -1
    query, offsets = arguments.packed_strings("wanted", wanted)
    rows = np.empty(len(wanted), np.int64)
    strings.find_many(*arrays, stride, query, offsets, rows)
    model = {value: row for row, value in enumerate(values)}
    assert rows.tolist() == [model.get(value, -1) for value in wanted]
    for value in wanted:
        one = np.frombuffer(bytearray(value, "utf-8", "surrogatepass"), np.uint8)
        assert strings.find_one(*arrays, stride, one) == model.get(value, -1)
    larger = np.full(4 * len(arrays[0]), strings.ABSENT)
    strings.rehash(arrays[0], larger)
    strings.find_many(larger, *arrays[1:], stride, query, offsets, rows)
    assert rows.tolist() == [model.get(value, -1) for value in wanted]


@given(st.lists(any_text))
def test_the_first_repeated_string_is_found(values):
    data, offsets = arguments.packed_strings("values", values)
    buckets = np.full(table.bucket_count(len(values)), strings.ABSENT)
    expected = next((i for i, value in enumerate(values) if value in values[:i]), -1)
    half = len(values) // 2
    found = strings.first_repeat(buckets, data, offsets, 0, half)
    if found < 0:
        found = strings.first_repeat(buckets, data, offsets, half, len(values))
    assert found == expected


def test_strings_with_one_tag_are_told_apart_by_their_bytes():
    values = ["one", "two", "six", "four"]
    data, offsets = arguments.packed_strings("values", values)
    buckets = np.full(8, strings.ABSENT)
    for row in range(4):
        strings.insert(buckets, row, 2**32 - 1)
    for row in range(4):
        start, stop = offsets[row], offsets[row + 1]
        assert strings.find(buckets, data, offsets, 1, data, start, stop, 2**32 - 1) == row
    query = np.frombuffer(bytearray(b"ten"), np.uint8)
    assert strings.find(buckets, data, offsets, 1, query, 0, 3, 2**32 - 1) == strings.ABSENT


@given(st.data())
def test_any_contents_of_a_string_table_are_examined_safely(data):
    buckets, text, offsets = string_table(["a", "bc", "déf", ""])
    for array in (buckets, offsets):
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(array) - 1))
            array[at] = data.draw(st.integers(-3, 9) | st.integers(-(2**63), 2**63 - 1))
    if strings.first_fault(buckets, text, offsets, 1, 4) == -1:
        found = np.empty(4, np.int64)
        strings.find_many(buckets, text, offsets, 1, text, offsets, found)
        assert found.tolist() == [0, 1, 2, 3]


@given(st.text(max_size=10), st.lists(st.integers(0, 30)))
def test_offsets_inside_a_character_are_found(text, places):
    data = np.frombuffer(bytearray(text, "utf-8"), np.uint8)
    places = np.array([min(place, len(data)) for place in places], np.int64)
    begins = {len(text[:i].encode()) for i in range(len(text) + 1)}
    assert strings.splits_no_character(data, places) == (set(places.tolist()) <= begins)
