"""The file that the option `--plot` of a command names."""

from pathlib import Path


def check(path: str) -> None:
    """Raise ImportError without matplotlib, ValueError if the file cannot be written: before the work, not after it."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ImportError("--plot needs the package matplotlib: pip install 'llmds[plots]'") from error
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(path).suffix[1:].lower() not in known:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(known)}")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"{path}: no such folder")
