"""The checker against brute force on small histories, on large ones, and on those written down by hand."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.testing.history import UNKNOWN, History, Operation
from raftlog.testing.linearizability import check
from raftlog.testing.models import CompareAndSetRegister, KeyValueMap, Model, Register, map_step


def operation(client, action, argument=None, start=0.0, end=math.inf, output=UNKNOWN, key=None):
    return Operation(client, action, argument, key, start, end, output)


def brute_force(operations, model):
    """Every order of every subset that leaves out only operations without an answer, by definition."""
    known = [o for o in operations if not o.is_unknown]
    unknown = [o for o in operations if o.is_unknown]
    for count in range(len(unknown) + 1):
        for some in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *some]):
                if respects_time(order) and holds(order, model):
                    return True
    return False


def respects_time(order):
    return not any(
        order[later].returned_at < order[earlier].invoked_at
        for earlier in range(len(order))
        for later in range(earlier + 1, len(order))
    )


def holds(order, model):
    states = {}
    for each in order:
        part = model.partition(each)
        ok, states[part] = model.step(states.get(part, model.init()), each)
        if not ok:
            return False
    return True


VALUES = st.integers(0, 2)


@st.composite
def register_operations(draw, keys=(None,)):
    made = []
    for number in range(draw(st.integers(1, 6))):
        action = draw(st.sampled_from(["read", "write", "compare_and_set"]))
        start = draw(st.integers(0, 8))
        is_unknown = draw(st.integers(0, 3)) == 0
        end = math.inf if is_unknown else start + draw(st.integers(0, 5))
        argument = {"read": None, "write": draw(VALUES), "compare_and_set": (draw(VALUES), draw(VALUES))}[action]
        output = {"read": draw(VALUES), "write": None, "compare_and_set": draw(st.booleans())}[action]
        made.append(
            operation(
                f"c{number}",
                action,
                argument,
                start,
                end,
                UNKNOWN if is_unknown else output,
                draw(st.sampled_from(keys)),
            )
        )
    return made


@given(register_operations())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_the_checker_agrees_with_brute_force_on_registers(operations):
    model = CompareAndSetRegister(0)
    assert check(operations, model).is_linearizable == brute_force(operations, model)


class KeyedRegister(CompareAndSetRegister):
    def partition(self, operation):
        return operation.key


@given(register_operations(keys=("a", "b")))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_checking_each_key_by_itself_gives_the_verdict_of_the_whole(operations):
    model = KeyedRegister(0)
    assert check(operations, model).is_linearizable == brute_force(operations, model)


def test_a_stale_read_is_found_and_explained():
    history = [
        operation("a", "write", 1, 0, 1, None),
        operation("b", "write", 2, 2, 3, None),
        operation("c", "read", None, 4, 5, 1),
    ]
    verdict = check(history, Register(0))
    assert not verdict.is_linearizable
    assert verdict.counterexample.failed is history[2]
    assert [o.argument for o in verdict.counterexample.placed] == [1, 2]
    text = verdict.counterexample.text()
    assert "cannot be placed" in text
    assert "c: read() -> 1" in text
    page = verdict.counterexample.html()
    assert page.count('class="op') == 3
    assert page.count("op failed") == 1
    assert "http" not in page  # self-contained


def test_a_first_operation_that_fits_nowhere_is_explained_too():
    verdict = check([operation("a", "read", None, 0, 1, 7)], Register(0))
    assert verdict.counterexample.placed == []
    assert "the first state" in verdict.counterexample.text()
    assert "op failed" in verdict.counterexample.html()


def test_an_unanswered_write_may_take_effect_late_or_never():
    write = operation("a", "write", 1, 0)
    assert check([write, operation("b", "read", None, 9, 10, 0)], Register(0)).is_linearizable
    assert check([write, operation("b", "read", None, 9, 10, 1)], Register(0)).is_linearizable
    both = [write, operation("b", "read", None, 9, 10, 1), operation("b", "read", None, 11, 12, 0)]
    assert not check(both, Register(0)).is_linearizable


def test_an_unanswered_write_takes_no_effect_before_its_call():
    assert not check(
        [operation("a", "write", 1, 5), operation("b", "read", None, 1, 2, 1)], Register(0)
    ).is_linearizable


def test_a_doubled_append_is_found():
    history = [
        operation("a", "append", "x", 0, 1, ("x",), key="k"),
        operation("b", "get", None, 2, 3, ("x", "x"), key="k"),
    ]
    assert not check(history, KeyValueMap()).is_linearizable


class Queue(Model):
    """A model of a user's own."""

    def init(self):
        return ()

    def step(self, state, operation):
        if operation.action == "push":
            return True, (*state, operation.argument)
        head = state[0] if state else None
        return operation.is_unknown or operation.output == head, state[1:]


def test_a_model_of_ones_own():
    pushes = [operation("a", "push", 1, 0, 1, None), operation("a", "push", 2, 2, 3, None)]
    assert check([*pushes, operation("b", "pop", None, 4, 5, 1)], Queue()).is_linearizable
    assert not check([*pushes, operation("b", "pop", None, 4, 5, 2)], Queue()).is_linearizable


def simulated_history(seed, count, clients, unknown_share, keys):
    """A history of a real (atomic) map whose operations take effect at a random moment of their interval."""
    rng = random.Random(seed)
    states = {}
    made = []
    free_at = [0.0] * clients
    pending = []
    for number in range(count):
        client = min(range(clients), key=free_at.__getitem__)
        start = free_at[client] + rng.expovariate(5)
        end = start + rng.expovariate(1)
        free_at[client] = end
        pending.append((rng.uniform(start, end), start, end, client, number))
    for _, start, end, client, number in sorted(pending):
        key = f"k{rng.randrange(keys)}"
        action = rng.choice(["get", "put", "compare_and_set", "get"])
        argument = {"get": None, "put": number, "compare_and_set": (states.get(key), number)}[action]
        answer, states[key] = map_step(states.get(key), action, argument)
        lost = rng.random() < unknown_share
        client_name = f"c{client}-{number}" if lost else f"c{client}"
        made.append(
            operation(client_name, action, argument, start, math.inf if lost else end, UNKNOWN if lost else answer, key)
        )
    return made


@pytest.mark.parametrize(
    ("count", "clients", "share", "keys"), [(5000, 16, 0.02, 8), (3000, 20, 0.0, 1), (1500, 8, 0.05, 1)]
)
def test_thousands_of_operations_are_checked(count, clients, share, keys):
    history = simulated_history(7, count, clients, share, keys)
    verdict = check(history, KeyValueMap())
    assert verdict.is_linearizable
    assert verdict.operations == count
    reads = [o for o in history if o.action == "get" and not o.is_unknown and isinstance(o.output, int)]
    reads[len(reads) // 2].output = -1
    assert check(history, KeyValueMap()).counterexample.failed is reads[len(reads) // 2]


def test_a_search_beyond_its_limit_is_undecided_and_says_so():
    history = simulated_history(1, 200, 8, 0.0, 1)
    verdict = check(history, KeyValueMap(), max_configurations=10)
    assert not verdict.is_linearizable
    assert verdict.counterexample is None
    assert verdict.undecided == ["k0"]


def test_histories_survive_json_lines():
    history = History()
    first = history.invoke("a", "append", "x", key="k", at=1.0)
    history.invoke("b", "compare_and_set", (None, "y"), key="k", at=2.0)
    refused = history.invoke("c", "put", "z", key="k", at=3.0)
    history.complete(first, ("x",), at=4.0)
    history.forget(refused)
    again = History.from_json_lines(history.to_json_lines())
    assert [str(o) for o in again] == [str(o) for o in history]
    assert [o.is_unknown for o in again] == [False, True]
    with pytest.raises(ValueError, match="before its call"):
        history.complete(first, (), at=0.5)
