"""Reads the schema the way a person would: where a place is, what belongs there, and what an example looks like.

Pydantic's error locations hold names of union members that no user ever wrote; `find` walks the schema along such a
location and leaves them out. Does not: validate anything, or write sentences about mistakes (`problems` does).
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hybrid.config.yaml_strict import KeyPath

_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_PLURALS = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts"}
_SAMPLES = {int: "16", float: "0.5", bool: "true", str: "..."}


@dataclass(frozen=True)
class Shape:
    """What may stand in one place: its type without `Annotated` and None, and the field's facts where it has any."""

    annotation: Any
    nullable: bool = False
    discriminator: str | None = None
    field: FieldInfo | None = None

    @property
    def members(self) -> tuple[Any, ...]:
        """The members of a union, or the type itself alone."""
        return (
            tuple(strip(a).annotation for a in get_args(self.annotation))
            if _is_union(self.annotation)
            else (self.annotation,)
        )


@dataclass(frozen=True)
class Spot:
    """A location of pydantic in the user's words. `is_key` says that the key of a mapping is meant, not its value."""

    path: KeyPath
    shape: Shape
    parent: Shape
    is_key: bool = False


def strip(annotation: Any, field: FieldInfo | None = None) -> Shape:
    """Take `Annotated`, `| None` and the discriminator off a type."""
    discriminator = field.discriminator if field is not None and isinstance(field.discriminator, str) else None
    while get_origin(annotation) is Annotated:
        for extra in annotation.__metadata__:
            if isinstance(extra, FieldInfo):
                field = extra if field is None else field
                if isinstance(extra.discriminator, str):
                    discriminator = extra.discriminator
        annotation = annotation.__origin__
    nullable = False
    if _is_union(annotation):
        arguments = get_args(annotation)
        members = [a for a in arguments if a is not types.NoneType]
        nullable = len(members) < len(arguments)
        if len(members) == 1:
            inner = strip(members[0], field)
            return Shape(inner.annotation, True, inner.discriminator or discriminator, inner.field)
        if nullable:
            annotation = Union[tuple(members)]  # noqa: UP007  (built at run time)
    return Shape(annotation, nullable, discriminator, field)


def find(root: type[BaseModel], location: Sequence[str | int]) -> Spot:
    """Follow pydantic's location from the root model. Places that the schema does not know have the shape `Any`."""
    here, parent, is_key = Shape(root), Shape(root), False
    path: KeyPath = ()
    steps = list(location)
    while steps:
        step = steps.pop(0)
        if _is_union(here.annotation):
            chosen = _member(here, step)
            if chosen is not None:
                if not steps and here.discriminator is None:
                    break  # the value fits no member: what belongs here is any of them
                here = Shape(chosen, here.nullable, None, here.field)
                continue
        if step == "[key]" and not steps and get_origin(parent.annotation) is dict:
            is_key = True
            continue
        parent, here = here, child(here, step)
        path = (*path, step)
    return Spot(path, here, parent, is_key)


def child(shape: Shape, step: str | int) -> Shape:
    """The shape one key or index further down."""
    annotation = shape.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(step))
        return strip(field.annotation, field) if field is not None else Shape(Any)
    if get_origin(annotation) is tuple:
        return strip(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return strip(get_args(annotation)[1])
    return Shape(Any)


def keys(shape: Shape) -> tuple[str, ...]:
    """The legal keys of a section in the order of the schema; empty where any key may stand, or none."""
    annotation = shape.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return tuple(annotation.model_fields)
    if get_origin(annotation) is dict:
        return choices(strip(get_args(annotation)[0]))
    return ()


def choices(shape: Shape) -> tuple[str, ...]:
    """The legal words where only some words are legal (`Literal`), else empty."""
    return tuple(str(a) for a in get_args(shape.annotation)) if get_origin(shape.annotation) is Literal else ()


def tags(shape: Shape) -> tuple[str, ...]:
    """The legal values of the discriminator of a union, in the order of the schema."""
    if shape.discriminator is None:
        return ()
    return tuple(t for m in shape.members for t in choices(strip(m.model_fields[shape.discriminator].annotation)))


def expected(shape: Shape) -> str:
    """What belongs here, in words: `a number`, `a list of texts`, `one of 'a', 'b'`."""
    return " or ".join(dict.fromkeys(_in_words(member) for member in shape.members))


def example(shape: Shape) -> str:
    """A value that fits, as YAML in one line: the default when there is one, `...` for what only the user knows."""
    written = default_of(shape)
    if written:
        return written
    annotation = shape.members[0]
    if annotation in _SAMPLES:
        return _SAMPLES[annotation]
    if get_origin(annotation) is Literal:
        return str(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return f"[{example(strip(get_args(annotation)[0]))}]"
    if get_origin(annotation) is dict:
        key, value = (strip(a) for a in get_args(annotation))
        return f"{{{example(key)}: {example(value)}}}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        required = {n: f for n, f in annotation.model_fields.items() if f.is_required() or n == shape.discriminator}
        return "{" + ", ".join(f"{n}: {example(strip(f.annotation, f))}" for n, f in required.items()) + "}"
    return "..."


def default_of(shape: Shape) -> str:
    """The default as YAML; empty when there is none, or none that fits in one line."""
    field = shape.field
    if field is None or field.default is PydanticUndefined or field.default is None:
        return ""
    return _written(field.default)


def homes(root: type[BaseModel], key: str) -> list[str]:
    """Dotted paths of the sections (list indexes left out) in which `key` is legal, for a key in the wrong place."""
    found: list[str] = []
    _search(Shape(root), "", key, found)
    return sorted(set(found))


def _search(shape: Shape, path: str, key: str, found: list[str]) -> None:
    for member in shape.members:
        if get_origin(member) is tuple:
            _search(strip(get_args(member)[0]), path, key, found)
        elif isinstance(member, type) and issubclass(member, BaseModel):
            if key in member.model_fields:
                found.append(path or "the top level")
            for name, field in member.model_fields.items():
                _search(strip(field.annotation, field), f"{path}.{name}" if path else name, key, found)


def _in_words(annotation: Any) -> str:
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(a) for a in get_args(annotation))
    if get_origin(annotation) is tuple:
        inner = strip(get_args(annotation)[0]).annotation
        return "a list of " + _PLURALS.get(inner, "words" if get_origin(inner) is Literal else "sections")
    return "a section of keys"


def _written(default: Any) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, str):
        return default if default and default.isprintable() else repr(default)
    if isinstance(default, int | float):
        return repr(default)
    if isinstance(default, tuple) and all(isinstance(item, str) for item in default):
        return f"[{', '.join(default)}]"
    return ""


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _member(shape: Shape, label: str | int) -> Any:
    """The member of a union that pydantic names `label` in a location, or None when the label is none of its names."""
    for member in shape.members:
        if shape.discriminator is not None:
            if label in choices(strip(member.model_fields[shape.discriminator].annotation)):
                return member
        elif label == (str(member) if get_args(member) else getattr(member, "__name__", None)):
            return member
    return None
