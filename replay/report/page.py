"""The page as one file: markup, style, script and data together, so that it can be mailed and opened anywhere.

Owns: putting them together. Nothing in it asks the network; its own content security policy would not let it.
"""

from __future__ import annotations

from importlib.resources import files

import msgspec

from replay.report.model import Picture


def page(picture: Picture) -> str:
    """The HTML. What the log says is data in it, never markup or script."""
    parts = files(__package__)
    html = parts.joinpath("page.html").read_text("utf-8")
    for mark, text in (
        ("/*CSS*/", parts.joinpath("page.css").read_text("utf-8")),
        ("/*JS*/", parts.joinpath("page.js").read_text("utf-8")),
        # `</script>` and `<!--` can not stand in JSON whose every `<` is escaped.
        ("/*DATA*/", msgspec.json.encode(picture).decode().replace("<", "\\u003c")),
    ):
        html = html.replace(mark, text, 1)
    return html
