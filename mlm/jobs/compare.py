"""Job: one policy against another on the same prompts, by any judge."""

import json
import os
from collections.abc import Mapping, Sequence

from mlm.evaluation import (
  comparison,
  comparison_figures,
  comparison_report,
  people,
)
from mlm.evaluation import judge as judge_lib
from mlm.instructions import records as records_lib
from mlm.jobs import judges, responses
from mlm.sharding import mesh as mesh_lib

RESULTS_FILE = "results.json"
VERDICTS_FILE = "verdicts.jsonl"


def compare(
  *,
  tokenizer: str,
  a: str,
  b: str,
  prompts: str,
  output: str,
  tasks: list | None,
  cluster_field: str,
  judge: judges.OpenJudge,
  seen_languages: list | None,
  mesh_shape: dict,
  batch_size: int,
  max_prompts: int,
  samples_per_prompt: int,
  prompt_length: int,
  response_length: int,
  temperature: float,
  seed: int,
  num_resamples: int,
  confidence: float,
) -> None:
  """Win, loss and tie rates of A over B by language, also at equal length.

  Sampled responses are kept, by the policy's path, so a job that was killed
  samples nothing twice; what judges keep is theirs.

  Args:
    tokenizer: tokenizer directory of the policies; not read if both sides are
      files.
    a: output directory of finetune or of an alignment, or a .jsonl file of
      responses (see `mlm.jobs.responses`).
    b: the opponent, likewise.
    prompts: JSON-lines file of prompt records.
    output: directory for responses, verdicts, results.json, comparison.html.
    tasks: tasks whose prompts are used; None for all.
    cluster_field: field that names the source prompt of a record.
    judge: of `mlm.jobs.judges`.
    seen_languages: languages of A's preferences; None if that is not asked.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    batch_size: prompts sampled at a time.
    max_prompts: most prompts in all, spread over the languages.
    samples_per_prompt: responses of each policy; the i-th are compared.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response.
    temperature: of sampling both; 0 is greedy.
    seed: of samples and bootstrap.
    num_resamples: of the bootstrap.
    confidence: of the intervals, such as 0.95.
  """
  path = os.path.join(output, RESULTS_FILE)
  if os.path.exists(path):
    print(f"{path} is there; nothing to do.")
    return
  mesh = mesh_lib.make_mesh(mesh_shape)
  rows = responses.read_prompts(
    prompts, tasks=tasks, cluster_field=cluster_field, limit=max_prompts
  )
  languages = sorted({r["language"] for r in rows})
  opened = judge.open(
    judges.Setting(
      languages=languages,
      policies=[side for side in (a, b) if not side.endswith(".jsonl")],
      rewards=[],
      output=output,
      mesh=mesh,
    )
  )
  # Samples of two policies must not share their noise: of equal policies all
  # would be equal, and the width of intervals would be that of nothing.
  sides = [
    responses.of_side(
      side,
      os.path.join(output, f"responses_{name}.jsonl"),
      rows,
      settings={
        "mesh": mesh,
        "tokenizer": tokenizer,
        "samples_per_prompt": samples_per_prompt,
        "prompt_length": prompt_length,
        "response_length": response_length,
        "temperature": temperature,
        "batch_size": batch_size,
        "seed": seed + number,
      },
    )
    for number, (name, side) in enumerate((("a", a), ("b", b)))
  ]
  comparisons, of_prompt, clusters = [], [], []
  for row, *of_row in zip(rows, *sides):
    for i, answers in enumerate(zip(*of_row)):
      comparisons.append(
        judge_lib.Comparison(
          f"{row['id']}/{i}", row["language"], responses.prompt(row), *answers
        )
      )
      of_prompt.append(row["id"])
      clusters.append(row[cluster_field])
  try:
    verdicts = judge_lib.in_both_orders(opened, comparisons)
  except people.VerdictsMissing as missing:
    print(missing)
    return
  results = comparison.summarize(
    comparisons,
    verdicts,
    prompts=of_prompt,
    clusters=clusters,
    seen=seen_languages,
    seed=seed,
    num_resamples=num_resamples,
    confidence=confidence,
  )
  write_verdicts(output, comparisons, verdicts, of_prompt, clusters)
  comparison_report.write_report(
    os.path.join(output, "comparison.html"),
    results,
    a=a,
    b=b,
    judge=judge.name,
    seen=seen_languages,
  )
  write_results(path, {"a": a, "b": b, "judge": judge.name, **results})
  print(_table(results))
  print(f"Results: {path}, {os.path.join(output, 'comparison.html')}")


def write_verdicts(
  output: str,
  comparisons: Sequence[judge_lib.Comparison],
  verdicts: Sequence[tuple[str, str]],
  prompts: Sequence[str],
  clusters: Sequence[str],
) -> None:
  """A line a comparison: what was said of it in both orders."""
  records_lib.write_records(
    os.path.join(output, VERDICTS_FILE),
    (
      {
        "id": c.id,
        "language": c.language,
        "prompt": prompt,
        "cluster": cluster,
        "forward": forward,
        "swapped": swapped,
      }
      for c, (forward, swapped), prompt, cluster in zip(
        comparisons, verdicts, prompts, clusters, strict=True
      )
    ),
  )


def write_results(path: str, results: Mapping) -> None:
  """Writes results as JSON, whole or not at all."""
  partial = f"{path}.partial"
  with open(partial, "w", encoding="utf-8") as f:
    json.dump(results, f, ensure_ascii=False, indent=1)
  os.replace(partial, path)


def _table(results: Mapping) -> str:
  """The results as text: averages, then a row a language."""
  win_rate, controlled = results["win_rate"], results["length_controlled"]
  told = comparison_figures.told_interval
  lines = [
    f"{'':<22}{'win':>7}{'loss':>7}{'tie':>7}{'delta':>8}{'interval':>22}"
    f"{'at equal length':>18}{'no verdict':>12}"
  ]
  keys = [("average", None), *((n, "groups") for n in win_rate["groups"])]
  keys += [(code, "by_language") for code in win_rate["by_language"]]
  for name, part in keys:
    row, of = (
      results[part][name] if part else results["overall"]
      for results in (win_rate, controlled)
    )
    missing = ""
    if part == "by_language":
      missing = results["judging"][name]["no_verdict"]
    lines.append(
      f"{name:<22}{row['win']:>7.1f}{row['loss']:>7.1f}{row['tie']:>7.1f}"
      f"{row['delta']:>8.1f}{told(row):>22}{of['delta']:>18.1f}{missing:>12}"
    )
  if results["unjudged_languages"]:
    lines.append(
      f"no verdict at all: {', '.join(results['unjudged_languages'])}"
    )
  return "\n".join(lines)
