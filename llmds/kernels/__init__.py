"""Compiled functions over arrays and scalars, on which the classes of the library are built.

A module or folder with the name of a structure serves that structure; the others (`hashing`, `table`, `strings`)
serve several. Each documents its arrays. They are public: call them from your own `@njit` functions, on the arrays
that `structure.arrays` returns or on your own. A module is imported when it is first used as an attribute.
"""

from ._lazy import submodules

__getattr__, __dir__ = submodules(__name__, __path__)
