"""
linear.py - is a recorded history linearizable?

A history is operations of one object, each with the times of its call and of its return, and what
it answered; `returned` is None when the outcome is unknown: then it happened at any time after
its call, or never. It is linearizable when the operations that returned, and some of the others,
can be put in an order that respects time (what returned before another was called comes first) and
in which each answers what a sequential object would. Objects are checked one by one, since a
history is linearizable when that of each of its objects is.

The search is Wing and Gong's with Lowe's memory of what was tried: a set of operations that have
been taken and the state they led to is looked into once.
"""

import collections

# process: who did it; name, value: what; answer: what it saw.
Operation = collections.namedtuple("Operation", "called returned process name value answer")

IMPOSSIBLE = object()  # answered by a model's step: the operation cannot have answered so now


def register(state, operation):
    """Something that is written whole; values differ. It begins as None."""
    if operation.name == "write":
        return operation.value
    return state if operation.answer == state else IMPOSSIBLE


def log(state, operation):
    """What was appended, in order. It begins as ()."""
    if operation.name == "append":
        return state + (operation.value,)
    if operation.name == "truncate":
        return ()
    seen = len(state) if operation.name == "size" else state
    return state if operation.answer == seen else IMPOSSIBLE


def directory(state, operation):
    """Names that are there. It begins as frozenset()."""
    name, value, answer = operation.name, operation.value, operation.answer
    if name == "list":
        return state if answer == state else IMPOSSIBLE
    if name == "lookup":
        return state if answer == (value in state) else IMPOSSIBLE
    if name == "create":
        possible, after = value not in state, state | {value}
    elif name == "unlink":
        possible, after = value in state, state - {value}
    else:
        old, new = value
        possible, after = old in state, state - {old} | {new}
        if answer and not possible and new in state:
            return state  # README: another host moved it there while the kernel looked up the two
    if operation.returned is None:
        return after if possible else IMPOSSIBLE
    if not answer:  # refused: it was there, or was not
        return IMPOSSIBLE if possible else state
    return after if possible else IMPOSSIBLE


MODELS = {"register": (register, None), "log": (log, ()), "directory": (directory, frozenset())}


def relevant(kind, operations):
    """Without what may be left out: a write that may have happened, but nobody saw."""
    if kind != "register":
        return operations
    seen = {o.answer for o in operations if o.name == "read"}
    return [o for o in operations if o.returned is not None or o.value in seen]


class Search:
    """One history as a doubly linked list of calls and returns, in the order of time."""

    def __init__(self, operations):
        self.operations = operations
        events = []
        for i, o in enumerate(operations):
            events.append((o.called, 0, i))
            if o.returned is not None:
                events.append((o.returned, 1, i))
        events.sort()
        count = len(events)
        # Event e is at e + 1; 0 is the head, count + 1 the end.
        self.next = list(range(1, count + 2)) + [count + 1]
        self.previous = [0] + list(range(0, count + 1))
        self.at = [None] + [(i, bool(r)) for _, r, i in events] + [None]
        self.call = {}
        self.ret = {}
        for position, what in enumerate(self.at):
            if what:
                (self.ret if what[1] else self.call)[what[0]] = position

    def unlink(self, position):
        before, after = self.previous[position], self.next[position]
        self.next[before], self.previous[after] = after, before

    def relink(self, position):
        self.next[self.previous[position]] = position
        self.previous[self.next[position]] = position

    def lift(self, i):
        self.unlink(self.call[i])
        if i in self.ret:
            self.unlink(self.ret[i])

    def lower(self, i):
        if i in self.ret:
            self.relink(self.ret[i])
        self.relink(self.call[i])


def check(kind, operations):
    """
    None when the history is linearizable; else the longest order that was found, and the operation
    that could not be put behind it.
    """
    step, state = MODELS[kind]
    search = Search(relevant(kind, operations))
    left = len(search.ret)  # operations that returned and are not in the order yet
    taken, order, tried = 0, [], set()
    best = ([], None)
    position = search.next[0]
    while left:
        what = search.at[position]
        if what and not what[1]:
            i = what[0]
            after = step(state, search.operations[i])
            key = (taken | 1 << i, after)
            if after is not IMPOSSIBLE and key not in tried:
                tried.add(key)
                order.append((i, state, taken))
                search.lift(i)
                left -= i in search.ret
                taken, state = key
                position = search.next[0]
                continue
            position = search.next[position]
            continue
        # A return, or the end: what has returned cannot be put later.
        if what and len(order) >= len(best[0]):
            best = ([i for i, _, _ in order], what[0])
        if not order:
            return [search.operations[i] for i in best[0]], search.operations[best[1]]
        i, state, taken = order.pop()
        left += i in search.ret
        search.lower(i)
        position = search.next[search.call[i]]
    return None


def explain(kind, found, lines=12):
    """Text about what check() found."""
    order, culprit = found
    step, state = MODELS[kind]
    for operation in order:
        state = step(state, operation)

    def line(o):
        times = "%.6f..%s" % (o.called, "?" if o.returned is None else "%.6f" % o.returned)
        return "  %s process %s: %s %r -> %r" % (times, o.process, o.name, o.value, o.answer)
    return "\n".join(["not linearizable; the last of %d operations in order:" % len(order)] +
                     [line(o) for o in order[-lines:]] +
                     ["then the state is %r, and there is no place for" % (state,), line(culprit)])
