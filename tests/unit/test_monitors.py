"""Alarms are relative to the first steps, fire once, and are a function of the log alone."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.config.monitors import AlarmActions, FormatPattern, MonitorsConfig
from hybrid.weights.monitors import Alarm, Monitor, StagedMonitor, marks, replay, taken_back_from, unshared_reward

GROUPS, COMPLETIONS = 8, 64
WINDOW = 3


def watch(history, groups=GROUPS, **changes):
    config = MonitorsConfig(window=WINDOW, **changes)
    return replay(config, groups, groups * 8, [{"step": float(i), **line} for i, line in enumerate(history, 1)])


def steps(before, after, first=WINDOW, then=2 * WINDOW):
    """`first` steps with the figures `before`, then `then` steps with `after`."""
    return [before] * first + [after] * then


def formats(code, text, code_right, text_right, **more):
    shares = {"format/code": code, "format/text": text}
    return {**shares, "format_passed/code": code * code_right, "format_passed/text": text * text_right, **more}


CASES = {
    "entropy_floor": (steps({"entropy": 2.0}, {"entropy": 0.59}), steps({"entropy": 2.0}, {"entropy": 0.61})),
    # At the start code is right as often as text: their merited shares are a half each.
    "format_share": (
        steps(formats(0.5, 0.5, 0.4, 0.4), formats(0.97, 0.03, 0.5, 0.5)),
        steps(formats(0.5, 0.5, 0.4, 0.4), formats(0.93, 0.07, 0.5, 0.5)),
    ),
    "pass_at_k": (steps({"pass_at_k": 0.9}, {"pass_at_k": 0.4}), steps({"pass_at_k": 0.9}, {"pass_at_k": 0.7})),
    "clipped": (
        steps({"clipped_ratio": 0.2}, {"clipped_ratio": 0.65}),
        steps({"clipped_ratio": 0.2}, {"clipped_ratio": 0.55}),
    ),
    "kl": (steps({"kl": 0.0}, {"kl": 0.2}), steps({"kl": 0.0}, {"kl": 0.19})),
    "length_growth": (
        steps({"mean_length": 10.0, "reward": 0.1}, {"mean_length": 30.0, "reward": 0.5}),
        steps({"mean_length": 10.0, "reward": 0.5}, {"mean_length": 30.0, "reward": 0.5}),
    ),
    "unspecific": (steps({"unspecific": 0.0}, {"unspecific": 0.4}), steps({"unspecific": 0.5}, {"unspecific": 0.7})),
}


@pytest.mark.parametrize("name", CASES)
def test_each_monitor_fires_for_its_own_harm_and_not_for_a_little_less(name):
    harm, less = CASES[name]
    (alarm,) = watch(harm, kl=0.2)
    # The window is three steps, all of them after the change only at step 6.
    assert (alarm.monitor, alarm.step, alarm.onset, alarm.action) == (name, 6, 4, "warn")
    assert alarm.message.startswith("steps 4 to 6: ")
    assert math.isfinite(alarm.value) and math.isfinite(alarm.limit)
    assert watch(less, kl=0.2) == ()


@pytest.mark.parametrize("name", CASES)
def test_a_monitor_that_is_left_out_is_silent(name):
    assert watch(CASES[name][0], **{name: None}) == ()


@pytest.mark.parametrize("action", ["warn", "stop", "rollback"])
def test_what_an_alarm_does_is_configured_for_each_monitor(action):
    found = watch(CASES["entropy_floor"][0], on_alarm=AlarmActions(entropy_floor=action))
    assert [a.action for a in found] == [action]
    assert found[0].ends_training == (action != "warn")
    assert taken_back_from(found) == (4 if action == "rollback" else None)


def test_what_the_base_already_does_is_no_alarm():
    """Constants would cry at step one: a base that never ends, has one format, and answers alike whatever is asked."""
    worst = {"clipped_ratio": 1.0, "entropy": 0.001, "unspecific": 1.0, "mean_length": 500.0, "reward": 0.9}
    assert watch([formats(1.0, 0.0, 0.1, 0.0, **worst, pass_at_k=0.05)] * 12) == ()


def test_a_collapse_that_accuracy_explains_is_no_alarm():
    """Text was never right, so the optimum is code alone; the same shares with equal accuracies are excess."""
    merited = steps(formats(0.6, 0.4, 0.5, 0.0), formats(0.97, 0.03, 0.6, 0.0))
    assert watch(merited) == ()
    assert [a.monitor for a in watch(steps(formats(0.6, 0.4, 0.5, 0.5), formats(0.97, 0.03, 0.6, 0.5)))] == [
        "format_share"
    ]


@pytest.mark.parametrize("share", [0.96, 1.0])
def test_on_the_way_to_the_only_right_format_or_there_is_no_alarm_though_pass_at_k_wobbles(share):
    """With many rows the optimum is 0.999 square, from which 0.96 is as many nats away as a collapse would be."""

    def three(square, pass_at_k):
        shares = {"square": square, "angle": (1 - square) / 2, "bare": (1 - square) / 2}
        passed = {f"format_passed/{name}": 0.9 * square * (name == "square") for name in shares}
        return {f"format/{name}": value for name, value in shares.items()} | passed | {"pass_at_k": pass_at_k}

    found = watch(steps(three(1 / 3, 0.9), three(share, 0.6)), groups=80, pass_at_k=None)
    assert found == ()


def test_formats_halved_while_pass_at_k_falls_is_collapse_at_any_share():
    def mix(share, pass_at_k):
        rest = (1 - share) / 3
        names = dict(zip("abcd", (share, rest, rest, rest), strict=True))
        found = {f"format/{k}": v for k, v in names.items()} | {f"format_passed/{k}": v / 2 for k, v in names.items()}
        return {**found, "pass_at_k": pass_at_k}

    falls = watch(steps(mix(0.25, 0.9), mix(0.875, 0.6)))
    assert [a.monitor for a in falls] == ["format_share"]
    assert "effective number of formats fell from 4.00 to 1.67 while pass@k fell" in falls[0].message
    assert watch(steps(mix(0.25, 0.9), mix(0.875, 0.85))) == ()


def test_noise_over_a_few_groups_is_no_alarm():
    """One prompt a step: a pass@k of 1 that becomes 2 of 3, and one more completion cut off, say nothing."""
    pass_at_k = [{"pass_at_k": v} for v in (1.0, 1.0, 1.0, 1.0, 0.0, 1.0)]
    assert watch(pass_at_k, groups=1) == ()
    assert watch(steps({"clipped_ratio": 0.99}, {"clipped_ratio": 1.0}), groups=1) == ()


def test_length_that_grows_with_a_reward_that_only_wobbles_is_no_alarm():
    rewards = [0.1, 0.5, 0.3, 0.4, 0.2, 0.4]
    lengths = [10.0] * 3 + [40.0] * 3
    assert watch([{"reward": r, "mean_length": n} for r, n in zip(rewards, lengths, strict=True)]) == ()


def test_a_figure_that_a_step_lacks_is_not_zero():
    """An entropy that was not finite is left out of the log."""
    assert watch([{"entropy": 2.0}] * 3 + [{}, {"entropy": 2.0}, {}] * 2) == ()
    assert watch([{}] * 12) == ()


def test_no_alarm_before_twice_the_window():
    history = [{"entropy": 2.0}] * 2 + [{"entropy": 0.0}] * 3
    assert watch(history) == ()


line = st.fixed_dictionaries(
    {},
    optional={
        key: st.floats(0, 1)
        for key in ("entropy", "clipped_ratio", "pass_at_k", "unspecific", "kl", "reward", "format/code", "format/text")
    }
    | {"mean_length": st.floats(0, 100)},
)


@settings(max_examples=150, deadline=None)
@given(st.lists(line, max_size=16), st.data())
def test_alarms_are_a_function_of_the_log_alone(history, data):
    """Cut anywhere, written down as JSON and read back, a training gives the alarms of an uninterrupted one."""
    cut = data.draw(st.integers(0, len(history)))
    numbered = [{"step": float(i), **entry} for i, entry in enumerate(history, 1)]
    config = MonitorsConfig(window=2, kl=0.5)
    whole = replay(config, 4, 32, numbered)
    before, resumed = Monitor(config, 4, 32), Monitor(config, 4, 32)
    first = [alarm for entry in numbered[:cut] for alarm in before.feed(entry)]
    stored = json.loads(json.dumps(numbered[:cut]))
    assert [alarm for entry in stored for alarm in resumed.feed(entry)] == first
    assert (*first, *(alarm for entry in numbered[cut:] for alarm in resumed.feed(entry))) == whole
    assert len({alarm.monitor for alarm in whole}) == len(whole), "each monitor fires once"
    assert [Alarm(**json.loads(json.dumps(alarm.as_json()))) for alarm in whole] == list(whole)


@settings(max_examples=100, deadline=None)
@given(line, st.integers(1, 8))
def test_a_training_that_does_not_change_sets_off_nothing(entry, groups):
    assert watch([entry] * 9, groups=groups) == ()


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 100), st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_scale_of_an_entropy_does_not_matter(scale, before, after):
    plain = watch(steps({"entropy": before}, {"entropy": after}))
    scaled = watch(steps({"entropy": before * 2.0 ** round(scale)}, {"entropy": after * 2.0 ** round(scale)}))
    assert [a.monitor for a in plain] == [a.monitor for a in scaled]


def test_marks_stand_at_the_step_of_the_alarm():
    found = watch(CASES["entropy_floor"][0])
    assert marks(found, 6.0) == {"alarm/entropy_floor": 1.0}
    assert marks(found, 5.0) == {}


def test_the_earliest_rollback_decides():
    actions = AlarmActions(entropy_floor="rollback", kl="rollback", clipped="stop")
    history = [{"entropy": 2.0, "kl": 0.0}] * 3 + [{"entropy": 2.0, "kl": 9.0}] * 3 + [{"entropy": 0.1, "kl": 9.0}] * 3
    found = watch(history, kl=1.0, on_alarm=actions)
    assert [(a.monitor, a.onset) for a in found] == [("kl", 4), ("entropy_floor", 7)]
    assert taken_back_from(found) == 4


RISING = [{"step": float(s), "reward": 0.1 if s <= 3 else 0.6} for s in range(1, 13)]


def test_a_reward_that_search_does_not_share_is_an_alarm_at_the_first_such_checkpoint():
    config = MonitorsConfig(window=3)
    alarm = unshared_reward(config, RISING, [(4, 0.2), (8, 0.3), (12, 0.25)], start=0.3)
    assert alarm is not None
    assert (alarm.monitor, alarm.step, alarm.onset) == ("reward_without_search", 8, 8)
    assert "rose from 0.1 to 0.6, but on search 0.3 became 0.3" in alarm.message


@pytest.mark.parametrize(
    ("history", "scores", "changes"),
    [
        (RISING, [(8, 0.31), (12, 0.4)], {}),  # search rises as well
        ([{**entry, "reward": 0.1} for entry in RISING], [(8, 0.2), (12, 0.2)], {}),  # nothing was promised
        (RISING, [(4, 0.2)], {}),  # too early to say
        (RISING, [(8, 0.2)], {"reward_without_search": False}),
        (RISING, [], {}),
    ],
)
def test_no_alarm_where_search_shares_the_gain_or_there_is_none(history, scores, changes):
    assert unshared_reward(MonitorsConfig(window=3, **changes), history, scores, start=0.3) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"formats": ({"name": "code", "pattern": "("},)}, "not a regular expression"),
        ({"formats": ({"name": "other", "pattern": "x"},)}, "is what no pattern matches"),
        ({"formats": ({"name": "a", "pattern": "x"}, {"name": "a", "pattern": "y"})}, "used twice"),
        ({"formats": ({"name": "a", "pattern": "x"},), "classifier": "m:f"}, "leave one of them out"),
        ({"swap_references": True, "unspecific": None}, "nothing would read it"),
        ({"on_alarm": {"reward_without_search": "stop"}}, "'warn' or 'rollback'"),
        ({"on_alarm": {"entropy": "stop"}}, "Extra inputs"),
        ({"entropy": 0.3}, "Extra inputs"),
        ({"window": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        MonitorsConfig(**changes)


def test_every_action_belongs_to_a_threshold():
    """An action that no monitor reads would be a knob without a wire."""
    assert set(AlarmActions.model_fields) <= set(MonitorsConfig.model_fields)
    assert MonitorsConfig(formats=(FormatPattern(name="code", pattern="def "),)).classifies
    assert not MonitorsConfig().classifies


def test_a_stage_is_compared_with_its_own_first_steps():
    """The second task is less open from its start: between stages that is no collapse, within one it is."""
    settings = MonitorsConfig(window=2)
    lines = [{"step": float(k), "entropy": e} for k, e in enumerate([2.0] * 6 + [0.2] * 6, 1)]
    whole, staged = Monitor(settings, 4, 16), StagedMonitor(settings, 4, 16, (6, 6))
    assert [a.monitor for line in lines for a in whole.feed(line)] == ["entropy_floor"]
    assert [a for line in lines for a in staged.feed(line)] == []
    falling = [{"step": 7.0 + k, "entropy": e} for k, e in enumerate([2.0, 2.0, 0.2, 0.2])]
    fresh = StagedMonitor(settings, 4, 16, (6, 6))
    assert [(a.monitor, a.step) for line in falling for a in fresh.feed(line)] == [("entropy_floor", 10)]


def test_who_has_learned_the_task_may_be_sure_of_it() -> None:
    """From 12 % right to 96 %: a twentieth of the failures is left, and with it as much of the floor."""
    honest = steps({"entropy": 0.5, "pass_at_1": 0.12}, {"entropy": 0.02, "pass_at_1": 0.96})
    assert "entropy_floor" not in [a.monitor for a in watch(honest)]
    stalled = steps({"entropy": 0.5, "pass_at_1": 0.4}, {"entropy": 0.1, "pass_at_1": 0.42})
    alarm = next(a for a in watch(stalled) if a.monitor == "entropy_floor")
    assert alarm.limit == pytest.approx(0.3 * 0.5 * 0.58 / 0.6)
    assert "0.97 of the failures are left" in alarm.message
    worse = steps({"entropy": 0.5, "pass_at_1": 0.4}, {"entropy": 0.14, "pass_at_1": 0.1})
    alarm = next(a for a in watch(worse) if a.monitor == "entropy_floor")
    assert alarm.limit == pytest.approx(0.15) and "no fewer answers fail" in alarm.message
