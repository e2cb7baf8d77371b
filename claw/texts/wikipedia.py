"""Wikipedia's two dump formats as titles and running text."""

import html
import re
from collections.abc import Iterator

SHORTEST = 200  # characters: shorter pages are stubs and redirects

_REMOVED = re.compile(
    r"<!--.*?-->|<(?:{0})\b.*?</(?:{0})>|<[^<>]*>".format("ref|math|gallery|timeline|nowiki|pre|code|table"), re.S | re.I
)
_TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.S)
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_NO_TEXT = re.compile(r"\s*(?:image|file|media|category|wikipedia|[a-z]{2,3}(?:-[a-z]+)*)\s*:", re.I)
_URL = re.compile(r"\[(?:https?|ftp)://[^\s\]]*\s*([^\]]*)\]")
_LIST_LINE = re.compile(r"^[ \t]*[*#:;|!{}].*$", re.M)
_HEADING = re.compile(r"^=+\s*(.*?)\s*=+\s*$", re.M)


def wikiextractor(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Title and text of the documents in WikiExtractor's `<doc id url title>` format."""
    title = ""
    body: list[str] = []
    for line in lines:
        if line.startswith("<doc "):
            title, body = re.findall(r'title="([^"]*)"', line)[0], []
        elif line.startswith("</doc>"):
            text = html.unescape("".join(body)).strip()
            if len(text) >= SHORTEST:
                yield title, text
        else:
            body.append(line)


def wikipedia_xml(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Title and prose of the articles in a MediaWiki XML dump."""
    title, inside = "", False
    body: list[str] = []
    for line in lines:
        if "<title>" in line:
            title = html.unescape(re.findall(r"<title>(.*)</title>", line)[0])
        if "<text" in line:
            inside, body, line = True, [], line.split(">", 1)[1]
        if inside:
            body.append(line.split("</text>")[0])
        if "</text>" in line:
            inside = False
            article = ":" not in title and not body[0].lstrip().upper().startswith("#REDIRECT")
            text = prose("".join(body)) if article else ""
            if len(text) >= SHORTEST:
                yield title, text


def prose(markup: str) -> str:
    """Running text of a MediaWiki article: markup, tables, lists, templates and media removed, headings kept.

    >>> prose("'''Ann''' is a [[city|town]].{{stub}}\\n* a list\\n== Past ==\\nIt &amp;amp; more.[[Image:x.jpg|a [[b]]]]")
    'Ann is a town.\\n\\nPast\\n\\nIt & more.'
    """
    text = html.unescape(html.unescape(markup))
    text = _REMOVED.sub("", text)
    for pattern in (_TEMPLATE, _TABLE):  # innermost first
        while (shorter := pattern.sub("", text)) != text:
            text = shorter
    while (shorter := _LINK.sub(_visible, text)) != text:  # innermost first: captions of images hold links
        text = shorter
    text = _URL.sub(r"\1", text)
    text = _LIST_LINE.sub("", text.replace("'''", "").replace("''", ""))
    text = _HEADING.sub(r"\n\1\n", text)
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", text).strip()


def _visible(link: re.Match) -> str:
    """What a reader sees of an innermost [[link]]: nothing for media, categories and other languages."""
    target, _, label = link.group(1).partition("|")
    return "" if _NO_TEXT.match(target) else label.rsplit("|", 1)[-1] or target
