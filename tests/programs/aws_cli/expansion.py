"""Command lines from lines of text, written as for a shell."""

from __future__ import annotations

import itertools


def expand(line: str) -> list[list[str]]:
    """Return every command line that a line stands for.

    Words are separated by spaces. Quotation marks are as in a shell. ``{a,b}`` outside them makes
    one command line for each of the alternatives.
    """
    words: list[list[str]] = []
    parts: list[list[str]] = []
    alternatives: list[str] | None = None
    text, quote, is_word = "", "", False
    for character in f"{line} ":
        if quote:
            if character == quote:
                quote = ""
            else:
                text += character
        elif character in "'\"":
            quote, is_word = character, True
        elif character == "{" and alternatives is None:
            parts.append([text])
            text, alternatives, is_word = "", [], True
        elif character in ",}" and alternatives is not None:
            alternatives.append(text)
            text = ""
            if character == "}":
                parts.append(alternatives)
                alternatives = None
        elif character == " " and alternatives is None:
            if is_word:
                parts.append([text])
                words.append(["".join(each) for each in itertools.product(*parts)])
            parts, text, is_word = [], "", False
        else:
            text, is_word = text + character, True
    if quote or alternatives is not None:
        raise ValueError(f"not closed: {line}")
    return [list(each) for each in itertools.product(*words)]
