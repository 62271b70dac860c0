"""Settings files of commands: made from a command's options, read strictly."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import click

from .values import Flags, Grid, Numbers

NOT_IN_FILES = frozenset({"help", "config", "resume", "overwrite", "version"})  # say how to run, not what


def options_of(command: click.Command) -> dict[str, click.Parameter]:
    """What a settings file of `command` may say, by key."""
    return {str(p.name): p for p in command.params if p.name not in NOT_IN_FILES}


def read_config(path: Path, command: click.Command) -> dict[str, Any]:
    """Settings in a YAML file, checked against the options of `command`; what is null is left out.

    Raises
    ------
    ValueError
        For unknown keys and values of a wrong type; the message names them by their path.
    """
    known = options_of(command)
    names = {name: key for key, option in known.items() for name in _spellings(option)}
    content = _read_yaml(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} should be a table of options such as 'fmax: 0.01', found {_short(content)}")
    found: dict[str, Any] = {}
    for word, value in content.items():
        key = names.get(str(word).replace("-", "_"))
        if key is None:
            near = difflib.get_close_matches(str(word)[:100], names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{path}: {str(word)[:100]} is not an option of {command.name}; {hint}")
        if key in found:
            raise ValueError(f"{path}: {word} says again what {key} says already")
        if value is not None:
            found[key] = _checked(known[key], value, f"{path}: {word}")
    return found


def template(command: click.Command) -> str:
    """A commented settings file with the defaults of all options."""
    lines = [
        f"# Settings of: dpa2 {command.name} --config FILE",
        "# Lines that begin with # say nothing; options on the command line go before this file.",
    ]
    options = options_of(command)
    for key in sorted(options, key=lambda key: not isinstance(options[key], click.Argument)):
        option = options[key]
        about = getattr(option, "help", None) or _about_argument(option)
        lines += ["", f"# {about}{_choices(option)}"]
        default = option.get_default(click.Context(command), call=False)
        empty = default is None or isinstance(option, click.Argument) or default == () or not _is_plain(default)
        lines.append(f"#{key}: {_example(option)}".rstrip() if empty else f"{key}: {_yaml(default)}")
    return "\n".join(lines) + "\n"


def _spellings(option: click.Parameter) -> list[str]:
    words = [*option.opts, *option.secondary_opts, str(option.name)]
    return [word.lstrip("-").replace("-", "_") for word in words if len(word.lstrip("-")) > 1]


# ---- reading --------------------------------------------------------------------------------------------------------


def _read_yaml(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-3 as a number, and refuses the same key twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            """As the base class, once it is known that all keys differ."""
            keys = [key.value for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise yaml.YAMLError(f"{twice} is given twice")
            return super().construct_mapping(node, deep)

    number = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    if not path.is_file():
        raise FileNotFoundError(f"no settings file {path}; dpa2 init writes one")
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    return {} if content is None else content


def _checked(option: click.Parameter, value: Any, path: str) -> Any:
    """The value as click may have it, or an error that names `path`."""
    several = option.nargs != 1 or getattr(option, "multiple", False)
    if several:
        items = value if isinstance(value, list) else [value]
        if isinstance(option, click.Option) and option.nargs > 1 and len(items) != option.nargs:
            raise ValueError(f"{path} should be a list of {option.nargs}, found {_short(value)}")
        return [_one(option, item, f"{path}[{index}]") for index, item in enumerate(items)]
    return _one(option, value, path)


def _one(option: click.Parameter, value: Any, path: str) -> Any:  # noqa: PLR0911  # one line for each kind of option
    kind = option.type
    if isinstance(option, click.Option) and option.is_flag:
        return _of(value, isinstance(value, bool), "true or false", path)
    if isinstance(kind, click.Choice):
        optional = getattr(option, "optional_value", None)  # an option that also goes without a value
        if optional and isinstance(value, bool):
            return optional if value else None
        choices = [str(choice) for choice in kind.choices]
        return _of(value, value in choices, f"one of {', '.join(choices)}", path)
    if isinstance(kind, Numbers | Grid | Flags):
        return _of(value, _converts(kind, value), kind.expected, path)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(kind, click.types.IntParamType):
        return _of(value, is_number and isinstance(value, int), "a whole number", path)
    if isinstance(kind, click.types.FloatParamType):
        return _of(value, is_number, "a number", path)
    return _of(value, isinstance(value, str), "text", path)


def _of(value: Any, is_right: bool, expected: str, path: str) -> Any:
    if not is_right:
        raise ValueError(f"{path} should be {expected}, found {_short(value)}")
    return value


def _converts(kind: Any, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | list | int | float):
        return False
    try:
        kind.convert(value, None, None)
    except click.ClickException:
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- writing --------------------------------------------------------------------------------------------------------


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | tuple | list)


def _yaml(value: Any) -> str:
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True).removesuffix("...\n").strip()


def _about_argument(option: click.Parameter) -> str:
    if option.name == "structures":
        return "Files in any format ASE reads; FILE@INDEX for some frames, patterns such as data/*.cif for many files."
    return f"The argument {option.human_readable_name}."


def _choices(option: click.Parameter) -> str:
    kind = option.type
    if isinstance(kind, click.Choice) and not getattr(option, "is_flag", False):
        return f" One of {', '.join(map(str, kind.choices))}."
    return ""


def _example(option: click.Parameter) -> str:
    if option.nargs == -1 or getattr(option, "multiple", False):
        return "[]"
    kind = option.type
    if isinstance(kind, Numbers | Grid | Flags):
        return "[]"
    return "true" if getattr(option, "is_flag", False) else ""
