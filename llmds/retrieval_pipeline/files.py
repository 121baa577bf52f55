"""Files of a pipeline that older versions wrote."""

import numpy as np

from ..base import arguments, files


def upgrade(arrays: files.Arrays, where: str) -> np.ndarray:
    """Change arrays of version 1, whose graph had vectors by number, to those of version 2, in place.

    Returns the ids, int64, of vectors without a document, which are to be removed. Raises Damaged if numbers are wrong.
    """
    document_of = arrays.pop("vectors.document_of")
    for array in (document_of, arrays.get("vectors.graph.ids", document_of)):
        if array.ndim != 1 or array.dtype != np.int64:
            raise files.Damaged(f"{where}: damaged: vectors are not numbered")
    arrays.pop("vectors.arena", None)
    for name in [name for name in arrays if name.startswith("vectors.graph.")]:
        arrays[name.replace("vectors.graph.", "vectors.")] = arrays.pop(name)
    numbers = arrays.get("vectors.ids", np.empty(0, np.int64))
    if len(document_of) < len(numbers) or not (numbers == np.arange(len(numbers))).all():
        raise files.Damaged(f"{where}: damaged: vectors are not numbered")
    ids = document_of[: len(numbers)].copy()
    unclaimed = np.flatnonzero(ids < 0)
    spare = np.setdiff1d(arguments.INT64_MAX - np.arange(2 * len(numbers)), ids)[: len(unclaimed)]
    arrays["vectors.ids"] = ids
    ids[unclaimed] = spare
    return spare
