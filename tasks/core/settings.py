"""Settings: flat keys of the inventory become typed, frozen, validated objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self
from unicodedata import category

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from backup.text import SHORTEST


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong with one key of one host, in a sentence."""

    host: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.host}: {self.key}: {self.message}"


def wrong(message: str) -> PydanticCustomError:
    """An error for a validator to raise; `message` completes the sentence `host: key: …`."""
    return PydanticCustomError("datatier", "{message}", {"message": message})


def matching(pattern: str, message: str) -> AfterValidator:
    """A validator for strings; `message` completes the sentence `host: key: …`."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise wrong(message)
        return value

    return AfterValidator(check)


def _scalar(value: object) -> object:
    if isinstance(value, str):
        return _one_line(value)
    if not isinstance(value, int | float):
        raise wrong("should be a string, a number, true or false")
    return value


# PgBouncer's file takes 2047; the others more.
_LONGEST = 1024


def printable(value: SecretStr) -> SecretStr:
    """A password that every server understands alike, or an error for the user."""
    text = value.get_secret_value()
    if not text:
        raise wrong("should not be empty")
    # SCRAM normalises other characters, and servers disagree about how.
    if not (text.isascii() and text.isprintable()):
        raise wrong("should have printable ASCII characters only")
    if len(text) < SHORTEST:
        raise wrong(f"should have at least {SHORTEST} characters")
    if len(text) > _LONGEST:
        raise wrong(f"should have at most {_LONGEST} characters")
    return value


def _identifier(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", value):
        raise wrong(f"name {value!r} should be letters, digits, '_', '-' or '.', at most 63")
    return value


def _distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values:
        raise wrong("should list at least one port")
    if repeated := sorted({v for v in values if values.count(v) > 1}):
        raise wrong(f"port {repeated[0]} is listed twice")
    return values


def _one_line(value: str) -> str:
    if "\0" in value or value.splitlines() not in ([], [value]):
        raise wrong("should be a single line")
    if any(category(character) == "Cc" for character in value.replace("\t", "")):
        raise wrong("should have no control characters")
    return value


Secret = Annotated[SecretStr, AfterValidator(printable)]
Identifier = Annotated[str, AfterValidator(_identifier)]
Line = Annotated[str, AfterValidator(_one_line)]
Port = Annotated[int, Field(ge=1, le=65535)]
Ports = Annotated[tuple[Port, ...], AfterValidator(_distinct)]
NOT_A_KEY = "should be an upstream key: lower-case letters, digits, '_', '.' and '-'"
_UpstreamKey = Annotated[str, matching(r"[a-z][a-z0-9_.-]*", NOT_A_KEY)]
Extra = dict[_UpstreamKey, Annotated[str | int | float | bool, BeforeValidator(_scalar)]]


class Model(BaseModel):
    """A frozen group of keys; unknown ones are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation in (int, int | None):
            raise wrong("should be a whole number")
        return value


class Settings(Model):
    """Keys that share a prefix; a subclass per component.

    `of` is the only way in: below it nothing reads a host's raw data.
    """

    prefix: ClassVar[str] = ""

    @classmethod
    def key_of(cls, field: str) -> str:
        """The flat key of a field, as it stands in an inventory."""
        return f"{cls.prefix}{field}"

    @classmethod
    def of(
        cls, host: str, data: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> tuple[Self | None, list[Problem]]:
        """Reads the component's keys out of `data`.

        Args:
            host: name to put into problems.
            data: all data of the host, foreign keys included.
            defaults: values for fields the user left out (secrets, names of the stack).

        Returns:
            The settings, None if a value is wrong, and everything that is wrong.
        """
        fields = {
            key.removeprefix(cls.prefix): value
            for key, value in data.items()
            if key.startswith(cls.prefix) and (cls.prefix or key in cls.model_fields)
        }
        unknown = [name for name in fields if name not in cls.model_fields]
        problems = [
            Problem(
                host,
                cls.key_of(name),
                f"unknown key{_suggestion(name, cls.model_fields, cls.prefix)}",
            )
            for name in unknown
        ]
        known = {name: value for name, value in fields.items() if name not in unknown}
        try:
            return cls(**{**defaults, **known}), problems
        except ValidationError as error:
            return None, problems + [cls._problem(host, details) for details in error.errors()]

    @classmethod
    def _problem(cls, host: str, details: ErrorDetails) -> Problem:
        field, *path = [_shown(part) for part in details["loc"] if not _is_union_tag(part)] or [""]
        key = "/".join([cls.key_of(field), *path])
        if details["type"] == "extra_forbidden":
            suggestion = _suggestion(path[-1], _nested_fields(cls, field))
            return Problem(host, key, f"unknown key{suggestion}")
        return Problem(host, key, sentence(details))


def _shown(part: int | str) -> str:
    """A key as a terminal shows it, whatever is in it."""
    text = str(part)
    return text if text.isprintable() else repr(text)


def _nested_fields(model: type[Model], field: str) -> list[str]:
    """The keys that an entry of a dictionary of models takes."""
    for argument in getattr(model.model_fields[field].annotation, "__args__", ()):
        if isinstance(argument, type) and issubclass(argument, Model):
            return list(argument.model_fields)
    return []


def _is_union_tag(part: int | str) -> bool:
    return (isinstance(part, str) and part in {"str", "int", "float", "bool", "[key]"}) or (
        isinstance(part, str) and part.startswith("function-")
    )


def _suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" ({prefix}{close[0]}?)" if close else ""


def unknown_keys(host: str, data: Mapping[str, Any], known: Iterable[str]) -> list[Problem]:
    """Keys whose prefix is misspelt: `pgbuncer_port` belongs to no component and hides a typo."""
    keys = list(known)
    prefixes = {f"{key.partition('_')[0]}_" for key in keys if "_" in key}
    problems = []
    for key in data:
        if key.startswith("_") or key in keys:
            continue
        prefix = f"{key.partition('_')[0]}_" if "_" in key else ""
        close = get_close_matches(key, keys, n=1, cutoff=0.88) or get_close_matches(
            prefix, prefixes, n=1, cutoff=0.85
        )
        if close:
            problems.append(Problem(host, key, f"unknown key ({close[0]}?)"))
    return problems


NOT_A_MOMENT = "should be a time with its zone, such as '2030-01-31T00:00:00Z'"

_SENTENCES: dict[str, str] = {
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "string_type": "should be a string",
    "tuple_type": "should be a list",
    "frozen_set_type": "should be a list",
    "datetime_type": NOT_A_MOMENT,
    "datetime_parsing": NOT_A_MOMENT,
    "datetime_from_date_parsing": NOT_A_MOMENT,
    "timezone_aware": NOT_A_MOMENT,
    "list_type": "should be a list",
    "dict_type": "should be a dictionary",
    "model_type": "should be a dictionary",
    "missing": "is missing",
    "greater_than_equal": "should be at least {ge}",
    "greater_than": "should be more than {gt}",
    "less_than_equal": "should be at most {le}",
    "datatier": "{message}",
}


def sentence(details: ErrorDetails) -> str:
    """What is wrong, in this project's words rather than the validator's."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_error":
        return f"should be {context['expected']}"
    known = _SENTENCES.get(kind)
    return known.format(**context) if known else details["msg"]


class StackSettings(Settings):
    """What all components share."""

    stack_name: Annotated[
        str,
        matching(
            r"[a-z][a-z0-9_]{0,30}",
            "should be lower-case letters, digits and '_', starting with a letter, at most 31",
        ),
    ] = "psscript"
    """Name of the default database and of its owner. Change: creates a second database and role;
    the first ones stay."""
    address: str = ""
    """IP address by which the other hosts reach this one; IPv4 on hosts with Redis or Sentinel.
    Default: resolved from the host's name; 127.0.0.1 for `@local`. Change: restart. Do not change
    it where Redis or Sentinel runs: they keep the old address in their state."""
    service_manager: Literal["auto", "systemd", "runit"] = "auto"
    """`systemd`, `runit`, or `auto`: systemd where it is PID 1, else runit. Change: not on a host
    that runs."""
    confine_services: bool = True
    """systemd takes from servers what they never do; `False` for an extension that needs a device.
    Change: counts from the next start on."""
    destroy: bool = False
    """What left the settings may go with its data; `--data destroy=true`, for one run. Change: with
    the next removal."""
    destroy_data: bool = False
    """For `tasks.remove.deploy` only: the data go too, if `confirm` allows it. Change: with the
    next removal."""
    confirm: str = ""
    """The value of `stack_name`, for `destroy_data`. Change: with the next removal."""
    secrets_command: Line = ""
    """A command of this machine, run once a run by `sh` beside `.env`, which prints the secrets as
    `.env` has them; see [secrets.md](secrets.md). Change: with the next run."""
    replace_secrets: bool = False
    """Secrets that a host has, and `.env` has not, are replaced; `--data replace_secrets=true`, for
    one run. Change: every client loses its password."""
