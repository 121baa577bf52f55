"""The documented API, read from its page: every name, parameter and default holds."""

import ast
import inspect
import re
from importlib import import_module
from math import log
from pathlib import Path

import pytest

import llmds

PAGE = (Path(__file__).parent / "api_reference.md").read_text()
SECTIONS = re.findall(r"^### `([\w.]+)`\n(.*?)(?=^### |\Z)", PAGE, re.M | re.S)


def bullets(body, heading):
    """The code of each bullet below a bold heading."""
    block = re.search(rf"\*\*{heading}:\*\*\n((?:- .*\n)+)", body)
    return re.findall(r"^- `([^`]+)`", block.group(1), re.M) if block else []


def parameters(source):
    """[(name, default or inspect.Parameter.empty)] of a signature in the page's notation."""
    function = ast.parse(f"def {source}: ...").body[0]
    names = [argument.arg for argument in function.args.args]
    defaults = [eval(ast.unparse(default), {"log": log}) for default in function.args.defaults]
    return list(zip(names, [inspect.Parameter.empty] * (len(names) - len(defaults)) + defaults, strict=True))


def positional(function):
    """[(name, default)] of what may be given by position, without self."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    found = inspect.signature(function).parameters.values()
    assert all(p.kind in (*kinds, inspect.Parameter.KEYWORD_ONLY) for p in found), "no *args or **kwargs"
    assert all(p.default is not p.empty for p in found if p.kind is p.KEYWORD_ONLY), (
        "what is not documented is optional"
    )
    return [(p.name, p.default) for p in found if p.kind in kinds and p.name != "self"]


def documented():
    for path, body in SECTIONS:
        for method in bullets(body, "Methods"):
            yield pytest.param(path, method, id=f"{path.rsplit('.')[-1]}.{method.split('(')[0]}")
    yield pytest.param("llmds.utils", "memory_profiler() -> Iterator[MemoryProfiler]", id="memory_profiler")


def resolved(path):
    module, _, name = path.rpartition(".")
    return import_module(path) if module == "llmds" else getattr(import_module(module), name)


def test_the_page_was_read():
    assert len(SECTIONS) == 11 and len(list(documented())) > 45


@pytest.mark.parametrize("path, method", list(documented()))
def test_a_method_has_the_documented_parameters(path, method):
    function = getattr(resolved(path), method.split("(")[0])
    assert positional(function) == parameters(method)
    assert inspect.getdoc(function)


@pytest.mark.parametrize("path, body", [pytest.param(path, body, id=path.rsplit(".")[-1]) for path, body in SECTIONS])
def test_a_class_has_the_documented_parameters(path, body):
    documented = bullets(body, "Parameters")
    if documented:
        assert positional(resolved(path)) == parameters(f"f({', '.join(documented)})")
    else:
        positional(resolved(path))


@pytest.mark.parametrize(
    "path, expected",
    [
        ("llmds.paged_allocator.PagedAllocator", "f(page_size, max_pages)"),
        ("llmds.token_lru.TokenLRU", "f(token_budget, token_of)"),
        ("llmds.scheduler.Scheduler", "f(max_batch_size=32, max_wait_ms=50.0, priority_fn=None)"),
        ("llmds.admissions.AdmissionController", "f(qps_target=10.0, token_rate_limit=10000, window_size=10)"),
        ("llmds.inverted_index.InvertedIndex", "f(tokenizer=None)"),
        ("llmds.cmsketch.CountMinSketch", "f(width=2048, depth=4)"),
        (
            "llmds.retrieval_pipeline.RetrievalPipeline",
            "f(embedding_dim=384, hnsw_M=16, hnsw_ef_construction=200, hnsw_ef_search=50, token_budget=100000,"
            " tokenizer=None, seed=None)",
        ),
    ],
)
def test_constructors_the_page_leaves_open(path, expected):
    assert positional(resolved(path)) == parameters(expected)


@pytest.mark.parametrize("name", llmds.__all__)
def test_every_public_name_is_documented_and_at_home(name):
    value = getattr(llmds, name)
    assert inspect.getdoc(value) and value.__module__.startswith("llmds.") and name in dir(llmds)
    if inspect.isclass(value):
        for method, function in inspect.getmembers(value, inspect.isfunction):
            assert method.startswith("_") or inspect.getdoc(function), f"{name}.{method} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Nothing"):
        llmds.Nothing  # noqa: B018
    with pytest.raises(AttributeError, match="nothing"):
        llmds.kernels.nothing  # noqa: B018
