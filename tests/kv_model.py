"""A KV cache of Python lists, too simple to be wrong."""

import copy

from llmds.paged_allocator import OutOfPagesError


class Page:
    def __init__(self, entries):
        self.entries, self.refs, self.path = list(entries), 1, None


class Sequence:
    def __init__(self, pages, length, prefix):
        self.pages, self.length, self.prefix = pages, length, prefix


class Model:
    """Pages are objects; a page is found by the whole path of ids that leads to it; the oldest cached page is first."""

    def __init__(self, page_size, max_pages, sharing=True, store=True):
        self.page_size, self.max_pages, self.sharing, self.store = page_size, max_pages, sharing, store
        self.seqs, self.index, self.cached, self.held = {}, {}, [], []
        self.shares = self.copies = self.evictions = self.hits = self.lookups = 0

    def attempt(self, call):
        """The model after call(model) has run on a copy; OutOfPagesError comes from the middle of it."""
        trial = copy.deepcopy(self)
        call(trial)
        return trial

    def cut(self, items):
        return [items[at : at + self.page_size] for at in range(0, len(items), self.page_size)]

    # pages

    def take(self, entries):
        if len(self.held) + len(self.cached) == self.max_pages:
            if not self.cached:
                raise OutOfPagesError
            self.forget(self.cached[0])
            self.evictions += 1
        page = Page(entries)
        self.held.append(page)
        return page

    def acquire(self, page):
        page.refs += 1
        if page.refs == 1:
            self.cached.remove(page)
            self.held.append(page)

    def release(self, pages):
        for page in reversed(pages):
            page.refs -= 1
            if page.refs == 0:
                self.held.remove(page)
                if page.path is not None:
                    self.cached.append(page)

    def forget(self, page):
        for path in [path for path in self.index if path[: len(page.path)] == page.path]:
            below = self.index.pop(path)
            if below is not page:
                below.path = None
            if below.refs == 0:
                self.cached.remove(below)
        page.path = None

    def own(self, sequence, i):
        page = sequence.pages[i]
        if page.refs > 1:
            sequence.pages[i] = self.take(page.entries)
            page.refs -= 1
            self.copies += 1
        elif page.path is not None:
            self.forget(page)

    # calls

    def attach(self, seq, entries, prefix=()):
        prefix = tuple(prefix) if self.sharing else ()
        keys = self.cut(prefix)
        self._attach(seq, self.cut(entries[: len(prefix)]) + self.cut(entries[len(prefix) :]), keys, len(prefix))
        self.seqs[seq] = Sequence(self.seqs.pop(seq), len(entries), len(prefix))

    def attach_blocks(self, seq, blocks):
        zeros = [0] * self.page_size
        keys = [("block", block) for block in blocks] if self.sharing else []
        self._attach(seq, [zeros] * len(blocks), keys, len(keys) * self.page_size)
        self.seqs[seq] = Sequence(self.seqs.pop(seq), len(blocks) * self.page_size, 0)

    def _attach(self, seq, pieces, keys, named):
        path, pages, distinct = (), [], True
        for key, piece in zip(keys, pieces, strict=False):
            page = self.index.get((*path, key))
            if page is None:
                break
            if key[:1] != ("block",) and self.store and page.entries[: len(piece)] != piece:
                distinct = False
                break
            path += (key,)
            pages.append(page)
        found = len(pages)
        for page in pages:
            self.acquire(page)
        self.detach(seq)
        for i in range(found, len(pieces)):
            pages.append(self.take(pieces[i]))
            if i < len(keys) and distinct:
                path += (keys[i],)
                pages[-1].path = path
                self.index[path] = pages[-1]
        self.lookups += named
        self.hits += min(found * self.page_size, named)
        self.shares += found > 0
        self.seqs[seq] = pages

    def detach(self, seq):
        if seq in self.seqs:
            self.release(self.seqs.pop(seq).pages)

    def append(self, seq, entries):
        sequence = self.seqs[seq]
        for entry in entries:
            if (sequence.length - sequence.prefix) % self.page_size == 0:
                sequence.pages.append(self.take([]))
            else:
                self.own(sequence, len(sequence.pages) - 1)
            place = (sequence.length - sequence.prefix) % self.page_size
            sequence.pages[-1].entries[place:] = [entry]
            sequence.length += 1

    def place(self, sequence, position):
        if position < sequence.prefix:
            return divmod(position, self.page_size)
        page, slot = divmod(position - sequence.prefix, self.page_size)
        return page + len(self.cut(range(sequence.prefix))), slot

    def write(self, seq, start, entries):
        sequence = self.seqs[seq]
        for position, entry in enumerate(entries, start):
            page, slot = self.place(sequence, position)
            self.own(sequence, page)
            sequence.pages[page].entries[slot] = entry

    def truncate(self, seq, length):
        sequence = self.seqs[seq]
        if length < sequence.prefix:
            sequence.prefix = 0
        sequence.length = length
        keep = len(self.cut(range(sequence.prefix))) + len(self.cut(range(length - sequence.prefix)))
        self.release(sequence.pages[keep:])
        del sequence.pages[keep:]

    def fork(self, src, dst):
        source = self.seqs[src]
        for page in source.pages:
            self.acquire(page)
        self.seqs[dst] = Sequence(list(source.pages), source.length, source.prefix)

    def get(self, seq):
        sequence = self.seqs[seq]
        places = [self.place(sequence, position) for position in range(sequence.length)]
        return [sequence.pages[page].entries[slot] for page, slot in places]

    def match(self, tokens):
        lengths = range(len(tokens), 0, -1)
        return next((length for length in lengths if tuple(self.cut(tuple(tokens[:length]))) in self.index), 0)

    def stats(self):
        return {
            "total_sequences": len(self.seqs),
            "total_pages": self.max_pages,
            "allocated_pages": len(self.held),
            "free_pages": self.max_pages - len(self.held),
            "cached_pages": len(self.cached),
            "prefix_shares": self.shares,
            "prefix_map_size": len(self.index),
            "shared_pages_count": sum(page.refs > 1 for page in self.held),
            "total_page_refs": sum(len(sequence.pages) for sequence in self.seqs.values()),
            "cow_copies": self.copies,
            "evictions": self.evictions,
            "hit_tokens": self.hits,
            "lookup_tokens": self.lookups,
        }
