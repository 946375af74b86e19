"""Release notes as people write them, Markdown, made into HTML that can do no harm."""

from collections.abc import MutableMapping, Sequence
from typing import Any

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

_LINKS = ("http://", "https://", "mailto:")


def as_html(notes: str) -> SafeString:
    """The notes as HTML. HTML inside them is shown as text, and nothing is loaded from elsewhere."""
    html: str = _markdown.render(notes)
    return mark_safe(html)  # noqa: S308  # the renderer escapes all that was written


def _is_link(url: str) -> bool:
    """Only what leads elsewhere by itself: no script, no data, nothing of this site."""
    return url.lower().startswith(_LINKS)


def _link(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    index: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer")
    return renderer.renderToken(tokens, index, options, env)


def _image(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    index: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    """A link to the picture; inside of another link, which HTML does not nest, only its words."""
    token = tokens[index]
    words = escape(token.content or "picture")
    if sum(one.nesting for one in tokens[:index] if one.type.startswith("link_")):
        return words
    url = escape(str(token.attrs["src"]))
    return f'<a href="{url}" rel="noopener noreferrer">{words}</a>'


_markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_markdown.validateLink = _is_link  # type: ignore[method-assign]  # meant to be replaced
_markdown.add_render_rule("link_open", _link)
_markdown.add_render_rule("image", _image)
