"""What pages are put together from: files of this folder as templates, data that stands in them, a page within a page."""

import html
import json
from importlib import resources
from string import Template
from typing import Any


def part(name: str, **values: str) -> str:
    """A template of this folder with its values in."""
    return Template(shared(name)).substitute(values)


def shared(name: str) -> str:
    """A file that pages carry within them."""
    return resources.files("claw.show").joinpath(name).read_text(encoding="utf-8")


def embedded(data: Any) -> str:
    """Data as JSON that can stand in a page whatever names it holds."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def framed(body: str, title: str) -> str:
    """A page within a page, as high as its content, for notebooks and Voilà: scripts and styles do not mix with theirs."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><style>{shared("pages.css")}</style>'
    head += f"<script>{shared('plot.js')}</script>"
    grow = "frameElement.style.height = document.body.scrollHeight + 8 + 'px'"
    script = f"<script>if (window.frameElement) new ResizeObserver(() => {{ {grow}; }}).observe(document.body);</script>"
    page = f'{head}<body class="framed">{body}{script}</body></html>'
    look = 'style="width: 100%; border: 0; min-height: 34rem; max-width: 60rem" class="claw-frame"'
    return f'<iframe {look} title="{html.escape(title)}" srcdoc="{html.escape(page)}"></iframe>'
