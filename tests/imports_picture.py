"""The picture of the imports between parts of the library."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

from tests.imports import Graph, levels, reduced

# Okabe and Ito's palette, lightened for text in black
COLOURS = {"kernels": "#9ad0f3", "base": "#f5d28b", "structure": "#a6dccb", "command": "#e3e3e3"}
WIDTH, HEIGHT, STEP = 1.05, 0.62, 1.25


def kind(name: str) -> str:
    """What a part is, by its name."""
    if name.startswith("kernels"):
        return "kernels"
    if name == "base":
        return "base"
    return "command" if name in ("commands", "llmds", "__main__", "utils") else "structure"


def _label(name: str) -> str:
    """The name in lines that fit a box."""
    above, dot, own = name.rpartition(".")
    return above + dot + "\n" * bool(dot) + (own.replace("_", "_\n", 1) if len(own) > 12 else own)


def placed(graph: Graph) -> dict[str, tuple[float, float]]:
    """Where each part lies: a row for each level, ordered so that parts lie near what they import."""
    level, arrows = levels(graph), reduced(graph)
    rows: dict[int, list[str]] = {}
    for name in sorted(graph):
        rows.setdefault(level[name], []).append(name)
    widest = max(map(len, rows.values()))
    x: dict[str, float] = {}
    for _ in range(8):
        for row in sorted(rows):
            above = {name: [other for other in graph if name in arrows[other]] for name in rows[row]}
            near = {name: [x[o] for o in (*arrows[name], *above[name]) if o in x] for name in rows[row]}
            order = sorted(rows[row], key=lambda name: (sum(near[name]) / len(near[name]) if near[name] else 0, name))
            gap = widest / len(order)
            x.update({name: (place + 0.5) * gap for place, name in enumerate(order)})
    return {name: (x[name] * STEP, level[name]) for name in graph}


def draw(graph: Graph, path: Path) -> None:
    """Draw the graph, without the front door that re-exports from every part."""
    graph = {name: targets for name, targets in graph.items() if name not in ("llmds", "__main__")}
    places, arrows = placed(graph), reduced(graph)
    across, up = max(x for x, _ in places.values()), max(y for _, y in places.values())
    style = {"svg.fonttype": "none", "svg.hashsalt": "llmds", "font.size": 8}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(1.1 * across, 1.0 * up + 1))
        for name, targets in sorted(arrows.items()):
            for target in sorted(targets):
                (x, y), (to_x, to_y) = places[name], places[target]
                line = {"arrowstyle": "-|>", "color": "#555555", "lw": 0.7, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (to_x, to_y + HEIGHT / 2), (x, y - HEIGHT / 2), arrowprops=line, zorder=1)
        for name, (x, y) in sorted(places.items()):
            corner = (x - WIDTH / 2, y - HEIGHT / 2)
            look = {"fc": COLOURS[kind(name)], "ec": "#333333"}
            box = FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.08", **look)
            axes.add_patch(box)
            axes.text(x, y, _label(name), ha="center", va="center", zorder=3)
        axes.set_xlim(0, across + WIDTH)
        axes.set_ylim(-0.5, up + 0.5)
        axes.axis("off")
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None}, facecolor="white")
        plt.close(figure)
