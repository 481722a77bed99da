"""What differs between two configurations."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from coollm.core.config.schema import Settings
from coollm.core.secrets import Redactor


def differences(before: str, after: str, *settings: Settings | None) -> Sequence[str]:
    """The lines that differ, each with one beside it, as a unified diff. The secrets of the settings are masked."""
    redact = Redactor([secret for one in settings if one is not None for secret in one.secrets()])
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "in force", "new", n=1, lineterm="")
    return [redact(line) for line in lines]
