"""Job: preference pairs, human text over samples of the fine-tuned model."""

import collections
import os

from mlm.alignment import generation, preferences
from mlm.data import prompts
from mlm.decoding import rollouts
from mlm.instructions import records as records_lib
from mlm.jobs import models
from mlm.sharding import mesh as mesh_lib
from mlm.tokenizers import load, special
from mlm.training import step


def make_preferences(
  *,
  tokenizer: str,
  policy: str,
  records: str,
  output: str,
  tasks: list,
  mesh_shape: dict,
  max_records: int,
  batch_size: int,
  prompt_length: int,
  response_length: int,
  temperature: float,
  seed: int,
) -> None:
  """Samples a response a record; the record's own is chosen, the sample rejected.

  Args:
    tokenizer: tokenizer directory of the policy.
    policy: output directory of finetune.
    records: output directory of make_instructions.
    output: directory for train.jsonl and validation.jsonl.
    tasks: tasks whose records are used.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    max_records: most records a split, spread over its languages.
    batch_size: prompts sampled at a time.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response.
    temperature: of sampling.
    seed: of sampling.
  """
  files = [os.path.join(output, f"{s}.jsonl") for s in ("train", "validation")]
  if all(map(os.path.exists, files)):
    print(f"The preferences in {output} are there; nothing to do.")
    return
  mesh = mesh_lib.make_mesh(mesh_shape)
  processor = load.load(tokenizer)
  _, model, params = models.open_policy(
    policy,
    mesh=mesh,
    tokenizer_sha256=load.read_card(tokenizer)["model_sha256"],
  )
  sample = rollouts.make_sampler(
    model,
    response_length=response_length,
    samples_per_prompt=1,
    temperature=temperature,
    eos_id=special.EOS_ID,
    pad_id=special.PAD_ID,
  )
  for path in files:
    name = os.path.basename(path)
    rows = [
      r
      for r in records_lib.read_records(os.path.join(records, name))
      if r["task"] in tasks
    ]
    rows = generation.spread_over_languages(rows, max_records)
    responses = generation.sample_responses(
      rows,
      params=params,
      sample=sample,
      place=step.make_place(mesh),
      processor=processor,
      prompt_length=prompt_length,
      batch_size=batch_size,
      seed=seed,
    )
    texts = [prompts.decode_response(processor, r[0])[0] for r in responses]
    pairs = list(preferences.on_policy_pairs(rows, texts, source=policy))
    records_lib.write_records(path, pairs)
    by_language = collections.Counter(p["language"] for p in pairs)
    told = ", ".join(f"{c} {n}" for c, n in sorted(by_language.items()))
    print(f"{name}: {len(pairs)} pairs of {len(rows)} prompts: {told}")
  print(f"Preferences: {output}")
