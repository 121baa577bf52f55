"""A TokenLRU as a list of items that is searched from its oldest end."""

from hypothesis import strategies as st

INT_KEYS = [-3, -1, 0, 1, 2, 3, 2**63 - 1, -(2**63)]
OTHER_KEYS = ["a", "b", (1, 2), 1.5, None, b"x"]
int_keys = st.sampled_from(INT_KEYS)
keys = int_keys | st.sampled_from(OTHER_KEYS)
tokens = st.integers(0, 12)


class Value:
    """A value with a token count, equal to itself alone."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __repr__(self):
        return f"Value({self.tokens})"


def tokens_of(value):
    return value.tokens


class Model:
    """What a TokenLRU is, in the plainest words."""

    def __init__(self, budget):
        self.budget, self.items, self.evicted = budget, [], []

    def weight(self, value):
        return value if isinstance(value, int) else value.tokens

    def total(self):
        return sum(self.weight(value) for _, value in self.items)

    def drop(self, key):
        found = [item for item in self.items if item[0] == key]
        self.items = [item for item in self.items if item[0] != key]
        return found

    def evict(self, target):
        gone = []
        while self.total() > target:
            gone.append(self.items.pop(0))
        self.evicted += gone
        return gone

    def put(self, key, value):
        old = self.drop(key)
        if self.weight(value) > self.budget:
            self.evicted += old
            return old
        gone = self.evict(self.budget - self.weight(value))
        self.items.append((key, value))
        return gone

    def get(self, key):
        found = self.drop(key)
        self.items += found
        return found[0][1] if found else None
