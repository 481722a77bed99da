"""A configuration's text without its secrets: each that stands in it in clear becomes `${kept:FINGERPRINT}`, and gets its value back where it is known."""

from __future__ import annotations

import json
import re
from pathlib import Path

from coollm.core.config.document import Reader
from coollm.core.config.load import load
from coollm.core.secrets import MASK, SHORTEST_REDACTED_LENGTH, Secret

KEPT_PREFIX = "${kept:"
_KEPT = re.compile(r"""(["']?)\$\{kept:([0-9a-f]+)\}\1""")


def without_secrets(config: Path, content: Path, state: Path) -> str:
    """The text of a configuration with a placeholder for each secret that stands in it in clear. What refers to a secret stays as it is; in a comment nothing
    can be put back, so there it is masked. Raises OSError.
    """
    text = content.read_text("utf-8-sig")
    found = load(config, content=content, state=state).plain_secrets
    text = replaced(text, [(node.span, f'"${{kept:{Secret(str(node.value)).fingerprint()}}}"') for _, node in found])
    for value in sorted((str(node.value) for _, node in found), key=len, reverse=True):
        if len(value) >= SHORTEST_REDACTED_LENGTH:
            text = text.replace(value, MASK)
    return text


def with_secrets(text: str, config: Path, content: Path, state: Path) -> str:
    """The reverse, as it was written in the text it was made from. One that is not known there stays, and is then no reference. Raises OSError."""
    before = content.read_text("utf-8-sig")
    nodes = [node for _, node in load(config, content=content, state=state).plain_secrets]
    known = {Secret(str(node.value)).fingerprint(): before[node.span[0] : node.span[1]].rstrip("\n") for node in nodes}
    return _KEPT.sub(lambda match: known.get(match[2], match[0]), text)


def replaced(text: str, changes: list[tuple[tuple[int, int], str]]) -> str:
    """The text with other words in places of it. What ended a line still does."""
    for (begin, end), words in sorted(set(changes), reverse=True):
        broken = "\n" if text[begin:end].endswith("\n") else ""
        text = text[:begin] + words + broken + text[end:]
    return text


def with_section(text: str, section: str, value: object) -> str:
    """The text with another value of a section at its top."""
    root = Reader("configuration").read(text)
    node = root.get(section)
    words = json.dumps(value)
    if node is not None and node.span != (0, 0):
        return replaced(text, [(node.span, words)])
    return f"{text.rstrip()}\n{section}: {words}\n"
