"""Seconds of a step, by figures worked out by hand."""

import math

import numpy as np
import pytest

from llmds.simulator.cost_model import HARDWARE, MODELS, CostModel, Hardware, Model, kv_pages, preset

# 1e9 parameters in 2 GB; 2 layers of 4 heads (2 of keys) of 8 numbers: 2 * 2 * 2 * 8 * 2 = 128 bytes a token
SMALL = Model(1e9, 2, 4, 2, 8, source="made up")
DEVICE = Hardware(flops=4e12, bandwidth=1e12, memory=3e9, source="made up")


def test_a_linear_model_adds_up():
    cost = CostModel.linear(step=0.5, prefill_token=0.01, decode_sequence=0.1, context_token=0.001)
    assert cost.seconds(0, 0, 0) == 0.5 and cost.seconds(10, 2, 30) == pytest.approx(0.5 + 0.1 + 0.2 + 0.03)
    assert cost.seconds(10, 2, 30, attended_pairs=1e6) == cost.seconds(10, 2, 30)
    assert CostModel.linear().seconds(9, 9, 9, 9) == 0.0


def test_a_roofline_by_hand():
    assert SMALL.kv_bytes_per_token == 128
    cost = CostModel.roofline(SMALL, DEVICE)
    # one sequence with 1,000 tokens of context reads 2e9 + 128 * (1000 + 1) bytes, and computes far less long
    assert cost.seconds(0, 1, 1000) == pytest.approx((2e9 + 128 * 1001) / 1e12, rel=1e-12)
    # a prompt of 10,000: 2e9 FLOPs a token, 4 * 2 * 4 * 8 = 256 a pair
    pairs = 10_000 * 10_001 / 2
    assert cost.seconds(10_000, 0, 0, pairs) == pytest.approx((10_000 * 2e9 + pairs * 256) / 4e12, rel=1e-12)
    # where both sides are equal, the larger one counts on either side of it
    even = 2e9 / 1e12 / (2e9 / 4e12)
    assert cost.seconds(even - 1, 0, 0) == pytest.approx((2e9 + 128 * (even - 1)) / 1e12)
    assert cost.seconds(even + 1, 0, 0) == pytest.approx((even + 1) * 2e9 / 4e12)
    assert cost.seconds(0, 2, 500, 0) > cost.seconds(0, 1, 500, 0)


def test_devices_efficiencies_and_overhead():
    one, prompt, decode = CostModel.roofline(SMALL, DEVICE), (10_000, 0, 0, 5e7), (0, 4, 4000)
    four = CostModel.roofline(SMALL, DEVICE, devices=4)
    slow = CostModel.roofline(SMALL, DEVICE, compute_efficiency=0.5, bandwidth_efficiency=0.25)
    late = CostModel.roofline(SMALL, DEVICE, overhead=3e-3)
    for step, factor in ((prompt, 2), (decode, 4)):
        assert four.seconds(*step) == pytest.approx(one.seconds(*step) / 4)
        assert slow.seconds(*step) == pytest.approx(one.seconds(*step) * factor)
        assert late.seconds(*step) == pytest.approx(one.seconds(*step) + 3e-3)


def test_pages_that_fit_beside_the_parameters():
    # .9 * 3e9 - 2e9 bytes, pages of 16 * 128
    assert kv_pages(SMALL, DEVICE, 16) == int(0.7e9 / 2048)
    assert kv_pages(SMALL, DEVICE, 16, devices=2, utilisation=0.5) == int(1e9 / 2048)
    with pytest.raises(ValueError, match="devices"):
        kv_pages(SMALL, DEVICE, 16, utilisation=0.5)
    with pytest.raises(ValueError, match="devices"):
        kv_pages(MODELS["llama-3.1-70b"], HARDWARE["h100-sxm"], 16)
    for name, bad in (("page_size", 0), ("devices", 0), ("utilisation", 0.0), ("utilisation", 1.5)):
        with pytest.raises(ValueError, match=name):
            kv_pages(SMALL, DEVICE, **{"page_size": 16, name: bad})


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_source_and_sound_figures(name):
    model = MODELS[name]
    assert model.source and model.heads % model.kv_heads == 0
    # what layers of attention and three matrices of a gated MLP can hold at most, and half of that at least
    width = model.heads * model.head_dim
    assert 5 * model.layers * width**2 < model.parameters < 20 * model.layers * width**2 + 2 * 160_000 * width


@pytest.mark.parametrize("name", HARDWARE)
def test_every_device_has_a_source_and_sound_figures(name):
    device = HARDWARE[name]
    assert device.source and 100 < device.flops / device.bandwidth < 400 and 40e9 <= device.memory <= 300e9


def test_presets():
    assert preset("llama-3.1-8b@h100-sxm") == (MODELS["llama-3.1-8b"], HARDWARE["h100-sxm"], 1)
    assert preset("llama-3.1-70b@h100-sxmx8") == (MODELS["llama-3.1-70b"], HARDWARE["h100-sxm"], 8)
    assert preset("qwen2.5-7b@mi300x")[1:] == (HARDWARE["mi300x"], 1)
    assert preset("qwen2.5-7b@mi300xx2")[1:] == (HARDWARE["mi300x"], 2)
    assert all(preset(f"{model}@{device}x3")[2] == 3 for model in MODELS for device in HARDWARE)
    for bad in (
        "", "llama-3.1-8b", "@", "llama-3.1-8b@", "gpt@h100-sxm", "llama-3.1-8b@tpu", "llama-3.1-8b@h100-sxmx0",
        "llama-3.1-8b@h100-sxmx-1", "llama-3.1-8b@h100-sxmx", "llama-3.1-8b@h100-sxmx1.5", "llama-3.1-8b@x2",
        "llama-3.1-8b@h100-sxmx²",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="mistral-7b") as refusal:
            preset(bad)
        assert repr(bad) in str(refusal.value)
    with pytest.raises(TypeError, match="preset"):
        preset(None)


def test_what_a_cost_model_cannot_be():
    for name in ("compute", "memory"):
        for bad, error in (
            ((1.0,) * 4, ValueError), ((1.0,) * 6, ValueError), ("12345", TypeError), (5.0, TypeError),
            ((1.0, 1.0, -1.0, 0.0, 0.0), ValueError), ((math.nan,) * 5, ValueError), (("1",) * 5, TypeError),
        ):  # fmt: skip
            with pytest.raises(error, match=name):
                CostModel(**{"compute": (0.0,) * 5, name: bad})
    with pytest.raises(ValueError, match="overhead"):
        CostModel((0.0,) * 5, overhead=-1)
    for name in ("compute_efficiency", "bandwidth_efficiency"):
        for bad in (0.0, 1.01, -0.5):
            with pytest.raises(ValueError, match=name):
                CostModel.roofline(SMALL, DEVICE, **{name: bad})
    with pytest.raises(ValueError, match="devices"):
        CostModel.roofline(SMALL, DEVICE, devices=0)
    for name in ("prefill_tokens", "decode_sequences", "context_tokens", "attended_pairs"):
        step = {"prefill_tokens": 0, "decode_sequences": 0, "context_tokens": 0, name: -1}
        with pytest.raises(ValueError, match=name):
            CostModel.linear().seconds(**step)
    for name, bad in (
        ("parameters", 0),
        ("layers", 0),
        ("heads", -1),
        ("kv_heads", 0),
        ("head_dim", 0),
        ("kv_bytes", 0),
    ):
        with pytest.raises(ValueError, match=name):
            Model(**{"parameters": 1e9, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, name: bad})
    for name in ("flops", "bandwidth", "memory"):
        with pytest.raises(ValueError, match=name):
            Hardware(**{"flops": 1.0, "bandwidth": 1.0, "memory": 1.0, name: 0.0})


def test_coefficients_come_as_any_sequence_and_are_kept_as_floats():
    cost = CostModel(np.arange(5), [1, 2, 3, 4, 5], 1)
    assert cost.compute == (0.0, 1.0, 2.0, 3.0, 4.0) and cost == CostModel(range(5), (1, 2, 3, 4, 5), 1.0)
    assert cost.coefficients.tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 1] and hash(cost) is not None
