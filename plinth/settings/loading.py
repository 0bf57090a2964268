"""Reads settings from the environment and `.env`, and reports everything that is wrong with them at once.

No other module reads the environment, and nothing is read at import.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Self, get_args

from dotenv import dotenv_values
from pydantic import AliasChoices, ModelWrapValidatorHandler, PrivateAttr, model_validator
from pydantic import ValidationError as PydanticError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from plinth.settings import env_file, secret_files, types

__all__ = ["CheckedSettings", "SettingsError"]


class SettingsError(Exception):
    """The configuration cannot be used. Lists every problem, and quotes no value: any could be a secret."""

    def __init__(self, problems: list[str], log_format: str = "auto", log_profile: str = "default") -> None:
        super().__init__(problems)
        self.problems = problems
        self.log_format = log_format
        """LOG_FORMAT and LOG_PROFILE as far as they could be read, since the error goes to the log too."""
        self.log_profile = log_profile

    def __str__(self) -> str:
        return "\n  - ".join(["The configuration cannot be used:", *self.problems])


class CheckedSettings(BaseSettings):
    """Settings that are read once, never change, and print no secret.

    Raises:
        SettingsError: a value is missing, wrong or misspelt, or a rule is broken.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        case_sensitive=True,
        hide_input_in_errors=True,
    )

    _warnings: tuple[tuple[str, str], ...] = PrivateAttr(default=())

    def __init__(self, *, _env_file: Path | str | None = ".env", _environment: bool = True, **values: Any) -> None:
        problems, log_form = self._load(_env_file, _environment, values)
        if problems:
            # Raised here, outside of any handler and in a frame that holds no value that was read: a report of the
            # error may show its context and the local variables.
            raise SettingsError(problems, **log_form)

    @classmethod
    def isolated(cls, **values: Any) -> Self:
        """Make settings of `values` and the defaults alone: neither the environment nor `.env` is read."""
        return cls(_env_file=None, _environment=False, **values)

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        """Yield a setting's name and what was expected of it, for each rule about several settings that is broken.

        A class that adds a rule yields from `super().broken_rules()` first. No message may quote a value.
        """
        yield from ()

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        """The names of variables that do not do what they seem to do, and why: API and workers log them once."""
        return self._warnings

    def doubtful_variables(self, given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield the `warnings` about `given`: every variable as it was written. No message may quote a value.

        A class that adds a warning yields from `super().doubtful_variables(given)` first.
        """
        yield from ()

    @classmethod
    def wrong_variables(cls, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the name of each wrong variable that a library reads by itself, and what was expected of it."""
        yield from ()

    def _load(
        self, path: Path | str | None, from_environment: bool, values: dict[str, Any]
    ) -> tuple[list[str], dict[str, str]]:
        """Read and check every setting. Return the problems, each with the source of the value, and the log's form."""
        fields = type(self).model_fields
        files = secret_files.variables(fields) if from_environment else {}
        known = {*fields, *_aliases(fields), *files}
        environment = os.environ if from_environment else {}
        keys, problems = env_file.scan(Path(path), known) if path else ((), [])
        given: dict[str, Collection[str]] = {"argument": values, "environment": environment, str(path): keys}

        for name, right in env_file.misspelt(environment, known):
            if not any(right in names for names in given.values()):
                problems.append(
                    f"{name} (environment): did you mean {right}? If it belongs to another program, set {right} too"
                )
        problems += [f"{name} (environment): {what}" for name, what in self.wrong_variables(environment)]
        lines = dotenv_values(path) if path and keys else {}
        given_values = {**lines, **environment, **values}.items()
        written = {name: value.strip() if isinstance(value, str) else value for name, value in given_values}
        read = list(secret_files.read_all(files, {"argument": values, "environment": environment, str(path): lines}))
        problems += [f"{file.variable} ({file.origin}): {file.problem}" for file in read if file.problem]
        given |= {file.variable: {file.name} for file in read}
        try:
            if from_environment:
                values = values | {file.name: file.secret for file in read if not file.problem}
                super().__init__(_env_file=path if keys else None, **values)
            else:
                super().__init__(_build_sources=((InitSettingsSource(type(self), values),), values))
        except _Refused as refused:
            unread = {file.name for file in read if file.problem}
            for name, what in refused.problems.items():
                if name in unread:
                    continue
                origin = next((origin for origin, names in given.items() if name in names), "not set")
                problems.append(f"{name} ({origin}): {what}")
        except PydanticError as error:  # of a service's own validator of the whole model
            problems += [_message(detail) for detail in _details(error)]
        else:
            super().__setattr__("_warnings", tuple(self.doubtful_variables(written)))
        return problems, _log_form(written, fields)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = getattr(dotenv_settings, "env_file", None)
        # `env_file.scan` reports the keys that are no settings.
        return init_settings, _Variables(settings_cls, env_file=file, dotenv_filtering="only_existing")

    @model_validator(mode="wrap")
    @classmethod
    def _collect_problems(cls, data: dict[str, Any], validate: ModelWrapValidatorHandler[Self]) -> Self:
        # Values from files and secrets often end in a newline.
        data = {name: value.strip() if isinstance(value, str) else value for name, value in data.items()}
        # An empty value counts as not set, except where the type gives it a meaning.
        may_be_empty = {name for name, field in cls.model_fields.items() if types.MAY_BE_EMPTY in field.metadata}
        data = {name: value for name, value in data.items() if value != "" or name in may_be_empty}
        # Bytes of the environment that are none are lone surrogates here, at which encoding fails later.
        problems = {name: "expected text in UTF-8" for name, value in data.items() if not _is_utf8(value)}
        data = {name: value for name, value in data.items() if name not in problems}
        try:
            settings = validate(data)
        except PydanticError as error:
            problems |= _describe(error, cls.model_fields)
            # Validated again without the wrong values, to find the broken rules too: one message lists everything.
            try:
                settings = validate({name: value for name, value in data.items() if name not in problems})
            except PydanticError:  # a setting without a default is missing, so the rules cannot be checked
                raise _Refused(problems) from None
        for name, what in settings.broken_rules():
            problems.setdefault(name, what)
        if problems:
            raise _Refused(problems)
        return settings

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        # Pydantic's error for a frozen model quotes the value, whatever `hide_input_in_errors` says.
        raise AttributeError(f"Settings are frozen: {name} cannot be set")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("Settings are not pickled: they hold secrets")


def _aliases(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    """The names by which variables are read instead of their fields' own."""
    for field in fields.values():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        yield from (name for name in choices if isinstance(name, str))


def _is_utf8(value: object) -> bool:
    try:
        return not isinstance(value, str) or value.encode() is not None
    except UnicodeEncodeError:
        return False


def _log_form(written: Mapping[str, object], fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """The values of LOG_FORMAT and LOG_PROFILE that are among those which they may have."""
    names = [name for name in ("LOG_FORMAT", "LOG_PROFILE") if name in fields]
    return {
        name.lower(): str(written[name]) for name in names if written.get(name) in get_args(fields[name].annotation)
    }


class _Variables(DotEnvSettingsSource):
    """Values of the environment and, where it has none, of `.env`.

    Leaves a value that is no JSON as it is: validated with the others, it is reported with them.
    """

    def __init__(self, settings_cls: type[BaseSettings], **options: Any) -> None:
        super().__init__(settings_cls, **options)
        self.env_vars = {**self.env_vars, **EnvSettingsSource(settings_cls).env_vars}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        # Each of the hundred fields takes the base class 60 µs, here and in the next method, and few of them are set.
        by_its_name = self.case_sensitive and not self.env_prefix and not field.validation_alias
        if by_its_name and field_name not in self.env_vars:
            return None, field_name, False
        return super().get_field_value(field, field_name)

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
        if value is None and not self.env_nested_delimiter:
            return None
        return super().prepare_field_value(field_name, field, value, value_is_complex)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return value


class _Refused(Exception):
    """Carries problems through Pydantic to `_load`, and no further: the frames it passes hold raw values."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.problems = problems


def _describe(error: PydanticError, known: Iterable[str]) -> Iterator[tuple[str, str]]:
    for detail in _details(error):
        name = str(detail["loc"][0])
        yield name, env_file.unknown(name, known) if detail["type"] == "extra_forbidden" else _message(detail)


def _details(error: PydanticError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def _message(detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return "expected a value"
    message = detail["msg"].removeprefix("Value error, ").partition(", unable")[0]
    return re.sub("^(Input should be|String should have) ", "expected ", message)
