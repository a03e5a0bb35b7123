#!/usr/bin/env python3
"""Tests of the checker of histories: what is right passes, and every kind of wrong is found."""

import itertools
import os
import random
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from linear import IMPOSSIBLE, MODELS, Operation, check


def op(called, returned, name, value=None, answer=None):
    return Operation(called, returned, 0, name, value, answer)


def accepted(kind, *operations):
    assert check(kind, list(operations)) is None, check(kind, list(operations))


def rejected(kind, *operations):
    assert check(kind, list(operations)) is not None, operations


def test_a_stale_read_is_rejected():
    rejected("register", op(0, 1, "write", 1), op(2, 3, "write", 2), op(4, 5, "read", None, 1))


def test_a_lost_write_is_rejected():
    rejected("register", op(0, 1, "write", 1), op(2, 3, "read", None, None))


def test_reads_that_disagree_on_the_order_of_writes_are_rejected():
    rejected("register", op(0, 9, "write", 1), op(0, 9, "write", 2),
             op(1, 2, "read", None, 1), op(3, 4, "read", None, 2), op(5, 6, "read", None, 1))


def test_a_read_beside_a_write_sees_either():
    for value in (None, 1):
        accepted("register", op(0, 9, "write", 1), op(1, 2, "read", None, value))


def test_a_write_of_unknown_outcome_may_come_late_or_never():
    unknown = op(0, None, "write", 1)
    accepted("register", unknown, op(1, 2, "read", None, None), op(3, 4, "read", None, 1))
    accepted("register", unknown, op(1, 2, "read", None, None))
    rejected("register", unknown, op(1, 2, "read", None, 1), op(3, 4, "read", None, None))
    rejected("register", op(5, None, "write", 1), op(1, 2, "read", None, 1))


def test_an_append_that_is_lost_or_doubled_is_rejected():
    one, two = op(0, 1, "append", 1), op(2, 3, "append", 2)
    accepted("log", one, two, op(4, 5, "read", None, (1, 2)), op(4, 5, "size", None, 2))
    rejected("log", one, two, op(4, 5, "read", None, (2,)))
    rejected("log", one, two, op(4, 5, "read", None, (2, 1)))
    rejected("log", one, two, op(4, 5, "size", None, 3))
    accepted("log", one, two, op(4, 5, "truncate"), op(6, 7, "read", None, ()))
    rejected("log", one, op(2, None, "append", 2), op(4, 5, "read", None, (1, 2, 2)))


def test_names_that_come_back_or_stay_away_are_rejected():
    made, gone = op(0, 1, "create", "a", True), op(2, 3, "unlink", "a", True)
    accepted("directory", made, gone, op(4, 5, "lookup", "a", False))
    rejected("directory", made, gone, op(4, 5, "lookup", "a", True))
    rejected("directory", made, gone, op(4, 5, "list", None, frozenset("a")))
    rejected("directory", made, op(4, 5, "lookup", "a", False))
    rejected("directory", made, op(0.5, 2, "create", "a", True))
    accepted("directory", made, op(0.5, 2, "create", "a", False))
    moved = op(2, 3, "rename", ("a", "b"), True)
    accepted("directory", made, moved, op(4, 5, "list", None, frozenset("b")))
    rejected("directory", made, moved, op(4, 5, "list", None, frozenset("ab")))
    rejected("directory", made, op(2, 3, "rename", ("a", "b"), False))
    rejected("directory", op(2, 3, "rename", ("a", "b"), True))
    accepted("directory", made, op(2, None, "rename", ("a", "b")), op(4, 5, "lookup", "b", True))


def by_trying_all_orders(kind, operations):
    step, initial = MODELS[kind]
    optional = [o for o in operations if o.returned is None]
    for count in range(len(optional) + 1):
        for without in itertools.combinations(optional, count):
            chosen = [o for o in operations if o not in without]
            for order in itertools.permutations(chosen):
                late = any(b.returned is not None and b.returned < a.called
                           for i, a in enumerate(order) for b in order[i + 1:])
                state = initial
                for o in order:
                    state = step(state, o) if state is not IMPOSSIBLE else state
                if not late and state is not IMPOSSIBLE:
                    return True
    return False


def test_random_histories_are_judged_as_by_trying_all_orders():
    rng = random.Random(1)
    verdicts = set()
    for _ in range(400):
        kind = rng.choice(("register", "log", "directory"))
        operations = []
        for i in range(rng.randrange(1, 6)):
            called = rng.randrange(20)
            returned = None if rng.random() < 0.2 else called + rng.randrange(1, 12)
            if kind == "register":
                name = rng.choice(("write", "read"))
                o = op(called, returned, name, i, rng.choice((None, 0, 1, 2)))
            elif kind == "log":
                name = rng.choice(("append", "size", "read", "truncate"))
                answer = rng.randrange(3) if name == "size" else rng.choice(((), (0,), (1,), (0, 1)))
                o = op(called, returned, name, i, answer)
            else:
                name = rng.choice(("create", "unlink", "lookup", "list", "rename"))
                value = rng.choice("ab") if name != "rename" else rng.choice((("a", "b"), ("b", "a")))
                answer = frozenset(rng.choice(("", "a", "b", "ab"))) if name == "list" else \
                    rng.random() < 0.5
                o = op(called, returned, name, value, answer)
            if o.returned is None and o.name in ("read", "size", "lookup", "list"):
                continue
            operations.append(o)
        verdict = check(kind, operations) is None
        assert verdict == by_trying_all_orders(kind, operations), (kind, operations, verdict)
        verdicts.add((kind, verdict))
    assert len(verdicts) == 6, verdicts


def test_a_long_history_with_many_at_a_time_is_checked():
    rng = random.Random(2)
    operations, value, now = [], None, 0.0
    for i in range(3000):
        now += 1
        if rng.random() < 0.3:
            value = i
            what = ("write", i, None)
        else:
            what = ("read", None, value)
        operations.append(op(now - rng.random() * 6, now + rng.random() * 6, *what))
    accepted("register", *operations)


def main():
    tests = [(n, f) for n, f in sorted(globals().items()) if n.startswith("test_")]
    print("1..%d" % len(tests))
    failed = 0
    for number, (name, function) in enumerate(tests, 1):
        try:
            function()
            print("ok %d - %s" % (number, name[5:].replace("_", " ")))
        except AssertionError as e:
            failed = 1
            print("not ok %d - %s\n# %.500s" % (number, name[5:].replace("_", " "), e))
    sys.exit(failed)


main()
