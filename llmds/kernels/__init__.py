"""Compiled functions over arrays and scalars: the lower floor of the library.

A module or folder with the name of a structure serves that structure, the others (`hashing`, `table`, `strings`)
serve all of them; each says in its docstring what the arrays mean. They are public: call them from your own
`@njit` functions. Modules load when first named, `llmds.kernels.heap` as any other.
"""

from ._lazy import submodules

__getattr__, __dir__ = submodules(__name__, __path__)
