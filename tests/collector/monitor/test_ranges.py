from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.collector.monitor.ranges import added, removed, size_of

STEP = st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 8))


@given(st.lists(STEP))
def test_ranges_are_the_set_of_their_numbers_and_never_touch(steps):
    ranges, numbers = [], set()
    for is_added, first, length in steps:
        change = set(range(first, first + length + 1))
        ranges = (added if is_added else removed)(ranges, first, first + length)
        numbers = numbers | change if is_added else numbers - change
    assert {number for first, last in ranges for number in range(first, last + 1)} == numbers
    assert size_of(ranges) == len(numbers)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(ranges))
