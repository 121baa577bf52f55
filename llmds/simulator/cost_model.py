"""How long one step of continuous batching takes: measured coefficients, or the roofline of a model on a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base import arguments
from ..kernels.simulator import step_cost as kernels


def _positive(name: str, value: float, high: float = 1e30) -> float:
    checked = arguments.real(name, value, 0.0, high)
    if checked == 0:
        raise ValueError(f"{name} must be more than 0, got {value}")
    return checked


@dataclass(frozen=True)
class Model:
    """A dense decoder-only transformer, as far as its speed is concerned.

    Parameters
    ----------
    parameters : float
        How many.
    layers, heads, kv_heads, head_dim : int
        heads are those of queries.
    parameter_bytes, kv_bytes : float
        Bytes of a parameter and of a number in the KV cache (2 for 16 bits).
    source : str
        Where the figures are from.
    """

    parameters: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    parameter_bytes: float = 2.0
    kv_bytes: float = 2.0
    source: str = ""

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("layers", "heads", "kv_heads", "head_dim"):
            arguments.integer(name, getattr(self, name), 1, 1 << 20)
        for name in ("parameters", "parameter_bytes", "kv_bytes"):
            _positive(name, getattr(self, name))

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values that one token takes in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes


@dataclass(frozen=True)
class Hardware:
    """An accelerator.

    Parameters
    ----------
    flops : float
        Dense 16-bit FLOP/s (without sparsity).
    bandwidth, memory : float
        Bytes/s, and bytes.
    source : str
        Where the figures are from.
    """

    flops: float
    bandwidth: float
    memory: float
    source: str = ""

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("flops", "bandwidth", "memory"):
            _positive(name, getattr(self, name))


# Layers and heads: `config.json` of each model on Hugging Face; parameters: its model card.
MODELS = {
    "llama-3.1-8b": Model(8.03e9, 32, 32, 8, 128, source="meta-llama/Llama-3.1-8B, model card and config.json"),
    "llama-3.1-70b": Model(70.6e9, 80, 64, 8, 128, source="meta-llama/Llama-3.1-70B, model card and config.json"),
    "mistral-7b": Model(7.24e9, 32, 32, 8, 128, source="mistralai/Mistral-7B-v0.1, model card and config.json"),
    "qwen2.5-7b": Model(7.61e9, 28, 28, 4, 128, source="Qwen/Qwen2.5-7B, model card and config.json"),
}
HARDWARE = {
    "a100-80gb": Hardware(312e12, 2.039e12, 80e9, "NVIDIA A100 Tensor Core GPU datasheet (2021), 80GB SXM, BF16 dense"),
    "h100-sxm": Hardware(989.4e12, 3.35e12, 80e9, "NVIDIA H100 Tensor Core GPU datasheet (2023), SXM5, BF16 dense"),
    "h200-sxm": Hardware(989.4e12, 4.8e12, 141e9, "NVIDIA H200 Tensor Core GPU datasheet (2024), SXM, BF16 dense"),
    "mi300x": Hardware(1307.4e12, 5.3e12, 192e9, "AMD Instinct MI300X data sheet (2023), BF16 dense"),
}


@dataclass(frozen=True)
class CostModel:
    """Seconds that a step takes, from what it computes.

        overhead + max(compute . x, memory . x),  x = (1, P, D, C, A)

    P: prompt tokens computed; D: sequences that decode a token; C: tokens of context of these; A: pairs of a
    prompt token with a token it attends to. The larger side counts (roofline, Williams et al. 2009); a linear model has
    one side.

    Parameters
    ----------
    compute, memory : sequence of float
        The five coefficients of each side, in seconds.
    overhead : float
        Seconds a step beside both.

    Examples
    --------
    >>> CostModel.linear(step=0.01, prefill_token=1e-4, decode_sequence=1e-5).seconds(1000, 10, 0)
    0.1101
    >>> round(CostModel.roofline(MODELS["llama-3.1-8b"], HARDWARE["h100-sxm"]).seconds(0, 1, 1000), 4)
    0.0048
    """

    compute: tuple[float, float, float, float, float]
    memory: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    overhead: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name in ("compute", "memory"):
            values = getattr(self, name)
            if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, str):
                raise TypeError(f"{name} must be a sequence of {kernels.INPUTS} coefficients, got {values!r}")
            if len(values) != kernels.INPUTS:
                raise ValueError(f"{name} must be {kernels.INPUTS} coefficients, got {values!r}")
            checked = tuple(arguments.real(f"{name}[{i}]", value, 0.0, 1e9) for i, value in enumerate(values))
            object.__setattr__(self, name, checked)
        object.__setattr__(self, "overhead", arguments.real("overhead", self.overhead, 0.0, 1e9))

    @classmethod
    def linear(
        cls, step: float = 0.0, prefill_token: float = 0.0, decode_sequence: float = 0.0, context_token: float = 0.0
    ) -> "CostModel":
        """Return a model of the seconds a step, prompt token, decoding sequence and token of context take.

        Measure them on your engine.
        """
        return cls((step, prefill_token, decode_sequence, context_token, 0.0))

    @classmethod
    def roofline(
        cls,
        model: Model,
        hardware: Hardware,
        *,
        devices: int = 1,
        compute_efficiency: float = 1.0,
        bandwidth_efficiency: float = 1.0,
        overhead: float = 0.0,
    ) -> "CostModel":
        """Return what a model on `devices` accelerators (tensor parallel, communication free) takes at least.

        A token costs 2 FLOPs a parameter and 4 * layers * heads * head_dim for each token it attends to; a step reads
        all parameters once, and the keys and values of its contexts, and writes those of its tokens (Pope et al. 2022,
        "Efficiently Scaling Transformer Inference").

        Parameters
        ----------
        model, hardware : Model, Hardware
            What runs where.
        devices : int
            How many accelerators.
        compute_efficiency, bandwidth_efficiency : float
            Shares of the peaks that are reached: 1 is a bound, engines reach less, so measure yours.
        overhead : float
            Seconds a step that neither side covers.
        """
        devices = arguments.integer("devices", devices, 1, 1 << 20)
        flops = devices * hardware.flops * _positive("compute_efficiency", compute_efficiency, 1.0)
        bandwidth = devices * hardware.bandwidth * _positive("bandwidth_efficiency", bandwidth_efficiency, 1.0)
        token, pair = 2 * model.parameters / flops, 4.0 * model.layers * model.heads * model.head_dim / flops
        weights, entry = model.parameters * model.parameter_bytes / bandwidth, model.kv_bytes_per_token / bandwidth
        return cls((0.0, token, token, pair, pair), (weights, entry, entry, entry, 0.0), overhead)

    def seconds(
        self, prefill_tokens: float, decode_sequences: float, context_tokens: float, attended_pairs: float = 0.0
    ) -> float:
        """Return the seconds of a step of these P, D, C and A."""
        given = {
            "prefill_tokens": prefill_tokens,
            "decode_sequences": decode_sequences,
            "context_tokens": context_tokens,
            "attended_pairs": attended_pairs,
        }
        step = [arguments.real(name, value, 0.0, 1e300) for name, value in given.items()]
        return float(kernels.seconds(self.coefficients, *step))

    @property
    def coefficients(self) -> np.ndarray:
        """The coefficients in the form that the kernels take: float64 (11,)."""
        return np.array((*self.compute, *self.memory, self.overhead))


def kv_pages(model: Model, hardware: Hardware, page_size: int, *, devices: int = 1, utilisation: float = 0.9) -> int:
    """Return the pages of `page_size` tokens that fit beside the parameters in `utilisation` of all devices' memory."""
    page_size = arguments.integer("page_size", page_size, 1, 2**31 - 1)
    devices = arguments.integer("devices", devices, 1, 1 << 20)
    room = (
        devices * hardware.memory * _positive("utilisation", utilisation, 1.0)
        - model.parameters * model.parameter_bytes
    )
    pages = int(room / (model.kv_bytes_per_token * page_size))
    if pages < 1:
        raise ValueError(f"devices must be more: {devices} have no room for a page beside the parameters")
    return pages


def preset(name: str) -> tuple[Model, Hardware, int]:
    """Return (model, hardware, devices) of "MODEL@HARDWARE" or "MODEL@HARDWARExN", as "llama-3.1-70b@h100-sxmx4".

    The names are those of `MODELS` and `HARDWARE`; ValueError, which lists them, for others.
    """
    model, _, rest = arguments.text("preset", name).partition("@")
    hardware, devices = rest, 1
    if rest not in HARDWARE:
        hardware, _, count = rest.rpartition("x")
        devices = int(count) if count.isdecimal() and 0 < int(count) <= 1 << 20 else 0
    if model not in MODELS or hardware not in HARDWARE or devices < 1:
        known = f"MODEL of {', '.join(MODELS)} and HARDWARE of {', '.join(HARDWARE)}"
        raise ValueError(f"preset must be MODEL@HARDWARE or MODEL@HARDWARExN, with {known}, got {name!r}")
    return MODELS[model], HARDWARE[hardware], devices
