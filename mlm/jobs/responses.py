"""Responses of policies: sampled, or read from files, for jobs that compare.

A file of responses has a JSON line a prompt: {"id", "language", "prompt",
"responses": [{"text", "ended"}], "sampling"}; sampling says how they were made
and may be missing.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mlm.alignment import generation
from mlm.data import prompts
from mlm.decoding import rollouts
from mlm.evaluation import judge as judge_lib
from mlm.instructions import records as records_lib
from mlm.jobs import models
from mlm.tokenizers import load, special
from mlm.training import step


def read_prompts(
  path: str, *, tasks: Sequence[str] | None, cluster_field: str, limit: int
) -> list[Mapping]:
  """Prompt records, spread over their languages.

  Args:
    path: JSON-lines file with id, language, prompt and the cluster field.
    tasks: tasks whose records are used; None for all.
    cluster_field: field that names the source prompt, the same in all
      languages.
    limit: most records.

  Raises:
    ValueError: if no record is left, one lacks a field, or ids repeat.
  """
  rows = [
    r
    for r in records_lib.read_records(path)
    if tasks is None or r.get("task") in tasks
  ]
  if not rows:
    raise ValueError(
      f"{path} has no prompts"
      + (f" of the tasks {', '.join(tasks)}" if tasks else "")
      + "; correct the path or TASKS"
    )
  needed = ("id", "language", "prompt", cluster_field)
  for row in rows:
    if missing := [name for name in needed if name not in row]:
      raise ValueError(
        f"{path}: the record {row.get('id')!r} has no {', '.join(missing)}; "
        "CLUSTER_FIELD must name the field of the source prompt"
      )
  if len({r["id"] for r in rows}) != len(rows):
    raise ValueError(
      f"{path}: two records have the same id; a prompt's translations need ids "
      "of their own"
    )
  return generation.spread_over_languages(rows, limit)


@functools.lru_cache(maxsize=2)
def _sampler(shape: str, **settings):
  """Policies of one shape share a program, which is compiled once."""
  return rollouts.make_sampler(
    models.of_shape(shape),
    eos_id=special.EOS_ID,
    pad_id=special.PAD_ID,
    **settings,
  )


def sample(
  policy: str,
  rows: Sequence[Mapping],
  *,
  mesh: Mesh,
  tokenizer: str,
  samples_per_prompt: int,
  prompt_length: int,
  response_length: int,
  temperature: float,
  batch_size: int,
  seed: int,
) -> np.ndarray:
  """Sampled responses, int32 [len(rows), samples_per_prompt, R].

  Args:
    policy: output directory of finetune or of an alignment.
    rows: records with id and prompt.
    mesh: of `mlm.sharding.mesh.make_mesh`.
    tokenizer: tokenizer directory of the policy.
    samples_per_prompt: responses to a prompt.
    prompt_length: tokens of a prompt.
    response_length: R.
    temperature: of sampling; 0 is greedy.
    batch_size: prompts at a time.
    seed: of sampling.
  """
  config, _, params = models.open_policy(
    policy,
    mesh=mesh,
    tokenizer_sha256=load.read_card(tokenizer)["model_sha256"],
  )
  return generation.sample_responses(
    rows,
    params=params,
    sample=_sampler(
      models.shape_of(config),
      response_length=response_length,
      samples_per_prompt=samples_per_prompt,
      temperature=temperature,
    ),
    place=step.make_place(mesh),
    processor=load.load(tokenizer),
    prompt_length=prompt_length,
    batch_size=batch_size,
    seed=seed,
  )


def prompt(record: Mapping) -> str | tuple[str, ...]:
  """The prompt of a record as comparisons have it."""
  found = record["prompt"]
  return found if isinstance(found, str) else tuple(found)


def answer(processor: Any, ids: np.ndarray) -> judge_lib.Answer:
  """The text of a sampled response, int32 [R], and whether it ended."""
  text, _, ended = prompts.decode_response(processor, ids)
  return judge_lib.Answer(text, ended)


def write(
  path: str,
  rows: Sequence[Mapping],
  answers: Sequence[Sequence[judge_lib.Answer]],
  sampling: Mapping[str, Any],
) -> None:
  """Writes a file of responses."""
  records_lib.write_records(
    path,
    (
      {
        "id": row["id"],
        "language": row["language"],
        "prompt": row["prompt"],
        "responses": [a._asdict() for a in of_row],
        "sampling": dict(sampling),
      }
      for row, of_row in zip(rows, answers, strict=True)
    ),
  )


def read(
  path: str,
  rows: Sequence[Mapping],
  *,
  samples_per_prompt: int,
  sampling: Mapping[str, Any] | None,
) -> list[list[judge_lib.Answer]]:
  """The responses in a file to the prompts of records.

  Args:
    path: file of responses.
    rows: records with id and prompt.
    samples_per_prompt: responses to take of each prompt, the first ones.
    sampling: how they must have been made; None if any way will do.

  Raises:
    ValueError: if a prompt has too few responses, is another under the same id,
      or was answered in another way.
  """
  found = {record["id"]: record for record in records_lib.read_records(path)}
  answers = []
  for row in rows:
    record = found.get(row["id"])
    if record is None or record["prompt"] != row["prompt"]:
      raise ValueError(
        f"{path} has {'no' if record is None else 'another'} prompt under the "
        f"id {row['id']!r}; both sides must answer the same prompts"
      )
    if sampling is not None and record.get("sampling") != dict(sampling):
      raise ValueError(
        f"{path} was sampled with {record.get('sampling')}, now needed is "
        f"{dict(sampling)}; delete the file, or give another OUTPUT"
      )
    responses = record["responses"]
    if len(responses) < samples_per_prompt:
      raise ValueError(
        f"{path}: {len(responses)} responses to {row['id']!r}, needed are "
        f"{samples_per_prompt}; lower SAMPLES_PER_PROMPT"
      )
    answers.append(
      [
        judge_lib.Answer(r["text"], r["ended"])
        for r in responses[:samples_per_prompt]
      ]
    )
  return answers


def of_side(
  side: str, path: str, rows: Sequence[Mapping], *, settings: Mapping[str, Any]
) -> list[list[judge_lib.Answer]]:
  """Responses of a policy, sampled once, or of a file.

  Args:
    side: output directory of a policy, or a .jsonl file of responses.
    path: where sampled responses are kept.
    rows: records with id and prompt.
    settings: the other arguments of `sample`.
  """
  samples_per_prompt = settings["samples_per_prompt"]
  if side.endswith(".jsonl"):
    return read(
      side, rows, samples_per_prompt=samples_per_prompt, sampling=None
    )
  of_sampling = ("temperature", "prompt_length", "response_length", "seed")
  sampling = {"policy": side, **{name: settings[name] for name in of_sampling}}
  if not os.path.exists(path):
    drawn = sample(side, rows, **settings)
    processor = load.load(settings["tokenizer"])
    write(
      path,
      rows,
      [[answer(processor, ids) for ids in of_row] for of_row in drawn],
      sampling,
    )
  return read(
    path, rows, samples_per_prompt=samples_per_prompt, sampling=sampling
  )
