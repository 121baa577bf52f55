"""Settings that must be in force before Numba is imported, and the data that tests may use."""

import hashlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def kernels_digest(folder: Path) -> str:
    """16 hexadecimal digits that change with the name or the text of any module in `folder`, at any depth."""
    digest = hashlib.sha256()
    for source in sorted(folder.rglob("*.py")):
        digest.update(os.fsencode(source.relative_to(folder)) + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    """One folder for each state of the kernels: Numba does not see that a kernel's helper was edited."""
    bounds = "-bounds" if os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0") else ""
    return ROOT / ".numba_cache" / (kernels_digest(ROOT / "llmds" / "kernels") + bounds)


os.environ["NUMBA_CACHE_DIR"] = str(_cache_folder())

from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile("llmds", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("llmds")


def data_folder() -> Path | None:
    """Where the corpora and traces lie: LLMDS_DATA, or ../shared/data where it exists."""
    named = os.environ.get("LLMDS_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data() -> Path:
    """The data folder; tests that need it are skipped where there is none."""
    folder = data_folder()
    if folder is None:
        pytest.skip("no data: LLMDS_DATA names no folder, and there is no ../shared/data")
    return folder
