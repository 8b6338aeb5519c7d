"""HTML as a tree: what is text in it is escaped when it is written, whatever it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None


def tag(name: str, *children: Child, **attributes: str | float) -> Element:
    """An element; `_` at the end of an attribute's name is left out, within it is a hyphen."""
    told = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    made = Element(name, told)
    add(made, children)
    return made


def add(element: Element, children: Iterable[Child]) -> None:
    """Adds elements and text at the end of an element."""
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif child and len(element):
            element[-1].tail = (element[-1].tail or "") + child
        elif child:
            element.text = (element.text or "") + child


def written(element: Element, shown: Callable[[str], str]) -> str:
    """The element as text.

    Args:
        shown: makes of any text in it what may be shown.
    """
    for each in element.iter():
        each.text, each.tail = (text and shown(text) for text in (each.text, each.tail))
    return tostring(element, encoding="unicode", method="html")
