"""README's examples run, and give what they say."""

import ast
import re
from pathlib import Path

import pytest

import llmds

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"^### (.*?)\n.*?```python\n(.*?)```", README, re.M | re.S)
STRUCTURES = {
    name for name in llmds.__all__ if isinstance(getattr(llmds, name), type) and hasattr(getattr(llmds, name), "check")
} - {"Documents", "LatencyRecorder", "Tokenizer"}


def run(source):
    """Execute the example; a line that ends in `# -> value` must give that value. How many did."""
    namespace, checked, lines = {}, 0, source.splitlines()
    for statement in ast.parse(source).body:
        _, arrow, expected = lines[statement.end_lineno - 1].partition("  # -> ")
        code = ast.get_source_segment(source, statement)
        if arrow:
            assert repr(eval(code, namespace)) == expected.strip(), code
            checked += 1
        else:
            exec(ast.unparse(statement), namespace)
    return checked


@pytest.mark.parametrize("source", [pytest.param(source, id=title) for title, source in EXAMPLES])
def test_an_example_gives_what_it_says(source):
    assert run(source) > 0


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_every_structure_has_an_example(name):
    assert any(re.search(rf"^from llmds import .*\b{name}\b", source, re.M) for _, source in EXAMPLES)


@pytest.mark.parametrize(
    "line",
    ["python -m pip install -e . && python -m llmds demo", 'python -m pip install -e ".[test]" && python -m pytest'],
)
def test_the_two_lines_stand_there_to_be_pasted(line):
    assert f"\n{line}\n" in README
