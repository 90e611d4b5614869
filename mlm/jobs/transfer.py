"""Job: rewards of some languages for policies of others, a matrix of cells."""

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from mlm.alignment import generation
from mlm.evaluation import judge as judge_lib
from mlm.evaluation import people, transfer_report
from mlm.evaluation import transfer as transfer_lib
from mlm.instructions import records as records_lib
from mlm.jobs import compare, judges, responses, reward_sources
from mlm.languages import registry
from mlm.sharding import mesh as mesh_lib
from mlm.sharding import rules
from mlm.tokenizers import load

RESULTS_FILE = "results.json"
_CONTROL = "no reward"


def transfer(
  *,
  tokenizer: str,
  policies: dict,
  prompts: str,
  grids: dict,
  dpo_reference: str,
  runs: dict,
  judge: judges.OpenJudge,
  output: str,
  tasks: list | None,
  cluster_field: str,
  mesh_shape: dict,
  num_samples: int,
  batch_size: int,
  max_prompts: int,
  prompt_length: int,
  response_length: int,
  temperature: float,
  seed: int,
  num_resamples: int,
  confidence: float,
) -> None:
  """Best-of-n by rewards of each source for the policy of each target.

  The n samples of a target's policy and one more, the opponent, are drawn once
  and kept; every reward chooses among the same n. Scores are kept too, by the
  reward's path: a reward that was trained again needs another OUTPUT.

  Args:
    tokenizer: tokenizer directory of all models.
    policies: {target: output directory of finetune}.
    prompts: JSON-lines file of prompt records in the targets.
    grids: {grid: {source: reward or {target: reward}}}; a source is a language
      or several joined by "+", a reward an output directory of
      train_reward_model or of align_dpo, whose implicit reward it then is.
    dpo_reference: model that the align_dpo runs began with; "" without any.
    runs: {grid: {source: {target: output directory of compare}}}: policies
      that were trained by a reward, against the same fine-tuned models; {} for
      none.
    judge: of `mlm.jobs.judges`.
    output: directory for samples, scores, results.json and transfer.html.
    tasks: tasks whose prompts are used; None for all.
    cluster_field: field that names the source prompt of a record.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    num_samples: n of best-of-n.
    batch_size: prompts sampled at a time, and responses scored at a time.
    max_prompts: most prompts of a target.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response.
    temperature: of sampling, above 0.
    seed: of samples and bootstrap.
    num_resamples: of the bootstrap.
    confidence: of the intervals, such as 0.95.
  """
  path = os.path.join(output, RESULTS_FILE)
  if os.path.exists(path):
    print(f"{path} is there; nothing to do.")
    return
  if not temperature > 0 or num_samples < 1:
    raise ValueError(
      f"temperature {temperature} and num_samples {num_samples}: best-of-n "
      "needs samples that differ, so a temperature above 0, and n of 1 or more"
    )
  rewards = _rewards_by_directory(grids, policies)
  of_runs = list(_outcomes_of_runs(runs, judge.name))
  mesh = mesh_lib.make_mesh(mesh_shape)
  rules.check_batch(batch_size, mesh)
  processor = load.load(tokenizer)
  opened = judge.open(
    judges.Setting(
      languages=sorted(policies),
      policies=list(policies.values()),
      rewards=list(rewards),
      output=output,
      mesh=mesh,
    )
  )
  every = responses.read_prompts(
    prompts, tasks=tasks, cluster_field=cluster_field, limit=2**31
  )
  rows = {
    target: [r for r in every if r["language"] == target][:max_prompts]
    for target in policies
  }
  if missing := [target for target in policies if not rows[target]]:
    raise ValueError(
      f"{prompts} has no prompts in {', '.join(missing)}; add them, or leave "
      "these targets out"
    )
  sampling = {
    "samples_per_prompt": num_samples + 1,
    "prompt_length": prompt_length,
    "response_length": response_length,
    "temperature": temperature,
    "seed": seed,
  }
  keys, samples = {}, {}
  for target, policy in policies.items():
    asked = [[r["id"], r["prompt"]] for r in rows[target]]
    keys[target] = {**sampling, "policy": policy, "prompts": asked}
    samples[target] = _kept(
      os.path.join(output, "samples", f"{target}.npz"),
      keys[target],
      functools.partial(
        responses.sample,
        policy,
        rows[target],
        mesh=mesh,
        tokenizer=tokenizer,
        batch_size=batch_size,
        **sampling,
      ),
    )

  def open_raw_score(directory):
    return reward_sources.open_reward(
      directory,
      dpo_reference=dpo_reference,
      mesh=mesh,
      tokenizer=tokenizer,
      response_length=response_length,
    ).raw_score

  def scores(cell, raw_score):
    token_rows = generation.token_rows(
      rows[cell.target],
      samples[cell.target][:, :num_samples],
      processor=processor,
      prompt_length=prompt_length,
    )
    found = generation.in_batches(raw_score(), (token_rows,), batch_size)
    return found.reshape(-1, num_samples)

  chosen = {
    transfer_lib.Cell(_CONTROL, _CONTROL, target): np.zeros(len(of), int)
    for target, of in rows.items()
  }
  for directory, of_reward in rewards.items():
    # Opened once, and not at all where all its scores are kept.
    raw_score = functools.cache(functools.partial(open_raw_score, directory))
    for cell in of_reward:
      found = _kept(
        os.path.join(output, "scores", f"{'.'.join(cell)}.npz"),
        {**keys[cell.target], "reward": directory},
        functools.partial(scores, cell, raw_score),
      )
      chosen[cell] = transfer_lib.best_of_n(found)
  comparisons, cells, clusters = [], [], []
  for cell, places in chosen.items():
    for row, of_prompt, place in zip(
      rows[cell.target], samples[cell.target], places, strict=True
    ):
      comparisons.append(
        judge_lib.Comparison(
          f"{'/'.join(cell)}/{row['id']}",
          cell.target,
          responses.prompt(row),
          responses.answer(processor, of_prompt[place]),
          responses.answer(processor, of_prompt[num_samples]),
        )
      )
      cells.append(cell)
      clusters.append(row[cluster_field])
  try:
    verdicts = judge_lib.in_both_orders(opened, comparisons)
  except people.VerdictsMissing as told:
    print(told)
    return
  compare.write_verdicts(
    output, comparisons, verdicts, [c.id for c in comparisons], clusters
  )
  outcomes = [judge_lib.outcome(*pair) for pair in verdicts]
  for cell, outcome, cluster in of_runs:
    cells.append(cell)
    outcomes.append(outcome)
    clusters.append(cluster)
  settings = {
    "seed": seed,
    "num_resamples": num_resamples,
    "confidence": confidence,
  }
  is_control = [cell.grid == _CONTROL for cell in cells]
  control = transfer_lib.summarize(
    [transfer_lib.Cell(_CONTROL, _CONTROL, "all")] * sum(is_control),
    list(itertools.compress(outcomes, is_control)),
    list(itertools.compress(clusters, is_control)),
    **settings,
  )
  is_reward = [not of for of in is_control]
  results = transfer_lib.summarize(
    list(itertools.compress(cells, is_reward)),
    list(itertools.compress(outcomes, is_reward)),
    list(itertools.compress(clusters, is_reward)),
    **settings,
  )
  results["control"] = control["cells"][0]
  transfer_report.write_report(
    os.path.join(output, "transfer.html"),
    results,
    judge=judge.name,
    num_samples=num_samples,
  )
  compare.write_results(path, {"judge": judge.name, **results})
  for row in results["means"]:
    low, high = row["low"], row["high"]
    told = "" if low is None else f"[{low:.1f}, {high:.1f}]"
    print(f"{row['name']:<48}{row['mean']:>7.1f}  {told}")
  print(f"Results: {path}, {os.path.join(output, 'transfer.html')}")


def _rewards_by_directory(
  grids: Mapping, policies: Mapping
) -> dict[str, list[transfer_lib.Cell]]:
  """Reward -> the cells that it fills.

  Raises:
    ValueError: if there is none.
  """
  found: dict[str, list] = {}
  for grid, of_sources in grids.items():
    for source, reward in of_sources.items():
      _check_codes([*source.split("+"), *policies])
      for target in policies:
        of_target = reward.get(target) if isinstance(reward, dict) else reward
        if of_target is not None:
          cell = transfer_lib.Cell(grid, source, target)
          found.setdefault(of_target, []).append(cell)
  if not found:
    raise ValueError(
      f"grids {grids} name no reward for the targets {', '.join(policies)}; "
      "give {'transfer': {source: reward model}} at least"
    )
  return found


def _check_codes(codes: Iterable[str]) -> None:
  """Raises UnknownLanguageError for what is no canonical code."""
  for code in codes:
    registry.get(code)


def _outcomes_of_runs(
  runs: Mapping, judge: str
) -> Iterator[tuple[transfer_lib.Cell, str, str]]:
  """(cell, outcome, cluster) of each comparison that earlier runs judged.

  Raises:
    ValueError: if a run was judged by another judge, or not in the target.
  """
  for grid, of_sources in runs.items():
    for source, of_targets in of_sources.items():
      _check_codes([*source.split("+"), *of_targets])
      for target, directory in of_targets.items():
        with open(
          os.path.join(directory, compare.RESULTS_FILE), encoding="utf-8"
        ) as f:
          other = json.load(f)["judge"]
        if other != judge:
          raise ValueError(
            f"{directory} was judged by {other}, not by {judge}: a matrix needs "
            "one judge; compare again by this one"
          )
        path = os.path.join(directory, compare.VERDICTS_FILE)
        lines = [
          r for r in records_lib.read_records(path) if r["language"] == target
        ]
        if not lines:
          raise ValueError(
            f"{path} has no comparisons in {target}; correct the target, or "
            "compare on prompts in it"
          )
        for line in lines:
          yield (
            transfer_lib.Cell(grid, source, target),
            judge_lib.outcome(line["forward"], line["swapped"]),
            line["cluster"],
          )


def _kept(
  path: str, key: Mapping[str, Any], make: Callable[[], np.ndarray]
) -> np.ndarray:
  """The array of a file, made and written if it is missing.

  Raises:
    ValueError: if the file was made under another key.
  """
  told = json.dumps(key, sort_keys=True)
  if os.path.exists(path):
    with np.load(path) as stored:
      if str(stored["key"]) != told:
        raise ValueError(
          f"{path} was made with other settings or prompts; delete it, or give "
          "another OUTPUT"
        )
      return stored["values"]
  values = make()
  os.makedirs(os.path.dirname(path), exist_ok=True)
  partial = f"{path}.partial"
  with open(partial, "wb") as f:
    np.savez(f, key=told, values=values)
  os.replace(partial, path)
  return values
