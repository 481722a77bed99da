"""How many instances this host is to run, by their load: `coollm scale --auto`, which a timer calls each minute where `server.autoscale` is on.

Deciding is apart from doing: `decide` is given a load and what was seen before, and says how many instances there are to be and why. One is added when the load
has been above a threshold for a while, one goes when those that stay would be well below all of them for a longer while, and after a change nothing is changed
until its effect can be seen. What was seen is kept beside the journal:

    ADMIN/autoscale.json  {"above_since": 0.0, "below_since": 1790000000.0, "changed": 1790000000.0}
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from coollm_cli.ops import host
from coollm_cli.ops.load import Load, host_memory_bytes, measure
from coollm_cli.ops.operation import Options, change
from coollm_cli.ops.rollout import settings_in_force
from coollm_cli.output import Result

from coollm.core.config.schema import Autoscale
from coollm.core.errors import LockHeld, OperationFailed
from coollm.core.files import replace_file
from coollm.core.paths import SYSTEM_ADMIN, SYSTEM_CONFIG

MEASURE_SECONDS = 10.0
FILE = SYSTEM_ADMIN / "autoscale.json"


class Memory(msgspec.Struct, frozen=True):
    """Since when the load is above or below the thresholds, and when the number was changed; times of the epoch, 0 for never."""

    above_since: float = 0.0
    below_since: float = 0.0
    changed: float = 0.0


class Decision(NamedTuple):
    """How many instances there are to be, and why."""

    wanted: int
    reason: str
    memory: Memory


class Figure(NamedTuple):
    """A figure of the load beside its threshold. `alone` is what it would be if one instance fewer ran."""

    text: str
    now: float
    alone: float
    most: float


def decide(load: Load, running: int, wanted: Autoscale, memory: Memory, now: float, *, cores: int, memory_share: float) -> Decision:
    """What is to be done about a load. `running` instances are enabled."""
    if running < wanted.min:
        return Decision(wanted.min, f"{running} run, and server.autoscale.min is {wanted.min}", Memory(changed=now))
    if running > wanted.max:
        return Decision(wanted.max, f"{running} run, and server.autoscale.max is {wanted.max}", Memory(changed=now))
    figures = list(_figures(load, running, wanted, cores))
    shown = ", ".join(figure.text for figure in figures) or "no threshold is given"
    above = [figure for figure in figures if figure.now > figure.most]
    below = running > 1 and bool(figures) and all(figure.alone < wanted.down_share * figure.most for figure in figures)
    seen = Memory(above_since=(memory.above_since or now) if above else 0.0, below_since=(memory.below_since or now) if below else 0.0, changed=memory.changed)
    if now - memory.changed < wanted.cooldown:
        return Decision(running, f"{shown}: nothing for {memory.changed + wanted.cooldown - now:.0f} s more after the last change", seen)
    if above:
        return _up(above[0], shown, running, wanted, seen, now, has_memory=wanted.memory_percent is None or memory_share * 100 < wanted.memory_percent)
    if below:
        return _down(shown, running, wanted, seen, now)
    return Decision(running, f"{shown}: as it should be", seen)


def _figures(load: Load, running: int, wanted: Autoscale, cores: int) -> Iterator[Figure]:
    """Each threshold, with what there is. Instances share the load evenly."""
    fewer = max(1, running - 1)
    if wanted.cpu_percent is not None and load.workers:
        each = load.workers / running
        now, alone = (100 * load.processors / min(cores, each * count) for count in (running, fewer))
        yield Figure(f"processors {now:.0f} % of {wanted.cpu_percent:g}", now, alone, wanted.cpu_percent)
    if wanted.requests_per_second is not None:
        now, alone = load.requests / running, load.requests / fewer
        yield Figure(f"{now:.1f} requests/s of {wanted.requests_per_second:g} each", now, alone, wanted.requests_per_second)
    if wanted.streams is not None:
        now, alone = load.streams / running, load.streams / fewer
        yield Figure(f"{now:.0f} streams of {wanted.streams} each", now, alone, wanted.streams)


def _up(figure: Figure, shown: str, running: int, wanted: Autoscale, seen: Memory, now: float, *, has_memory: bool) -> Decision:
    lasting = now - seen.above_since
    if lasting < wanted.up_after:
        return Decision(running, f"{shown}: above for {lasting:.0f} s, of {wanted.up_after}", seen)
    if running >= wanted.max:
        return Decision(running, f"{shown}: above, and server.autoscale.max is {wanted.max}: other hosts are needed", seen)
    if not has_memory:
        return Decision(running, f"{shown}: above, and the workers use more memory than server.autoscale.memory_percent: other hosts are needed", seen)
    return Decision(running + 1, f"{figure.text} for {lasting:.0f} s: one more", Memory(changed=now))


def _down(shown: str, running: int, wanted: Autoscale, seen: Memory, now: float) -> Decision:
    lasting = now - seen.below_since
    if lasting < wanted.down_after:
        return Decision(running, f"{shown}: {running - 1} would do for {lasting:.0f} s, of {wanted.down_after}", seen)
    if running <= wanted.min:
        return Decision(running, f"{shown}: fewer would do, and server.autoscale.min is {wanted.min}", seen)
    return Decision(running - 1, f"{shown}: {running - 1} have done for {lasting:.0f} s: one fewer", Memory(changed=now))


def auto(options: Options) -> Result:
    """Looks, decides, says why, and scales if that is decided. A change that is under way goes first. Raises OperationFailed."""
    host.need_root()
    wanted = settings_in_force().server.autoscale
    if not wanted.enabled:
        return Result({"ok": True, "changed": False}, [] if options.quiet else ["server.autoscale is not on: nothing is changed"], as_json=options.as_json)
    running = len(host.need_instances())
    load = measure(SYSTEM_CONFIG, MEASURE_SECONDS)
    share = load.memory_bytes / host_memory_bytes()
    decision = decide(load, running, wanted, remembered(FILE), time.time(), cores=os.cpu_count() or 1, memory_share=share)
    told = {"ok": True, "instances": running, "wanted": decision.wanted, "reason": decision.reason, "changed": False}
    text = f"{host.count(running, 'instance')}: {decision.reason}"
    if options.dry_run or decision.wanted == running:
        if not options.dry_run:
            _remember(FILE, decision.memory)
        return Result(told, [] if options.quiet else [text], as_json=options.as_json)
    try:
        change(host.host_of(SYSTEM_CONFIG), lambda: host.scale_plan(decision.wanted, reason=decision.reason), options)
    except LockHeld as error:
        return Result(told, [f"{text}; but {error.message}: again in a minute"], as_json=options.as_json)
    _remember(FILE, decision.memory)
    return Result({**told, "changed": True}, [text], as_json=options.as_json)


def remembered(file: Path) -> Memory:
    """What was seen before; nothing if the file is not there, or makes no sense."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Memory)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return Memory()


def _remember(file: Path, memory: Memory) -> None:
    try:
        replace_file(file, msgspec.json.encode(memory))
    except OSError as error:
        raise OperationFailed(f"{file}: cannot be written: {error.strerror}", "coollm doctor names a disk that is full") from error
