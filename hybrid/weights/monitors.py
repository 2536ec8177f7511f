"""Alarms of a GRPO training, relative to its first steps.

    monitor = Monitor(settings, groups=8, completions=64)
    for line in history:       # one mapping per step, as in `TrainResult.history`; see `observe` for the figures
        monitor.feed(line)     # the alarms that this step set off

A monitor knows nothing but the log lines that it was fed, so a resumed training, which reads its old lines back, gives
the same alarms. Every threshold compares the last `window` steps with the first `window` steps: entropies, lengths and
format shares of two models have no common scale. Each monitor fires once. What each catches, and what it does not:
`docs/monitors.md`.

Does not: import torch, touch a trainer (see `trl_grpo`), or judge an adapter; gates do that.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal

from hybrid.config.monitors import AlarmAction, MonitorsConfig
from hybrid.evidence.formats import FormatUse, format_use, merited_share
from hybrid.weights.observe import PASSED, SHARE

Name = Literal[
    "entropy_floor",
    "format_share",
    "pass_at_k",
    "clipped",
    "kl",
    "length_growth",
    "unspecific",
    "reward_without_search",
]
ALARM = "alarm/"
"""Prefix of the history keys that mark an alarm (1.0)."""
_SURE = 2.0
"""Standard errors by which a rise or a fall must exceed noise where the threshold itself does not say so."""
_HALVED = 0.5
"""Share of the effective number of formats below which a fall of pass@k counts as collapse."""


@dataclass(frozen=True)
class Alarm:
    """One monitor's alarm at `step`; `onset` is the first step of the window that set it off.

    `value` is what was measured and `limit` what it crossed, in the monitor's own unit. `message` is one sentence.
    """

    monitor: Name
    step: int
    onset: int
    value: float
    limit: float
    action: AlarmAction
    message: str

    @property
    def ends_training(self) -> bool:
        """Whether nothing more is trained: what follows a rollback's onset would never be offered."""
        return self.action != "warn"

    def as_json(self) -> dict[str, Any]:
        """The alarm as plain JSON; `Alarm(**value)` reads it back."""
        return asdict(self)


@dataclass(frozen=True)
class _Finding:
    """What a check found: the numbers, and the sentence about them without the steps."""

    value: float
    limit: float
    text: str


class _Window:
    """Means over a few steps. A figure that a step lacks is averaged over the steps that have it."""

    def __init__(self, steps: Sequence[Mapping[str, float]]) -> None:
        self.steps = steps

    def values(self, key: str) -> list[float]:
        return [step[key] for step in self.steps if key in step]

    def mean(self, key: str) -> float | None:
        values = self.values(key)
        return math.fsum(values) / len(values) if values else None

    def formats(self, completions: int) -> list[tuple[str, bool]]:
        """(format, passed) of every completion of the window, from the shares."""
        names = sorted({key.removeprefix(SHARE) for step in self.steps for key in step if key.startswith(SHARE)})
        labelled: list[tuple[str, bool]] = []
        for name in names:
            count = round(math.fsum(self.values(SHARE + name)) * completions)
            passed = round(math.fsum(self.values(PASSED + name)) * completions)
            labelled += [(name, True)] * passed + [(name, False)] * (count - passed)
        return labelled


class Monitor:
    """Watches one training. `groups` and `completions` are those of one step over all processes."""

    def __init__(self, settings: MonitorsConfig, groups: int, completions: int) -> None:
        self._settings, self._groups, self._completions = settings, groups, completions
        self._first: list[Mapping[str, float]] = []
        self._last: deque[Mapping[str, float]] = deque(maxlen=settings.window)
        self._fed = 0
        self._fired: set[Name] = set()
        self._checks: tuple[tuple[Name, Callable[[_Window, _Window], _Finding | None]], ...] = (
            ("entropy_floor", self._entropy),
            ("format_share", self._formats),
            ("pass_at_k", self._coverage),
            ("clipped", self._clipped),
            ("kl", self._kl),
            ("length_growth", self._length),
            ("unspecific", self._specific),
        )

    def feed(self, metrics: Mapping[str, float]) -> tuple[Alarm, ...]:
        """Take the figures of the next step (with `step`), and return the alarms that it set off."""
        window = self._settings.window
        if len(self._first) < window:
            self._first.append(metrics)
        self._last.append(metrics)
        self._fed += 1
        if self._fed < 2 * window:
            return ()
        start, now = _Window(self._first), _Window(list(self._last))
        alarms: list[Alarm] = []
        for name, check in self._checks:
            if name in self._fired or getattr(self._settings, name) is None:
                continue
            found = check(start, now)
            if found is not None:
                self._fired.add(name)
                alarms.append(self._alarm(name, found))
        return tuple(alarms)

    def _alarm(self, name: Name, found: _Finding) -> Alarm:
        first, last = int(self._last[0]["step"]), int(self._last[-1]["step"])
        action: AlarmAction = getattr(self._settings.on_alarm, name)
        return Alarm(name, last, first, found.value, found.limit, action, f"steps {first} to {last}: {found.text}")

    def _entropy(self, start: _Window, now: _Window) -> _Finding | None:
        """Surer than success earns: the entropy fell below its share of what the failures left to explore."""
        floor, before, after = self._settings.entropy_floor, start.mean("entropy"), now.mean("entropy")
        if floor is None or before is None or after is None:
            return None
        left = _failures_left(start, now)
        limit = floor * before * left
        if after >= limit:
            return None
        share = f"{after / before:.2g} of the {before:.3g} at the start"
        earned = f"while {left:.2g} of the failures are left" if left < 1.0 else "and no fewer answers fail"
        return _Finding(after, limit, f"the token entropy is {after:.3g} nats, {share}, {earned} (floor {floor:g})")

    def _formats(self, start: _Window, now: _Window) -> _Finding | None:
        base, after = start.formats(self._completions), now.formats(self._completions)
        used, before = format_use(after, base), format_use(base)
        if used is None or before is None:
            return None
        if used.excess_collapse is None or used.excess_collapse <= self._settings.format_excess:
            return None
        name = max(used.shares, key=lambda name: used.shares[name])
        if used.shares[name] <= merited_share(name, base):
            return None  # on its way to the optimum, which is as far away in nats on this side as on the other
        return self._one_format(name, before, used) or self._fewer_formats(before, used, start, now)

    def _one_format(self, name: str, before: FormatUse, used: FormatUse) -> _Finding | None:
        """One format rose to (nearly) everything, beyond what its accuracy at the start earns it.

        That it rose counts too: where the base is hardly ever right, merit is unknown and excess alone says little.
        """
        most, excess, share = self._settings.format_share, used.excess_collapse, used.shares[name]
        if most is None or share < most:
            return None
        if self._errors(share, before.shares.get(name, 0.0), self._settings.window) <= _SURE:
            return None
        beyond = f"{excess:.2g} nats beyond what accuracies at the start explain"
        return _Finding(share, most, f"{share:.2f} of the completions have the format {name!r}, {beyond}")

    def _fewer_formats(self, before: FormatUse, used: FormatUse, start: _Window, now: _Window) -> _Finding | None:
        """Fewer than half as many formats while pass@k falls: variety was lost that was worth something."""
        if used.effective >= _HALVED * before.effective or self._fall("pass_at_k", start, now) <= _SURE:
            return None
        text = f"the effective number of formats fell from {before.effective:.2f} to {used.effective:.2f}"
        return _Finding(used.effective, _HALVED * before.effective, f"{text} while pass@k fell")

    def _coverage(self, start: _Window, now: _Window) -> _Finding | None:
        limit, errors = self._settings.pass_at_k, self._fall("pass_at_k", start, now)
        before, after = start.mean("pass_at_k"), now.mean("pass_at_k")
        if limit is None or before is None or after is None or errors <= limit:
            return None
        return _Finding(errors, limit, f"pass@k fell from {before:.2f} to {after:.2f}, {errors:.1f} standard errors")

    def _clipped(self, start: _Window, now: _Window) -> _Finding | None:
        share, before, after = self._settings.clipped, start.mean("clipped_ratio"), now.mean("clipped_ratio")
        if share is None or before is None or after is None or before >= 1.0:
            return None
        limit = before + share * (1.0 - before)
        if after < limit or -self._fall("clipped_ratio", start, now) <= _SURE:
            return None
        return _Finding(after, limit, f"{after:.2f} of the completions are cut off, {before:.2f} at the start")

    def _kl(self, start: _Window, now: _Window) -> _Finding | None:
        limit, after = self._settings.kl, now.mean("kl")
        if limit is None or after is None or after < limit:
            return None
        return _Finding(after, limit, f"the KL to the base is {after:.3g} nats per token (limit {limit:g})")

    def _length(self, start: _Window, now: _Window) -> _Finding | None:
        growth, before, after = self._settings.length_growth, start.mean("mean_length"), now.mean("mean_length")
        if growth is None or not before or after is None or after < growth * before or not _rises(start, now):
            return None
        text = f"completions are {after:.3g} tokens long, {after / before:.2g} times as long as at the start"
        return _Finding(after, growth * before, f"{text}, while the reward rises: is length what is rewarded?")

    def _specific(self, start: _Window, now: _Window) -> _Finding | None:
        rise, before, after = self._settings.unspecific, start.mean("unspecific"), now.mean("unspecific")
        if rise is None or before is None or after is None or after < before + rise:
            return None
        if -self._fall("unspecific", start, now) <= _SURE:
            return None
        text = f"{after:.2f} of the completions pass for another row's reference too, {before:.2f} at the start"
        return _Finding(after, before + rise, f"{text}: can the grader be satisfied without answering?")

    def _fall(self, key: str, start: _Window, now: _Window) -> float:
        """By how many standard errors a share fell; 0 where it was not measured."""
        before, after = start.mean(key), now.mean(key)
        if before is None or after is None:
            return 0.0
        return self._errors(before, after, min(len(start.values(key)), len(now.values(key))))

    def _errors(self, larger: float, smaller: float, steps: int) -> float:
        """By how many standard errors two shares of `steps` steps each differ.

        Groups count, not completions: those of one prompt resemble each other. Half a count is added each way, so that
        a share of 0 or 1 over a few groups is not taken for certain.
        """
        groups = steps * self._groups
        smooth = [(share * groups + 0.5) / (groups + 1) for share in (larger, smaller)]
        return (larger - smaller) / math.sqrt(sum(share * (1.0 - share) for share in smooth) / groups)


class StagedMonitor:
    """A monitor for each stage of a training, `lengths` steps each: a stage is compared with its own first steps."""

    def __init__(self, settings: MonitorsConfig, groups: int, completions: int, lengths: Sequence[int]) -> None:
        self._ends = list(accumulate(lengths))
        self._parts = [Monitor(settings, groups, completions) for _ in lengths]

    def feed(self, metrics: Mapping[str, float]) -> tuple[Alarm, ...]:
        """Take the figures of the next step (with `step`, from 1), and return the alarms that it set off."""
        return self._parts[bisect_left(self._ends, metrics["step"])].feed(metrics)


def _failures_left(start: _Window, now: _Window) -> float:
    """Share of the failing completions of the start that fail still, at most 1; 1 where passing was not measured."""
    before, after = start.mean("pass_at_1"), now.mean("pass_at_1")
    if before is None or after is None or before >= 1.0:
        return 1.0
    return min(1.0, (1.0 - after) / (1.0 - before))


def _rises(start: _Window, now: _Window) -> bool:
    """Whether the reward rose by more than the noise between steps explains (Welch's statistic above 2)."""
    before, after = start.values("reward"), now.values("reward")
    if len(before) < 2 or len(after) < 2:
        return False
    rise = math.fsum(after) / len(after) - math.fsum(before) / len(before)
    error = math.sqrt(sum(_variance(v) / len(v) for v in (before, after)))
    return rise > _SURE * error


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)


def replay(
    settings: MonitorsConfig, groups: int, completions: int, history: Iterable[Mapping[str, float]]
) -> tuple[Alarm, ...]:
    """All alarms of a history, in order; a monitor that was fed it line by line gave the same ones."""
    monitor = Monitor(settings, groups, completions)
    return tuple(alarm for line in history for alarm in monitor.feed(line))


def marks(alarms: Iterable[Alarm], step: float) -> dict[str, float]:
    """What a step's history says of its alarms: `alarm/NAME` = 1.0."""
    return {ALARM + alarm.monitor: 1.0 for alarm in alarms if alarm.step == step}


def taken_back_from(alarms: Iterable[Alarm]) -> int | None:
    """The step from which on checkpoints are not offered: the earliest onset of an alarm that rolls back."""
    return min((alarm.onset for alarm in alarms if alarm.action == "rollback"), default=None)


def unshared_reward(
    settings: MonitorsConfig, history: Sequence[Mapping[str, float]], scores: Iterable[tuple[int, float]], start: float
) -> Alarm | None:
    """The first checkpoint at which the training reward has risen and the score on `search` is no better than `start`.

    `scores` are (step, mean on `search`). Sharpening alone can do this where answers are judged greedily, so the alarm
    says what is known and no more.
    """
    window = settings.window
    if not settings.reward_without_search:
        return None
    for step, score in sorted(scores):
        seen = [line for line in history if line["step"] <= step]
        if len(seen) < 2 * window or score > start:
            continue
        first, last = _Window(seen[:window]), _Window(seen[-window:])
        before, after = first.mean("reward"), last.mean("reward")
        if before is None or after is None or not _rises(first, last):
            continue
        text = (
            f"the training reward rose from {before:.3g} to {after:.3g}, but on search {start:.3g} became {score:.3g}"
        )
        why = "the gain is not one that measurement sees (memorised rows, sharpening, or a reward that is not the aim)"
        action = settings.on_alarm.reward_without_search
        return Alarm("reward_without_search", step, step, score, start, action, f"step {step}: {text}: {why}")
    return None
