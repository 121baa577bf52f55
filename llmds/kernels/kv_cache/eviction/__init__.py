"""The eviction policies of the KV cache: which cached page is evicted next. Modules load when first used.

A policy is a module of this folder that `table.POLICIES` names; `unused` has functions for what a policy has no use
for. What a policy keeps of a page lies in its row: NEWER, OLDER and the bits of STATE above OWN; everything else in
`pages.memory`. NEWER is a page or -1. Every policy has these functions, each O(1) amortised unless it says otherwise;
`pages` are the `Pages` of `kv_cache.layout`, all others but `size` are kernels:

    size(max_pages)         return how many elements of `memory` the policy needs; plain Python
    prepare(pages)          make zeroed memory that of a pool without pages
    begin(pages, page)      a referenced page has become findable
    attached(pages, tables, start, found, findable)
                            a sequence has been attached: its pages tables[start:start + findable] can be found, and the
                            first `found` of them could be found before
    enter(pages, page)      a page that can be found has lost its last reference: it is cached now
    leave(pages, page)      a cached page is referenced again, or (its row has no reference then) about to be forgotten
    drop(pages, page)       a referenced page is about to be forgotten
    victim(pages)           return the cached page to evict, int64; there is one. It has no pages below it, so that the
                            last pages of a chain are evicted before its first
    evicted(pages, page)    a page is evicted because its room is needed; then come `leave` and `forgotten`
    forgotten(pages, parent)
                            a page below `parent` has been forgotten, for whatever reason; there may be none left there
    fault(pages, cached)    return whether what the policy keeps is wrong, where cached bool (max_pages,) says which
                            pages are cached. It clears the entries it has found in order; one left over is a fault as
                            well. Safe on any contents of arrays of the right size

Pages below a cached page are cached too, with one exception: where a sequence wrote into a page it shared, and so holds
another one in its place, its later pages stay below the old one. A page with only such pages below it may be the
victim.
"""

from ..._lazy import submodules

__getattr__, __dir__ = submodules(__name__, __path__)
