"""Builds HTML so that no text can become markup. No I/O.

Elements are built as a tree; the standard library's serializer escapes every text and attribute.
Control characters, bidirectional overrides and all else that is not displayed are shown as escapes.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from vsock_proxy.service.console import printable

Attribute = str | int | float | bool | None


def element(tag: str, *content: str | ET.Element | None, **attributes: Attribute) -> ET.Element:
    """Return an element.

    Args:
        tag: its name.
        content: texts and elements; None is skipped.
        attributes: by name, where ``_`` stands for ``-`` and one at the end is dropped
            (``class_``). None and False leave the attribute out; True leaves it without a value.
    """
    made = ET.Element(tag)
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        text = "" if value is True else _number(value) if isinstance(value, float) else str(value)
        made.set(name.removesuffix("_").replace("_", "-"), printable(text))
    for each in content:
        if isinstance(each, ET.Element):
            made.append(each)
        elif each:
            _append_text(made, printable(each))
    return made


def raw(tag: str, text: str) -> ET.Element:
    """Return a script or style element, with text of our own that is not escaped."""
    made = ET.Element(tag)
    made.text = text
    return made


def document(html: ET.Element) -> bytes:
    """Return the bytes of a whole document."""
    text: str = ET.tostring(html, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n".encode()


def _append_text(parent: ET.Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
