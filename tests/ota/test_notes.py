"""Release notes: what Markdown says is shown, and nothing in it does harm."""

from html.parser import HTMLParser

import pytest

from ota import notes


class Elements(HTMLParser):
    """The tags of a text, with their attributes, as a browser finds them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_headings_lists_tables_and_emphasis_are_shown() -> None:
    shown = notes.as_html(
        "# New\n\n* **RTK** fixes\n* ~~old~~\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    for tag in ("<h1>New</h1>", "<strong>RTK</strong>", "<li>", "<s>old</s>", "<td>1</td>"):
        assert tag in shown


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<b><i onclick='x()'>hello</i></b>",
        "<div>\n\n*text*\n<script>\n</div>",
        "`<script>`",
        "    <script>indented</script>",
        "| <script>a</script> |\n|---|\n| <img src=x> |",
        "[<img src=x onerror=alert(1)>](https://example.com)",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        '![a"onload="alert(1)](https://example.com/a.png)',
        '[a](https://example.com "x\\" onmouseover=\\"alert(1)")',
        "[a](https://example.com/\"onmouseover='alert(1)')",
        "<style>*{display:none}</style>",
        "```\n</code></pre><script>alert(1)</script>\n```",
        '```"><script>alert(1)</script>\ncode\n```',
        "<!-- --><svg/onload=alert(1)>",
        "<https://example.com/<script>>",
    ],
)
def test_html_inside_is_shown_as_text(text: str) -> None:
    allowed = {"p", "a", "em", "strong", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}
    for tag, attributes in Elements(notes.as_html(text)).found:
        assert tag in allowed
        assert attributes.keys() <= {"href", "rel", "title", "class"}


@pytest.mark.parametrize(
    "url",
    [
        *("javascript:alert(1)", "JaVaScRiPt:alert(1)", "java&#10;script:alert(1)"),
        *("&#106;avascript:alert(1)", "\\javascript:alert(1)", "%6aavascript:alert(1)"),
        *("data:text/html;base64,PHNjcmlwdD4=", "data:image/svg+xml,x", "vbscript:x", "file:///x"),
        *(
            "//example.com",
            "/admin/logout/",
            "?delete",
            "#top",
            "http:/admin/",
            "ftp://example.com",
        ),
    ],
)
@pytest.mark.parametrize(
    "form", ["[a]({})", "![a]({})", "<{}>", "[a]\n\n[a]: {}", "[![a]({})]({})"]
)
def test_no_link_leads_to_a_script_to_data_or_into_the_console(form: str, url: str) -> None:
    found = Elements(notes.as_html(form.replace("{}", url))).found
    assert not [tag for tag, _ in found if tag in {"a", "img"}]


@pytest.mark.parametrize(
    "url", ["http://a.example", "https://a.example/x?y=1", "mailto:a@b.example"]
)
def test_a_link_does_not_tell_where_it_was_pressed(url: str) -> None:
    shown = Elements(notes.as_html(f"[a]({url}) <{url.removeprefix('mailto:')}>")).found
    links = [attributes for tag, attributes in shown if tag == "a"]
    assert len(links) == 2
    for link in links:
        assert link["href"] == url
        assert link["rel"] == "noopener noreferrer"


def test_a_picture_is_a_link_and_not_loaded() -> None:
    shown = notes.as_html(
        "![Chart](https://example.com/a.png) [![b](https://c.example)](https://d.example)"
    )
    assert [tag for tag, _ in Elements(shown).found] == ["p", "a", "a"]
    assert ">Chart</a>" in shown


def test_long_and_deep_notes_are_shown_in_time() -> None:
    for text in ("> " * 5000, "[" * 20_000, "*a " * 20_000, "![" * 10_000 + "](x)", "- " * 2000):
        notes.as_html(text)
