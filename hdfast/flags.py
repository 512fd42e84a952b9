"""Command line -> settings, presets and a verb's own flags. Standard library only.

A verb's own flags are the fields of a dataclass written with `config.opt`, so that one description serves parsing,
checks and help, for them and for the settings. Hyphens and underscores are interchangeable everywhere.
"""

import dataclasses
import re
import textwrap
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hdfast.config import Config, checked, opt, settings
from hdfast.errors import ConfigError, nearest

T = TypeVar("T")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
HARMONY_MODE = "harmony.mode"
_TAKES = {bool: "True or False", int: "an integer", float: "a number", str: "text", tuple: "one or more names"}


@dataclass(frozen=True)
class SharedFlags:
    """Flags of every verb that takes settings."""

    configs: tuple = opt((), "preset blocks, later wins: --configs atari100k cpu")
    harmony: str = opt("True", "the method switch: True is --harmony.mode rectified, False (or --no-harmony) is off",
                       bare="True")


@dataclass(frozen=True)
class Parsed(Generic[T]):
    """What a command line says: `own` the verb's own flags, `settings` by dotted name, and whether help was asked."""

    own: T
    presets: tuple[str, ...]
    settings: dict[str, Any]
    arguments: tuple[str, ...]
    help: bool

    def config(self) -> Config:
        """The stacked presets with the settings on top; ConfigError if they cannot be used."""
        return Config.preset(*self.presets, **self.settings)


def parse(args: list[str], own: type[T], *, with_settings: bool, arguments: int = 0) -> Parsed[T]:
    """Read a verb's command line.

    `own` is the dataclass of the verb's own flags, `arguments` how many words may come without a flag. The last one
    of a repeated flag counts. Raises ConfigError for an unknown flag, a missing value, a value of the wrong type or
    out of bounds, or a word too many.
    """
    own_fields = {f.name: f for f in dataclasses.fields(own)}
    known = dict(own_fields)
    if with_settings:
        known |= settings() | {f.name: f for f in dataclasses.fields(SharedFlags)}
    words, values, rest, bare = [], {}, deque(args), ""
    while rest:
        token = rest.popleft()
        if token in ("-h", "--help"):
            return Parsed(own(), (), {}, (), True)
        if not token.startswith("-"):
            words.append(token)
            if len(words) > arguments:
                raise ConfigError(f"unexpected word '{token}'" + (f" after {bare}, which takes {_TAKES[bool]}" if bare
                                                                  else "; a flag starts with two dashes"))
            continue
        name, text, value = _flag(token, known)
        if value is None:
            value = _value(name, known[name], text, rest)
            bare = f"--{name}" if value is True and text is None else ""
        if name == "harmony" and with_settings:
            name, value = HARMONY_MODE, _harmony_mode(value)
        values[name] = checked(name, value, known.get(name)) if known[name].type is not tuple else value
    return Parsed(own(**{k: v for k, v in values.items() if k in own_fields}), values.pop("configs", ()),
                  {k: v for k, v in values.items() if k in settings() and k not in own_fields}, tuple(words), False)


def _flag(token: str, known: Mapping[str, dataclasses.Field]) -> tuple[str, str | None, Any]:
    """(name, text behind `=`, value if the flag itself gives it) of a token such as --run.steps=5 or --no-x."""
    head, equals, text = token.partition("=")
    name = head.removeprefix("--").replace("-", "_")
    if not head.startswith("--") or name in ("", "_"):
        raise ConfigError(f"unexpected '{token}'; a flag starts with two dashes and a name, as in --run.steps 1000")
    if name not in known and name.replace(".", "_") in known:
        name = name.replace(".", "_")
    if name in known:
        return name, text if equals else None, None
    negated = name.removeprefix("no_")
    if negated != name and negated in known and (negated == "harmony" or known[negated].type is bool):
        if equals:
            raise ConfigError(f"{head} takes no value, got '{text}'; write {head} or --{negated} False")
        return negated, None, "False" if negated == "harmony" else False
    raise ConfigError(f"unknown flag '{head}'; --help lists all flags{_nearest_flag(name, known)}")


def _nearest_flag(name: str, known: Mapping[str, dataclasses.Field]) -> str:
    """Like `nearest`, but a missing group counts as no difference: --steps is close to --run.steps."""
    same_tail = [full for full in known if full.rpartition(".")[2] == name.rpartition(".")[2]]
    return f", did you mean '--{same_tail[0]}'?" if same_tail else nearest(f"--{name}", (f"--{k}" for k in known))


def _value(name: str, rule: dataclasses.Field, text: str | None, rest: deque[str]) -> Any:
    """The value of a flag, from behind its `=` or from the words that follow."""
    if rule.type is tuple:
        found = text.split(",") if text is not None else []
        while text is None and rest and not rest[0].startswith("-"):
            found += rest.popleft().split(",")
        found = tuple(word for word in found if word)
    elif text is not None:
        found = text
    elif rest and (rest[0].lower() in TRUE + FALSE if rule.type is bool else _is_value(rest[0])):
        found = rest.popleft()
    else:
        found = True if rule.type is bool else rule.metadata["bare"]
    if not found:
        default = f"; default {text}" if (text := _default(rule)) else ""
        raise ConfigError(f"--{name} needs a value, {_TAKES[rule.type]} ({rule.metadata['help']}{default})")
    return _converted(rule.type, found)


def _default(rule: dataclasses.Field) -> str:
    """The default of a flag as one would type it; empty if there is none."""
    return " ".join(rule.default) if rule.type is tuple else str(rule.default)


def _is_value(token: str) -> bool:
    """Whether a token can be a value: no flag, but a negative number may be one, and a single dash."""
    return token == "-" or not token.startswith("-") or bool(re.match(r"-(\.?\d|inf|nan)", token, re.IGNORECASE))


def _converted(kind: type, text: Any) -> Any:
    """Text as bool, int or float if it is one; otherwise unchanged, for `checked` to refuse."""
    if not isinstance(text, str) or kind is str:
        return text
    if kind is bool:
        return True if text.lower() in TRUE else False if text.lower() in FALSE else text
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def _harmony_mode(text: str) -> str:
    """The harmony mode of True, False or the name of a mode."""
    return "rectified" if text.lower() in TRUE else "off" if text.lower() in FALSE else text


def help_text(own: type, *, with_settings: bool, width: int) -> str:
    """The flags of a verb with help and defaults, settings by group; whole lines, none for a verb without flags."""
    lines = []
    named = [("flags", own)] + ([("presets and the method switch", SharedFlags)] if with_settings else [])
    for title, kind in named:
        if dataclasses.fields(kind):
            lines += [f"{title}:", *_entries({f.name: f for f in dataclasses.fields(kind)}, width), ""]
    if with_settings:
        for group, fields in grouped(settings()).items():
            lines += [f"{group} settings:", *_entries(fields, width), ""]
    return "\n".join(lines)


def grouped(items: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """{group: {dotted name: item}}; names without a dot are in the group `general`."""
    out: dict[str, dict[str, T]] = {}
    for name, item in items.items():
        out.setdefault(name.rpartition(".")[0] or "general", {})[name] = item
    return out


def _entries(fields: Mapping[str, dataclasses.Field], width: int) -> Iterator[str]:
    column = 34
    for name, rule in fields.items():
        flag = f"  --{name} {'' if rule.type is bool else rule.type.__name__.upper()}".rstrip()
        flag = flag.replace("TUPLE", "NAME ...").replace("STR", "TEXT")
        choices = f"; one of {', '.join(map(str, rule.metadata['choices']))}" if rule.metadata["choices"] else ""
        default = f" (default {text})" if (text := _default(rule)) else ""
        body = textwrap.wrap(rule.metadata["help"] + choices + default, max(width - column, 30),
                             break_on_hyphens=False)
        gap = flag.ljust(column) if len(flag) < column - 1 else f"{flag}\n{' ' * column}"
        yield gap + f"\n{' ' * column}".join(body)
