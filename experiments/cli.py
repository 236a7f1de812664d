"""Verbs as commands: Hydra composes, mistakes are named before any work, and every end has its exit code.

Exit codes: 0 done; 2 something the user can put right (one message, no traceback); 130, 138 or 143 ended by Ctrl-C,
SIGUSR1 or SIGTERM; 142 its slice of time is over; 1 a fault of ours (with its traceback).
"""

import contextlib
import difflib
import errno
import functools
import inspect
import io
import logging
import os
import re
import shutil
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.signals import Interrupted, signals

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # whatever is written next would meet it, too
OUT_OF_REACH = (errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
CONF = Path(__file__).resolve().parent.parent / "conf"


class UserError(ValueError):
    """Something the user can put right. The message names the thing, the rule and the remedy."""


def command(
    config_name: str, arguments: Callable[[Sequence[str]], list[str]] = list
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Makes ``verb(cfg)`` a command that composes ``conf/<config_name>.yaml`` with the overrides it is called with.

    Args:
        config_name: of the file in conf/.
        arguments: what is typed → what is meant.
    """

    def decorate(verb: Callable[[DictConfig], None]) -> Callable[[], None]:
        begun = False

        @functools.wraps(verb)
        def job(cfg: DictConfig) -> None:
            nonlocal begun
            begun = True
            try:
                check(cfg, config_name)
                verb(cfg)
            except Exception as error:
                if (message := explanation(error)) is None:
                    raise
                with contextlib.suppress(OSError):
                    os.rmdir(HydraConfig.get().runtime.output_dir)  # made by Hydra, and gone again if it is empty
                refuse(message)

        entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)

        @functools.wraps(verb)
        def main() -> None:
            nonlocal begun
            begun = False
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on instead of exiting with 1
            logging.raiseExceptions = False  # a log that cannot be written is not the user's worry
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
            from experiments.sweeps import plugins

            plugins.hand_over()
            try:
                sys.argv[1:] = arguments(sys.argv[1:])
                with signals.handled():
                    entry()
            except UserError as error:
                refuse(str(error))
            except Interrupted as end:
                sys.stdout.flush()
                raise SystemExit(128 + end.number) from None
            except MissingConfigException as error:
                refuse(unknown_choice(error))
            except HydraException as error:
                refuse(with_suggestion(str(error), config_name))
            except OmegaConfBaseException as error:
                refuse(str(error))
            except OSError as error:
                if begun:
                    raise
                refuse(f"the run's folder cannot be made ({error}): choose another run_dir")

        return main

    return decorate


def near(path: str | Path) -> Path:
    """A path as people read it: relative where it lies below the working directory."""
    absolute = Path(path).absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def refuse(message: str) -> None:
    """Prints one message and exits with 2."""
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def explanation(error: Exception) -> str | None:
    """The message of an error that the user can put right; None for a fault of ours."""
    if isinstance(error, (UserError, OmegaConfBaseException)):
        return str(error)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        place = Path(error.filename or ".").absolute()
        free = shutil.disk_usage(next(parent for parent in place.parents if parent.exists())).free
        return f"{place} cannot be written: {error.strerror}, {free:,} bytes are free; make room, what is written stays"
    if isinstance(error, OSError) and error.errno in OUT_OF_REACH and error.filename is not None:
        return f"{error.filename}: {error.strerror}; name another place, or make it accessible"

    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from datamodules.images import DataError
    from denoisers.checkpoint import CheckpointError
    from denoisers.layers import LevelError

    built = isinstance(error, InstantiationException)
    cause = error.__cause__ if built else error
    if isinstance(cause, (DataError, CheckpointError, LevelError)):
        return str(cause)
    if built and isinstance(cause, (ValueError, TypeError, MisconfigurationException)):
        key = re.search(r"full_key: (\S+)", str(error))
        return f"{key[1]}: {cause}" if key else str(cause)
    return None


# --- composition ------------------------------------------------------------------------------------------------------


def unknown_choice(error: MissingConfigException) -> str:
    """``model=xdnccn`` → which choices there are and which one was meant."""
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    options = list(error.options or [])
    listed = f"\n  choices: {', '.join(options)}" if options else ""
    return f"there is no {group} {choice!r}{did_you_mean(choice, options)}{listed}"


def with_suggestion(message: str, config_name: str) -> str:
    """Hydra's message in one line; where it is about a key, with the known keys that come near."""
    first = message.strip().splitlines()[0]
    key = re.search(r"Could not (?:override|append to|delete from) .*?'([^']+)'", message)
    if key is None:
        return message.strip()
    path, _, leaf = key[1].rpartition(".")
    node = OmegaConf.select(base_config(config_name, sys.argv[1:]), path) if path else None
    if isinstance(node, DictConfig) and str(node.get("_target_")).startswith("denoisers."):
        return not_taken(path, node, leaf)
    return f"there is no {key[1]!r} to override{did_you_mean(key[1], known_keys(config_name))}\n  ({first})"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean …?`` with the nearest known words, or nothing."""
    leaf = word.rpartition(".")[2]
    same_leaf = [name for name in known if "." in name and name.rpartition(".")[2] == leaf and "." not in word]
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    meant = list(dict.fromkeys([*same_leaf, *near]))[:3]
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def require_known(asked: Sequence[str], known: Sequence[str], name: str, kind: str = "") -> None:
    """Raises UserError naming the first that is unknown, by its kind if one is given, and what it may mean."""
    for one in asked:
        if one not in known:
            meant = did_you_mean(str(one), known)
            said = f"{kind} {one!r}".lstrip()
            raise UserError(f"{name}={list(asked)}: there is no {said}{meant}\n  choices: {', '.join(known)}")


def known_keys(config_name: str) -> list[str]:
    """Every key of the configuration as its groups are chosen, and the groups themselves."""
    groups = [str(p.relative_to(CONF)) for p in CONF.rglob("*") if p.is_dir()]
    return [*groups, *flat(plain(base_config(config_name, sys.argv[1:])))]


def base_config(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration that the chosen groups give before any value in it is overridden."""
    choices = [o for o in overrides if "=" in o and not o.startswith("-") and (CONF / o.split("=")[0]).is_dir()]
    return chosen(config_name, tuple(choices))


@functools.cache
def chosen(config_name: str, choices: tuple[str, ...]) -> DictConfig:
    """The same, of the choices alone; many cells of a sweep share theirs."""
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(config_name, list(choices))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, list(choices))


def plain(cfg: Any) -> Any:
    """Plain containers, interpolations as they are written."""
    return OmegaConf.to_container(cfg, resolve=False)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value, for every node below the root."""
    if not isinstance(node, dict):
        return {}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found[f"{prefix}{key}"] = value
        found |= flat(value, f"{prefix}{key}.")
    return found


# --- values -----------------------------------------------------------------------------------------------------------


def check(cfg: DictConfig, config_name: str) -> None:
    """Refuses what composes but cannot work: missing values, keys that nothing reads, values of the wrong type.

    Raises:
        UserError: naming the key, the rule and the nearest alternatives.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{' and '.join(missing)} must be given: {' '.join(f'{key}=…' for key in missing)}")
    overrides = list(HydraConfig.get().overrides.task)
    base = flat(plain(base_config(config_name, overrides)))
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if (CONF / key).is_dir() or belongs_to_target(cfg, key):
            continue
        if key not in base:
            raise UserError(f"nothing reads {key!r}{did_you_mean(key, list(base))}")
        value = OmegaConf.select(cfg, key)
        if not fits(value, base[key]):
            raise UserError(f"{key}={value}: must be {type(base[key]).__name__}, like its default {base[key]}")
    check_targets(cfg, typed=overrides)


def belongs_to_target(cfg: DictConfig, key: str) -> bool:
    """Whether the key is, or is an argument of, something that is built from the configuration."""
    parts = key.split(".")
    nodes = (OmegaConf.select(cfg, ".".join(parts[: i + 1])) for i in range(len(parts)))
    return any(isinstance(node, DictConfig) and "_target_" in node for node in nodes)


def fits(value: Any, default: Any) -> bool:
    """Whether a value is of its default's kind; a default that says nothing of its kind takes anything."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, (int, float)):
        allowed = (int, float) if isinstance(default, float) else int
        return isinstance(value, allowed) and not isinstance(value, bool)
    return True


def check_targets(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Compares every node that names a ``_target_`` with that target's signature and annotations.

    Those that were typed come first: the others' modules take seconds to import.
    """
    for path, node in sorted(targets(cfg), key=lambda found: not any(found[0] in override for override in typed)):
        written = plain(node)
        for key, accepted in arguments(path, node).items():
            raw = written[key]
            # the name that people type, where the value is taken from there
            name = raw[2:-1] if isinstance(raw, str) and raw.startswith("${") and "." in raw else f"{path}.{key}"
            if (problem := type_problem(node[key], accepted)) is not None:
                known = [option for option in typing.get_args(accepted) if isinstance(option, str)]
                raise UserError(f"{name}={node[key]}: {problem}{did_you_mean(str(node[key]), known)}")


def targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node below that names a target, with its dotted path."""
    if isinstance(node, DictConfig) and not node._is_none():
        if "_target_" in node:
            yield path, node
        for key in (key for key in node if isinstance(key, str)):  # not the numbers of a mapping from noise levels
            # what is interpolated stands elsewhere under its own name
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                yield from targets(node[key], f"{path}.{key}" if path else key)


def arguments(path: str, node: DictConfig) -> dict[str, Any]:
    """The node's plain arguments with the annotations of its target.

    Raises:
        UserError: the target does not take one of them.
    """
    target = hydra.utils.get_object(node["_target_"])
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(target).parameters
    given = [key for key in node if not str(key).startswith("_")]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in parameters and not takes_any:
            raise UserError(not_taken(path, node, str(key)))
    if target.__module__.startswith("lightning."):  # whose annotations are narrower than what it takes
        return {}
    try:
        annotations = typing.get_type_hints(function)
    except Exception:  # annotations that only a type checker can resolve
        return {}
    return {k: annotations[k] for k in given if k in annotations and not isinstance(node[k], DictConfig)}


def not_taken(path: str, node: DictConfig, key: str) -> str:
    """What is said of a key that a target does not take."""
    parameters = list(inspect.signature(hydra.utils.get_object(node["_target_"])).parameters)
    takes = f"takes {', '.join(parameters)}" if parameters else "takes nothing"
    return f"{path} takes no {key!r}{did_you_mean(key, parameters)}\n  {node['_target_']} {takes}"


def type_problem(value: Any, annotation: Any) -> str | None:
    """Why a value from the configuration does not fit an annotation, or None."""
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

    if OmegaConf.is_config(value):
        value = plain(value)
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        return "; ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
    except PydanticSchemaGenerationError:
        return None
    return None
