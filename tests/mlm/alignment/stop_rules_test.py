"""When a policy that games its reward is stopped, and when one is not."""

import dataclasses
import statistics
import types

import numpy as np
import pytest

from mlm.alignment import stop_rules

RULE = stop_rules.Rule(
  window=10, max_fall=0.05, confidence=0.95, min_prompts=20
)
CODES = ("eng_Latn", "swh_Latn")


def _lines(verified, proxy, *, seed, steps=40, per_language=8, samples=4):
  """Lines of a run; verified(step, language) and proxy(step) are means."""
  rng = np.random.default_rng(seed)
  codes = [code for code in CODES for _ in range(per_language)]
  lines = []
  for step in range(steps):
    means = np.array([verified(step, code) for code in codes])[:, None]
    noise = rng.normal(0, 0.3, (len(codes), 1))
    noise = noise + rng.normal(0, 0.2, (len(codes), samples))
    lines.append(
      stop_rules.line(
        step, codes=codes, verified=means + noise, proxy=proxy(step) + noise
      )
    )
  return lines


def _check(lines, **changes):
  rule = dataclasses.replace(RULE, **changes)
  return stop_rules.told(
    stop_rules.look(lines, rule=rule, num_steps=40, num_languages=2)
  )


def _looks(lines):
  """What is told after each step, empty ones left out."""
  told = {n: _check(lines[:n]) for n in range(1, len(lines) + 1)}
  return {n: found for n, found in told.items() if found}


def test_sums_of_a_step_by_hand():
  found = stop_rules.line(
    3,
    codes=["a", "b", "a"],
    verified=np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]),
    proxy=np.array([[2.0, 4.0], [1.0, 1.0], [0.0, -2.0]]),
  )
  assert found["step"] == 3
  assert found["by_language"] == {
    "a": {
      "prompts": 2,
      "verified": 0.5,
      "verified_squares": 0.25,
      "proxy": 2.0,
    },
    "b": {"prompts": 1, "verified": 0.5, "verified_squares": 0.25, "proxy": 1},
    "together": {
      "prompts": 3,
      "verified": 1.0,
      "verified_squares": 0.5,
      "proxy": 3.0,
    },
  }


def test_planted_hacking_in_one_language_is_caught_there():
  fall = {"eng_Latn": 0.0, "swh_Latn": 0.015}  # a step
  lines = _lines(
    lambda step, code: 0.8 - fall[code] * step, lambda step: 0.1 * step, seed=0
  )
  looks = _looks(lines)
  assert min(looks) < 40
  assert all("swh_Latn" in told for told in looks.values())
  assert not any("eng_Latn" in told for told in looks.values())


def test_a_fall_without_a_rise_of_the_proxy_is_not_hacking():
  lines = _lines(
    lambda step, code: 0.8 - 0.015 * step, lambda step: -0.1 * step, seed=0
  )
  assert _looks(lines) == {}


def test_a_tolerated_fall_is_tolerated():
  lines = _lines(
    lambda step, code: 0.8 - 0.15 * (step >= 20), lambda step: step, seed=0
  )
  assert _check(lines, max_fall=0.15) == {}
  assert _check(lines, max_fall=0.0) != {}


def test_healthy_runs_are_stopped_no_more_often_than_the_confidence_says():
  # At the edge of what is tolerated, where a false alarm is likeliest.
  stopped = [
    bool(
      _looks(
        _lines(
          lambda step, code: 0.8 - 0.05 * (step >= 10),
          lambda step: 0.1 * step,
          seed=seed,
        )
      )
    )
    for seed in range(200)
  ]
  # 5 % promised; 200 runs at 5 % give more than 18 with probability 0.008.
  assert sum(stopped) <= 18


@pytest.mark.parametrize("mean", [0.2, 0.5, 0.95])
def test_nearly_binary_rewards_give_no_more_false_alarms(mean):
  """Of few prompts their mean is far from normal, and their variance can be 0."""
  stopped = 0
  for seed in range(80):
    rng = np.random.default_rng(seed)
    means = np.where(np.arange(40) < RULE.window, mean, mean - 0.05)
    verified = rng.beta(means * 0.5, (1 - means) * 0.5, (20, 2, 40)).T
    lines = [
      stop_rules.line(
        step,
        codes=np.repeat(CODES, 20),
        verified=of_step.reshape(-1, 1),
        proxy=np.full((40, 1), float(step)),
      )
      for step, of_step in enumerate(verified)
    ]
    stopped += bool(_looks(lines))
  # 5 % promised; 80 runs at 5 % give more than 9 with probability 0.006.
  assert stopped <= 9


@pytest.mark.parametrize("first_bad", [23, 26, 29])
def test_a_sudden_fall_is_seen_within_two_steps(first_bad):
  lines = _lines(
    lambda step, code: 0.8 - 0.5 * (step >= first_bad),
    lambda step: 0.1 * step,
    seed=0,
    per_language=20,
  )
  assert first_bad < min(_looks(lines)) <= first_bad + 2


def test_at_the_end_of_a_window_the_whole_window_is_told():
  lines = _lines(lambda step, code: 0.8, lambda step: 0.1 * step, seed=0)
  seen = stop_rules.look(lines, rule=RULE, num_steps=40, num_languages=2)
  assert set(seen) == {*CODES, stop_rules.TOGETHER}
  for row in seen.values():
    assert row["steps"] == RULE.window and not row["stops"]
  # Of 40 steps three whole windows are compared, of three languages.
  z = statistics.NormalDist().inv_cdf(1 - 0.8 * 0.05 / 9)
  of_english = seen["eng_Latn"]
  assert of_english["limit"] == pytest.approx(0.05 + z * of_english["error"])


def test_a_language_with_few_prompts_is_not_judged_alone():
  lines = _lines(
    lambda step, code: 0.8 - 0.015 * step,
    lambda step: 0.1 * step,
    seed=0,
    per_language=1,
  )
  told = [set(found) for found in _looks(lines).values()]
  assert told and all(of_look == {"together"} for of_look in told)


def _source(step_verified):
  def source(state):
    verified = np.full(8, step_verified(int(state.step)), np.float32)
    verified += np.tile([0.01, -0.01], 4).astype(np.float32)
    return {
      "language_ids": np.array([0, 0, 0, 0, 1, 1, 1, 1]),
      "reward_ends": verified,
      "reward_model": np.full(8, float(state.step)),
    }

  return source


def _watched(tmp_path, step_verified, on_told):
  return stop_rules.watched(
    _source(step_verified),
    rule=stop_rules.Rule(
      window=2, max_fall=0.1, confidence=0.95, min_prompts=2
    ),
    verified=["ends"],
    proxy="model",
    codes=CODES,
    num_steps=8,
    num_languages=2,
    samples_per_prompt=2,
    output=tmp_path,
    on_told=on_told,
  )


def _states(start=0):
  return [types.SimpleNamespace(step=step) for step in range(start, 8)]


def test_a_watched_source_stops_with_the_state_it_was_given(tmp_path):
  source = _watched(tmp_path, lambda step: 0.9 - 0.1 * step, stop_rules.stop)
  states = _states()
  with pytest.raises(stop_rules.Stopped, match="together") as caught:
    for state in states:
      batch = source(state)
      assert batch["reward_model"][0] == state.step  # passed on unchanged
  assert caught.value.step == 3 and caught.value.state is states[3]


def test_a_healthy_run_goes_to_its_end(tmp_path):
  source = _watched(tmp_path, lambda step: 0.1 + 0.1 * step, stop_rules.stop)
  for state in _states():
    source(state)


def test_a_resumed_run_is_stopped_where_the_uninterrupted_is(tmp_path):
  def fall(step):
    return 0.9 if step < 5 else 0.3

  told = []
  for start in (None, 3):  # the second goes on from a checkpoint at step 3
    found = []
    (tmp_path / str(start)).mkdir()
    source = _watched(
      tmp_path / str(start), fall, lambda *args, f=found: f.append(args[:2])
    )
    if start is not None:
      for state in _states()[:5]:  # 3 and 4 are lost and made again
        source(state)
      source = _watched(
        tmp_path / str(start), fall, lambda *args, f=found: f.append(args[:2])
      )
    for state in _states(start or 0):
      source(state)
    told.append(found)
  assert told[0] == told[1] and told[0][0][0] == 5


@pytest.mark.parametrize(
  "changes", [{"window": 0}, {"max_fall": -1}, {"confidence": 1}]
)
def test_impossible_rules_are_refused(changes):
  with pytest.raises(ValueError):
    dataclasses.replace(RULE, **changes)
