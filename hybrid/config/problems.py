"""Turns one validation error into two sentences: what is wrong, and what to do about it.

Every sentence says what was found and what was expected, in words of the file: no type names of Python, no names of
union members. Does not: decide where the error is (`shape.find`) or whether it is worth showing (`check`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from hybrid.config import shape as shapes
from hybrid.config.shape import Shape, Spot
from hybrid.config.suggest import did_you_mean, listing, nearest, quoted, shown
from hybrid.config.yaml_strict import resolve_scalar

Sentences = tuple[str, str]
_SLUG = r"^[a-z0-9]+(?:-[a-z0-9]+)*$"
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_WORDS_FOR_TRUE = {"yes", "on", "y", "true", "1"}
_WORDS_FOR_FALSE = {"no", "off", "n", "false", "0"}


def explain(error: Mapping[str, Any], spot: Spot, root: type[BaseModel], siblings: Mapping[str, Any]) -> Sentences:
    """The message and the fix for one error of pydantic. `siblings` are the keys beside the place, for suggestions."""
    kind = str(error["type"])
    if spot.is_key:
        return _bad_key(error, spot)
    if kind == "extra_forbidden":
        return _unknown_key(str(spot.path[-1]), spot, root, siblings)
    if kind == "missing":
        missing = f"the key {str(spot.path[-1])!r} is missing{_what_is_acknowledged(spot)}"
        return missing, f"add `{spot.path[-1]}: {shapes.example(spot.shape)}`"
    handler = _HANDLERS.get(kind)
    if handler is not None:
        return handler(error, spot)
    if kind.endswith("_type") or kind.endswith("_parsing"):
        return _wrong_type(error["input"], spot.shape)
    return str(error["msg"]).removeprefix("Value error, "), f"write {shapes.expected(spot.shape)}"


def _what_is_acknowledged(spot: Spot) -> str:
    """A required key with one legal value is a consent: the sentence that says to what. Empty for other keys."""
    field = spot.shape.field
    if field is None or not field.is_required() or len(shapes.choices(spot.shape)) != 1:
        return ""
    return ": " + " ".join(str(field.description).split()).removesuffix(".")


def _unknown_key(key: str, spot: Spot, root: type[BaseModel], siblings: Mapping[str, Any]) -> Sentences:
    legal = shapes.keys(spot.parent)
    near = nearest(key, [k for k in legal if k not in siblings]) or nearest(key, legal)
    if near is not None:
        return f"unknown key {quoted(key)}", f"did you mean {near!r}?"
    fix = f"the keys here are: {listing(legal)}"
    elsewhere = shapes.homes(root, key)
    if elsewhere:
        fix += f" ({key!r} belongs in {' or '.join(elsewhere)})"
    return f"unknown key {quoted(key)}", fix


def _bad_key(error: Mapping[str, Any], spot: Spot) -> Sentences:
    key = str(spot.path[-1])
    legal = shapes.keys(spot.parent)
    if legal:
        return f"unknown key {quoted(key)}", did_you_mean(key, legal, "the keys here are")
    return f"the key {quoted(key)} is not a legal name", _slug_fix(key)


def _wrong_type(found: Any, shape: Shape) -> Sentences:
    expected = shapes.expected(shape)
    message = f"found {shown(found)}, expected {expected}"
    members = set(shape.members)
    if found is None:
        return (
            f"this key has no value, expected {expected}",
            f"give it a value, for example `{shapes.example(shape)}`, or remove the line",
        )
    if isinstance(found, str):
        fix = _fix_of_text(found, members)
        if fix:
            return message, fix
    if str in members and isinstance(found, bool | int | float):
        return message, f'put it in quotes: "{shown(found).removeprefix("the number ")}"'
    if int in members and isinstance(found, float):
        return (
            message,
            f"write a whole number, for example {round(found) if abs(found) < 1e15 else shapes.example(shape)}",
        )
    if expected.startswith("a list") and not isinstance(found, list | dict):
        return message, f"put it in brackets: [{_plain(found)}]"
    return message, f"write {expected}, for example `{shapes.example(shape)}`"


def _fix_of_text(found: str, members: set[Any]) -> str:
    """What to do with text where a number or a yes/no is wanted; empty when nothing special can be said."""
    text = found.strip()
    if bool in members:
        word = text.casefold()
        if word in _WORDS_FOR_TRUE | _WORDS_FOR_FALSE:
            right = "true" if word in _WORDS_FOR_TRUE else "false"
            return f"remove the quotes: write {right}" if text == right else f"write {right}"
        return "write true or false"
    if not members & {int, float}:
        return ""
    value = resolve_scalar(text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) or float in members:
            return f"remove the quotes: write {text}"
        return f"remove the quotes and write a whole number: {round(value)}" if abs(value) < 1e15 else ""
    plain = resolve_scalar(text.replace("_", "").replace(",", "").lstrip("0"))
    if isinstance(plain, int | float) and not isinstance(plain, bool):
        return f"write it with digits alone: {plain}"
    return ""


def _bad_word(error: Mapping[str, Any], spot: Spot) -> Sentences:
    legal = shapes.choices(spot.shape)
    found = error["input"]
    if not isinstance(found, str):
        return _wrong_type(found, spot.shape) if found is None else _not_legal(shown(found), legal)
    near = nearest(found, legal)
    message, fix = _not_legal(quoted(found), legal)
    message += _what_is_acknowledged(spot)
    return message, f"did you mean {near!r}?" if near is not None else fix


def _not_legal(found: str, legal: tuple[str, ...]) -> Sentences:
    return f"{found} is not one of {listing(legal)}", f"write one of: {listing(legal)}"


def _bad_tag(error: Mapping[str, Any], spot: Spot) -> Sentences:
    found = error["input"].get(spot.shape.discriminator) if isinstance(error["input"], dict) else None
    legal = shapes.tags(spot.shape)
    if not isinstance(found, str):
        return f"found {shown(found)}, expected one of {listing(legal)}", f"write one of: {listing(legal)}"
    near = nearest(found, legal)
    legal_fix = f"the types here are: {listing(legal)}"
    message = f"unknown {spot.shape.discriminator} {quoted(found)}"
    return message, f"did you mean {near!r}? ({legal_fix})" if near is not None else legal_fix


def _no_tag(error: Mapping[str, Any], spot: Spot) -> Sentences:
    legal = shapes.tags(spot.shape)
    name = spot.shape.discriminator
    return f"the key {name!r} is missing", f"add `{name}: {legal[0]}`; the types here are: {listing(legal)}"


def _out_of_range(error: Mapping[str, Any], spot: Spot) -> Sentences:
    limits = _limits(spot.shape) or _limits_of(error["ctx"])
    default = shapes.default_of(spot.shape)
    hint = f" (the default is {default})" if default else ""
    return f"{_plain(error['input'])} is out of range", f"write {shapes.expected(spot.shape)} that is {limits}{hint}"


def _limits(shape: Shape) -> str:
    metadata = shape.field.metadata if shape.field is not None else []
    every = {name: getattr(m, name) for m in metadata for name in _LIMITS if getattr(m, name, None) is not None}
    return _limits_of(every)


def _limits_of(context: Mapping[str, Any]) -> str:
    return " and ".join(f"{words} {context[name]}" for name, words in _LIMITS.items() if name in context)


def _pattern(error: Mapping[str, Any], spot: Spot) -> Sentences:
    found = str(error["input"])
    if error["ctx"]["pattern"] == _SLUG:
        return f"{quoted(found)} is not a legal name", _slug_fix(found)
    about = spot.shape.field.description if spot.shape.field is not None and spot.shape.field.description else ""
    return (
        f"{quoted(found)} does not have the expected form",
        f"write {about or 'text that matches ' + error['ctx']['pattern']}",
    )


def _slug_fix(found: str) -> str:
    slug = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in found.lower()).split())[:64].strip("-")
    return "use lower-case letters, digits and single hyphens, at most 64" + (f", for example {slug!r}" if slug else "")


def _too_short(error: Mapping[str, Any], spot: Spot) -> Sentences:
    least, actual = error["ctx"]["min_length"], len(error["input"])
    if isinstance(error["input"], str):
        return "the text is empty" if not actual else f"the text has {actual} characters", f"write at least {least}"
    entries = "entry" if least == 1 else "entries"
    inner = shapes.example(shapes.child(spot.shape, 0))
    return f"the list has {actual} of at least {least} {entries}", f"add one, for example `- {inner}`"


def _too_long(error: Mapping[str, Any], spot: Spot) -> Sentences:
    most = error["ctx"]["max_length"]
    return f"too long: {len(error['input'])} where at most {most} are allowed", f"shorten it to {most}"


def _rule(error: Mapping[str, Any], spot: Spot) -> Sentences:
    """A rule over several keys: the schema's own sentence. The fix is what follows a semicolon in it, or
    names the values that clash."""
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    section = error["input"] if isinstance(error["input"], dict) else {}
    mentioned = {k: _value_of(k, section, spot.shape) for k in shapes.keys(spot.shape) if k in message.split(":")[0]}
    clash = " and ".join(f"{key} is {_plain(value)}" for key, value in mentioned.items())
    message, _, fix = message.partition("; ")
    return message, f"change one of the two: {clash}" if len(mentioned) > 1 else fix or "change it"


def _value_of(key: str, section: Mapping[str, Any], shape: Shape) -> Any:
    return section[key] if key in section else shape.annotation.model_fields[key].default


def _plain(value: Any) -> str:
    return shown(value).removeprefix("the number ").removeprefix("the text ").strip("'")


_HANDLERS: dict[str, Callable[[Mapping[str, Any], Spot], Sentences]] = {
    "literal_error": _bad_word,
    "union_tag_invalid": _bad_tag,
    "union_tag_not_found": _no_tag,
    "greater_than_equal": _out_of_range,
    "greater_than": _out_of_range,
    "less_than_equal": _out_of_range,
    "less_than": _out_of_range,
    "string_pattern_mismatch": _pattern,
    "too_short": _too_short,
    "string_too_short": _too_short,
    "too_long": _too_long,
    "string_too_long": _too_long,
    "value_error": _rule,
    "assertion_error": _rule,
}
