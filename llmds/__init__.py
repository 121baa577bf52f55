"""Data structures for LLM serving and retrieval: NumPy arrays, with Numba kernels that work on them.

Every public name is loaded when it is first used, so `import llmds` is fast and loads neither NumPy nor Numba.
"""

from typing import TYPE_CHECKING

from .kernels._lazy import exports

__version__ = "0.1.0"

# public name -> the module that defines it
_HOME = {
    "AdmissionController": "admissions",
    "CostModel": "simulator",
    "CountMinSketch": "cmsketch",
    "Documents": "documents",
    "HNSW": "hnsw",
    "IndexedHeap": "indexed_heap",
    "InvertedIndex": "inverted_index",
    "KVCache": "kv_cache",
    "LSAEncoder": "encoders",
    "LatencyRecorder": "utils",
    "MemoryProfiler": "utils",
    "OutOfPagesError": "paged_allocator",
    "PageStats": "paged_allocator",
    "PagedAllocator": "paged_allocator",
    "Replica": "simulator",
    "Request": "scheduler",
    "RetrievalPipeline": "retrieval_pipeline",
    "Scheduler": "scheduler",
    "Simulation": "simulator",
    "SentenceTransformerEncoder": "encoders",
    "Sweep": "simulator",
    "Timer": "utils",
    "TokenLRU": "token_lru",
    "Tokenizer": "tokenizer",
    "Trace": "traces",
    "memory_profiler": "utils",
    "simulate": "simulator",
    "sweep": "simulator",
}
_MODULES = {*_HOME.values(), "base", "kernels"}

__all__ = [
    "HNSW", "AdmissionController", "CostModel", "CountMinSketch", "Documents", "IndexedHeap", "InvertedIndex",
    "KVCache", "LSAEncoder", "LatencyRecorder", "MemoryProfiler", "OutOfPagesError", "PageStats", "PagedAllocator",
    "Replica", "Request", "RetrievalPipeline", "Scheduler", "SentenceTransformerEncoder", "Simulation", "Sweep",
    "Timer", "TokenLRU", "Tokenizer", "Trace", "memory_profiler", "simulate", "sweep",
]  # fmt: skip

if TYPE_CHECKING:
    from .admissions import AdmissionController
    from .cmsketch import CountMinSketch
    from .documents import Documents
    from .encoders import LSAEncoder, SentenceTransformerEncoder
    from .hnsw import HNSW
    from .indexed_heap import IndexedHeap
    from .inverted_index import InvertedIndex
    from .kv_cache import KVCache
    from .paged_allocator import OutOfPagesError, PagedAllocator, PageStats
    from .retrieval_pipeline import RetrievalPipeline
    from .scheduler import Request, Scheduler
    from .simulator import CostModel, Replica, Simulation, Sweep, simulate, sweep
    from .token_lru import TokenLRU
    from .tokenizer import Tokenizer
    from .traces import Trace
    from .utils import LatencyRecorder, MemoryProfiler, Timer, memory_profiler


__getattr__, __dir__ = exports(__name__, _HOME, _MODULES)
