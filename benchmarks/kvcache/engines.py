"""vLLM's KV cache manager, where it can be imported: `pip install -e ".[bench-engines]"` (9 GB; it needs no GPU).

SGLang's radix cache is not run: its classes change with every release. Its recorded figures are in `peers`.
"""

import os
from collections.abc import Callable
from importlib import metadata
from typing import Any

HASHES = ("sha256", "xxhash")  # vLLM's default, and the quickest it offers


def engines(page_size: int, pages: int) -> dict[str, "Vllm"]:
    """Those that are installed, by name and version."""
    found = {}
    for name in HASHES:
        try:
            found[f"vLLM {metadata.version('vllm')}, {name}"] = Vllm(page_size, pages, name)
        except ImportError as error:  # metadata.PackageNotFoundError is one
            print(f"not installed, left out: vLLM with {name} ({error})")
    return found


class Vllm:
    """`attach` and `detach` as a scheduler of vLLM does it: a request is made and hashed, found, given its blocks."""

    def __init__(self, page_size: int, pages: int, name: str):
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        import torch
        from vllm.sampling_params import SamplingParams
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.request import Request

        hash_of = get_hash_fn_by_name(name)
        hash_of(())  # ImportError now, if its package is missing
        init_none_hash(hash_of)
        spec = FullAttentionSpec(block_size=page_size, num_kv_heads=1, head_size=1, dtype=torch.float16)
        config = KVCacheConfig(  # one block more: the first stands for none
            num_blocks=pages + 1, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        self.manager = KVCacheManager(
            config, max_model_len=2**20, scheduler_block_size=page_size, hash_block_size=page_size
        )
        self.request: Callable[..., Any] = Request
        self.sampling, self.hasher = SamplingParams(max_tokens=1), get_request_block_hasher(page_size, hash_of)
        self.requests: dict[int, Any] = {}
        self.page_size, self.hits = page_size, 0

    def attach(self, seq: int, tokens: list[int]) -> None:
        """Hold its blocks, those found and those taken anew. The last token is always computed, as vLLM wants it."""
        request = self.requests[seq] = self.request(
            request_id=str(seq), prompt_token_ids=tokens, sampling_params=self.sampling, pooling_params=None,
            block_hasher=self.hasher,
        )  # fmt: skip
        blocks, found, *_ = self.manager.get_computed_blocks(request)
        if self.manager.allocate_slots(request, len(tokens) - found, found, blocks) is None:
            raise MemoryError("no blocks")
        self.hits += found // self.page_size

    def detach(self, seq: int) -> None:
        """Let go of them."""
        self.manager.free(self.requests.pop(seq))
