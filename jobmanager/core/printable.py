"""Make foreign text safe to print on a terminal or in a log."""

from __future__ import annotations


def clean(text: str) -> str:
    r"""Return the text with all invisible characters escaped, except newline and tab.

    Control characters (Unicode's Cc) could move the cursor or forge a line. Format characters (Cf) could hide text or
    reverse its direction.

    >>> clean("a\x1b[2Jb\u202ec")
    'a\\x1b[2Jb\\u202ec'
    """
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)
