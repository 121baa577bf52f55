"""Where a command's `--plot` goes."""

from pathlib import Path


def check(path: str) -> None:
    """ImportError or ValueError now, not after the work."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ImportError("--plot needs the package matplotlib: pip install 'llmds[plots]'") from error
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(path).suffix[1:].lower() not in known:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(known)}")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"{path}: no such folder")
