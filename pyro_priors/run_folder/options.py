"""The options of a run, compared with those that resume it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError

__all__ = ["MAY_CHANGE", "compare_options", "difference"]

MAY_CHANGE = ("max_epochs", "patience", "checkpoint_seconds", "tensorboard", "device", "num_processes", "compile")
"""Options of the training that may change when a run is resumed."""

GIVEN_AGAIN = ("optimizer", "callbacks")
"""What Python gives a training besides options: a resumed run must be given the same."""


def compare_options(
    path: Path,
    old: Mapping[str, Any],
    config: dict[str, Any],
    defaults: dict[str, Any] | None,
    filled_in: Sequence[str] | None,
) -> None:
    """Compare options with those of a run.

    :param path: the run folder, for errors
    :param old: content of the run's ``config.json``
    :param config: the options
    :param defaults: the default of each option, in the same form; an option that is newer than the run must be at its
        default
    :param filled_in: if given, ``config`` need not name every option. Missing options must be at their defaults in the
        run, except for these, and for options without a default, which depend on the data
    :raises ValueError: if an option differs
    """
    # what was written is compared, not what was given: JSON has no tuples
    config, defaults = json.loads(json.dumps([config, defaults or {}]))
    for what in GIVEN_AGAIN:
        _compare_given(path, what, old, config)
    for group, options in config.items():
        if group in GIVEN_AGAIN:
            continue
        known = old.get(group)
        if group == "data":
            known, options = _without_places(path, known, options)
        _compare(path, group, known, options, defaults.get(group, {}), filled_in)


def _compare_given(path: Path, what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Compare the optimizer or the callbacks, which only the caller can give again.

    :raises ValueError: if they differ
    """
    was, now = old.get(what) or None, new.get(what) or None
    if was == now:
        return
    shown = [_shown(one) for one in (was, now)]
    if shown[0] == shown[1]:  # of one class: the groups differ
        _compare(path, f"{what}.groups", (was or {}).get("groups"), (now or {}).get("groups"), {}, None)
    raise UserError(
        f"the run in {path} was trained with {what}={shown[0]}, and {what} is {shown[1]} now: give the same "
        f"{what} to fit to resume it, or choose another --out"
    )


def _without_places(path: Path, old: Any, new: dict[str, Any] | None) -> tuple[Any, Any]:
    """Return the parts of two records of data that remain to be compared after the checksums, without the places.

    :raises ValueError: if the checksums differ
    """
    run, remedy = f"the run in {path} was trained", "or choose another --out"
    if not isinstance(new, dict) or not isinstance(old, dict):
        # runs on arrays did not always record them
        return (None, None) if old is None and "arrays" in (new or {}) else (old, new)
    if "arrays" in old:
        if old.get("config") and new.get("config") and old["config"] != new["config"]:
            return old, new  # loaded with other options: a more helpful message
        found = new.get("arrays", {})
        for part, digest in old["arrays"].items():
            if found.get(part) != digest:
                raise UserError(f"{run} on other arrays (the {part} part differs): give the same arrays, {remedy}")
        return None, None
    if "arrays" in new:
        raise UserError(
            f"{run} on {old.get('name')} as loaded, but these data are in-memory arrays: load {old.get('name')}, "
            f"{remedy}"
        )
    old, new = ({**one, "config": {**one.get("config", {}), "root": None}} for one in (old, new))
    if "sha256" in old and "sha256" in new:
        if old["sha256"] != new["sha256"]:
            raise UserError(f"{run} on another data file: give the original file, {remedy}")
        old["name"] = new["name"]
    return old, new


def _compare(path: Path, name: str, old: Any, new: Any, defaults: Any, filled_in: Sequence[str] | None) -> None:
    option = name.rsplit(".", 1)[-1]
    if name == "versions" or option in MAY_CHANGE:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            default = defaults.get(key) if isinstance(defaults, dict) else None
            if filled_in is not None and key not in new:
                if default is None or key in filled_in:
                    continue
                new = {**new, key: default}
            # the default is what runs did before the option existed
            known = old.get(key) if key in old or isinstance(default, dict) else default
            _compare(path, f"{name}.{key}", known, new.get(key), default, filled_in)
    elif old != new:
        raise UserError(
            f"{name} is {new!r}, but the run in {path} was started with {old!r}: give that value to resume "
            "it, or choose another --out"
        )


def _shown(given: Any) -> str:
    """Return what a message calls an optimizer or callbacks."""
    if isinstance(given, list):
        return f"[{', '.join(given)}]"
    return "None" if given is None else str(given["name"])


def difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """Return name and values of the first option that both records have and that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = (difference(f"{name}.{key}", old[key], new[key]) for key in old if key in new)
        return next(filter(None, found), None)
    return None if old == new else (name, old, new)
