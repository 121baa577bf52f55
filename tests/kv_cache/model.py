"""A KV cache of Python lists, too simple to be wrong."""

import copy

from llmds.paged_allocator import OutOfPagesError


class Page:
    def __init__(self, entries):
        self.entries, self.refs, self.pins, self.path = list(entries), 1, 0, None


class Sequence:
    def __init__(self, pages, length, prefix, salt):
        self.pages, self.length, self.prefix, self.salt = pages, length, prefix, salt


class Model:
    """Pages are objects; a page is found by its salt and the whole path of ids that leads to it; the oldest cached page
    is first. Entries are token ids where `content`."""

    def __init__(self, page_size, max_pages, sharing=True, store=True, content=True):
        self.page_size, self.max_pages, self.sharing, self.store = page_size, max_pages, sharing, store
        self.content = content and sharing
        self.seqs, self.index, self.cached, self.held, self.told = {}, {}, [], [], []
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
        for path in sorted((path for path in self.index if path[: len(page.path)] == page.path), key=len, reverse=True):
            below = self.index.pop(path)
            self.told.append((False, path))
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

    def find(self, path, page):
        page.path = path
        self.index[path] = page
        self.told.append((True, path))

    # calls

    def attach(self, seq, entries, prefix=(), salt=0):
        prefix = tuple(prefix) if self.sharing else ()
        if self.content and not self.store:  # of entries, token ids alone are kept
            entries = [*prefix, *entries[len(prefix) :]]
        first, rest = self.cut(entries[: len(prefix)]), self.cut(entries[len(prefix) :])
        keys, named = self.cut(prefix), len(prefix)
        if self.content and named % self.page_size == 0:
            full = [tuple(piece) for piece in rest if len(piece) == self.page_size]
            keys, named = keys + full, named + len(full) * self.page_size
        self._attach(seq, first + rest, keys, named, salt)
        self.seqs[seq] = Sequence(self.seqs.pop(seq), len(entries), len(prefix), salt)

    def attach_blocks(self, seq, blocks, salt=0):
        zeros = [0] * self.page_size
        keys = [("block", block) for block in blocks] if self.sharing else []
        self._attach(seq, [zeros] * len(blocks), keys, len(keys) * self.page_size, salt)
        self.seqs[seq] = Sequence(self.seqs.pop(seq), len(blocks) * self.page_size, 0, salt)

    def _attach(self, seq, pieces, keys, named, salt):
        path, pages, distinct = (salt,), [], True
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
                self.find(path, pages[-1])
        self.lookups += named
        self.hits += min(found * self.page_size, named)
        self.shares += found > 0
        self.seqs[seq] = pages

    def detach(self, seq):
        if seq in self.seqs:
            self.release(self.seqs.pop(seq).pages)

    def append(self, seq, entries):
        self.append_many({seq: entries})

    def append_many(self, batch):
        for seq, entries in batch.items():
            self._append(seq, entries)
        for seq, entries in batch.items():
            sequence = self.seqs[seq]
            if self.content and sequence.prefix % self.page_size == 0:
                full = range((sequence.length - len(entries)) // self.page_size, sequence.length // self.page_size)
                for i in full:
                    self.settle(sequence, i)

    def settle(self, sequence, i):
        above = sequence.pages[i - 1].path if i else (sequence.salt,)
        if above is None:
            return
        page, path = sequence.pages[i], (*above, tuple(sequence.pages[i].entries))
        same = self.index.get(path)
        if same is None:
            self.find(path, page)
        elif same.entries == page.entries:
            self.acquire(same)
            self.release([page])
            sequence.pages[i] = same

    def _append(self, seq, entries):
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
        self.seqs[dst] = Sequence(list(source.pages), source.length, source.prefix, source.salt)

    def get(self, seq):
        sequence = self.seqs[seq]
        places = [self.place(sequence, position) for position in range(sequence.length)]
        return [sequence.pages[page].entries[slot] for page, slot in places]

    def match(self, tokens, salt=0):
        lengths = range(len(tokens), 0, -1)
        return next((length for length in lengths if (salt, *self.cut(tuple(tokens[:length]))) in self.index), 0)

    def match_blocks(self, blocks, salt=0):
        path = (salt, *(("block", block) for block in blocks))
        return next((length for length in range(len(blocks), 0, -1) if path[: length + 1] in self.index), 0)

    def path_pages(self, tokens, salt):
        path = (salt, *self.cut(tuple(tokens[: self.match(tokens, salt)])))
        return [self.index[path[: depth + 1]] for depth in range(1, len(path))]

    def pin(self, tokens, salt, limit):
        pages = self.path_pages(tokens, salt)
        if sum(page.pins > 0 for page in self.held) + sum(page.pins == 0 for page in pages) > limit:
            raise OutOfPagesError
        for page in pages:
            self.acquire(page)
            page.pins += 1

    def unpin(self, tokens, salt):
        pages = self.path_pages(tokens, salt)
        below = [page for page in self.index.values() if pages and page.path[:-1] == pages[-1].path]
        if self.match(tokens, salt) < len(tokens) or (pages and pages[-1].pins <= sum(page.pins for page in below)):
            raise ValueError
        for page in pages:
            page.pins -= 1
        self.release(pages)

    def stats(self):
        return {
            "total_sequences": len(self.seqs),
            "total_pages": self.max_pages,
            "allocated_pages": len(self.held),
            "free_pages": self.max_pages - len(self.held),
            "cached_pages": len(self.cached),
            "pinned_pages": sum(page.pins > 0 for page in self.held),
            "prefix_shares": self.shares,
            "prefix_map_size": len(self.index),
            "shared_pages_count": sum(page.refs > 1 for page in self.held),
            "total_page_refs": sum(page.refs for page in self.held),
            "cow_copies": self.copies,
            "evictions": self.evictions,
            "hit_tokens": self.hits,
            "lookup_tokens": self.lookups,
        }
