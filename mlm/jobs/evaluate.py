"""Job: evaluation of the three models of a run, language by language."""

import json
import os

import numpy as np

from kernels.linear_cross_entropy import api as linear_cross_entropy
from mlm.alignment import (
  best_of_n,
  generation,
  rewards,
  rollout_batches,
  scoring,
)
from mlm.data import prompts
from mlm.decoding import rollouts
from mlm.evaluation import bits_per_byte, judge, tables, win_rate
from mlm.instructions import records as records_lib
from mlm.jobs import models, reward_sources
from mlm.languages import registry
from mlm.sharding import mesh as mesh_lib
from mlm.text import documents
from mlm.tokenizers import load, special
from mlm.training import losses, step

RESULTS_FILE = "results.json"
_PARTS = (*rewards.PARTS, "reward_model")
_CONFIDENCE = 0.95
_RESAMPLES = 2000


def evaluate(
  *,
  corpus: str,
  tokenizer: str,
  pretrained: str,
  finetuned: str,
  reward_model_dir: str,
  aligned: str,
  records: str,
  output: str,
  tasks: list,
  mesh_shape: dict,
  batch_size: int,
  sequence_length: int,
  max_documents: int,
  max_prompts: int,
  samples_per_prompt: int,
  prompt_length: int,
  response_length: int,
  reward_weights: dict,
  standardize_by_language: bool,
  seed: int,
) -> None:
  """Bits per byte, generations, rewards, KL and win rates on held-out data.

  Args:
    corpus: finished corpus directory; its validation split is scored.
    tokenizer: tokenizer directory.
    pretrained: output directory of pretrain.
    finetuned: output directory of finetune.
    reward_model_dir: output directory of train_reward_model.
    aligned: output directory of align_rloo.
    records: output directory of make_instructions; validation prompts.
    output: directory for results.json.
    tasks: tasks whose prompts are used.
    mesh_shape: of `mlm.sharding.mesh.make_mesh`.
    batch_size: rows scored, or prompts sampled, at a time.
    sequence_length: tokens a row of documents.
    max_documents: most validation documents scored a language.
    max_prompts: most prompts in all, spread over the languages.
    samples_per_prompt: responses of each model to a prompt.
    prompt_length: tokens of a prompt.
    response_length: tokens of a response.
    reward_weights: part -> weight, as in align_rloo.
    standardize_by_language: as in align_rloo.
    seed: of samples and bootstrap.
  """
  path = os.path.join(output, RESULTS_FILE)
  if os.path.exists(path):
    print(f"{path} is there; nothing to do.")
    return
  mesh = mesh_lib.make_mesh(mesh_shape)
  processor = load.load(tokenizer)
  sha256 = load.read_card(tokenizer)["model_sha256"]
  backend = linear_cross_entropy.default_backend()
  place = step.make_place(mesh)

  opened = models.open_model(
    pretrained, mesh=mesh, metadata={"tokenizer_sha256": sha256}
  )
  models.check_decoder(pretrained, opened.config)
  logprobs = mesh_lib.jit(
    lambda params, batch: losses.sequence_logprobs(
      opened.model.apply, params, batch, backend=backend
    )
  )
  results = {
    "bits_per_byte": _bits_per_byte(
      corpus,
      processor,
      lambda batch: logprobs(opened.params, place(batch)),
      vocab_size=opened.config.vocab_size,
      length=sequence_length,
      batch_size=batch_size,
      max_documents=max_documents,
    )
  }
  rows = [
    r
    for r in records_lib.read_records(os.path.join(records, "validation.jsonl"))
    if r["task"] in tasks
  ]
  rows = generation.spread_over_languages(rows, max_prompts)
  policies = {}
  for name, directory in (("sft", finetuned), ("rloo", aligned)):
    config, model, policies[name] = models.open_decoder(
      directory, mesh=mesh, tokenizer_sha256=sha256
    )
  sample = rollouts.make_sampler(
    model,
    response_length=response_length,
    samples_per_prompt=samples_per_prompt,
    temperature=1.0,
    eos_id=special.EOS_ID,
    pad_id=special.PAD_ID,
  )
  score = reward_sources.make_score(
    reward_sources.open_reward(
      reward_model_dir,
      dpo_reference="",
      mesh=mesh,
      tokenizer=tokenizer,
      response_length=response_length,
    ),
    reward_model_dir,
    processor=processor,
    languages=sorted({r["language"] for r in rows}),
    standardize_by_language=standardize_by_language,
  )
  language_ids = np.repeat(
    [registry.index(r["language"]) for r in rows], samples_per_prompt
  )
  identify, known = judge.second_identifier(
    sorted({r["language"] for r in rows})
  )
  parts, verdicts, responses = {}, {}, {}
  for number, (name, policy) in enumerate(policies.items()):
    drawn = generation.sample_responses(
      rows,
      params=policy,
      sample=sample,
      place=place,
      processor=processor,
      prompt_length=prompt_length,
      batch_size=batch_size,
      seed=seed + number,
    )
    responses[name] = drawn.reshape(-1, response_length)
    token_rows = generation.token_rows(
      rows, drawn, processor=processor, prompt_length=prompt_length
    )
    parts[name] = generation.in_batches(
      score,
      (token_rows, responses[name], language_ids),
      batch_size * samples_per_prompt,
    )
    verdicts[name] = scoring.verifiable_scores(
      responses[name], language_ids, processor=processor, identify=identify
    )
  pair = rollout_batches.make_logprob_pair(
    model.apply, model.apply, backend=backend
  )
  kl = _kl(
    token_rows,  # of the last policy, the aligned one
    language_ids,
    lambda batch: pair(policies["rloo"], policies["sft"], place(batch)),
    prompt_length=prompt_length,
    batch_size=batch_size * samples_per_prompt,
  )
  results["generation"] = _generation(
    rows, parts, kl, reward_weights, samples_per_prompt
  )
  results["win_rate"] = _win_rate(
    rows, verdicts, known, samples_per_prompt, seed
  )
  results["best_of_n"] = _best_of_n(
    rows, parts, verdicts, known, reward_weights, samples_per_prompt
  )
  results["samples"] = _examples(rows, responses, processor, samples_per_prompt)
  partial = f"{path}.partial"
  with open(partial, "w", encoding="utf-8") as f:
    json.dump(results, f, ensure_ascii=False, indent=1)
  os.replace(partial, path)
  print(tables.results_tables(results))
  print(f"Results: {path}")


def _bits_per_byte(
  corpus,
  processor,
  sequence_logprobs,
  *,
  vocab_size,
  length,
  batch_size,
  max_documents,
) -> dict:
  result = {}
  languages = documents.read_counts(corpus)["languages"]
  for code, splits in languages.items():
    if not all(splits.get(s, {}).get("documents") for s in documents.SPLITS):
      continue
    train, held_out = (
      [d.text for d in documents.read_documents(corpus, code, split)]
      for split in documents.SPLITS
    )
    held_out = held_out[:max_documents]
    counts, held_out_counts = (
      bits_per_byte.piece_counts(
        texts,
        encode=processor.encode,
        eos_id=special.EOS_ID,
        vocab_size=vocab_size,
      )
      for texts in (train, held_out)
    )
    scored = bits_per_byte.score_documents(
      held_out,
      encode=processor.encode,
      eos_id=special.EOS_ID,
      sequence_logprobs=sequence_logprobs,
      language_id=registry.index(code),
      length=length,
      batch_size=batch_size,
    )
    per_byte = scored.tokens / scored.bytes
    result[code] = {
      "documents": scored.documents,
      "tokens": scored.tokens,
      "bytes": scored.bytes,
      "train_tokens": int(counts.sum()),
      "bits_per_byte": scored.bits_per_byte,
      "unigram_entropy": bits_per_byte.unigram_entropy(counts) * per_byte,
      "unigram_cross_entropy": per_byte
      * bits_per_byte.unigram_cross_entropy(counts, held_out_counts),
    }
  return result


def _kl(
  token_rows, language_ids, logprob_pair, *, prompt_length, batch_size
) -> np.ndarray:
  """Summed log ratio to the reference of each response, in nats."""

  def of_batch(token_rows, language_ids):
    policy, reference = logprob_pair(
      prompts.response_batch(
        token_rows, language_ids, prompt_length=prompt_length
      )
    )
    return np.sum(np.asarray(policy) - np.asarray(reference), axis=1)

  return generation.in_batches(of_batch, (token_rows, language_ids), batch_size)


def _clusters(rows, samples_per_prompt) -> np.ndarray:
  return np.repeat([r["source_url"] for r in rows], samples_per_prompt)


def _generation(rows, parts, kl, weights, samples_per_prompt) -> dict:
  """Means and standard errors by model, then by language and overall."""
  languages = np.repeat([r["language"] for r in rows], samples_per_prompt)
  clusters = _clusters(rows, samples_per_prompt)
  result = {}
  for name, of_model in parts.items():
    columns = {**of_model, "reward": rewards.weighted_sum(of_model, weights)}
    if name == "rloo":
      columns["kl"] = kl

    def summary(chosen, columns=columns):
      row = {"samples": int(chosen.sum())}
      for part, values in columns.items():
        mean, error = win_rate.mean_and_standard_error(
          values[chosen], clusters[chosen]
        )
        row[part] = mean
        row[f"{part}_standard_error"] = None if np.isnan(error) else error
      return row

    result[name] = {
      "overall": summary(np.ones(len(languages), bool)),
      "by_language": {
        code: summary(languages == code) for code in sorted(set(languages))
      },
    }
  return result


def _win_rate(rows, verdicts, known, samples_per_prompt, seed) -> dict:
  """RLOO against SFT by the judge, in languages that the judge knows."""
  totals = {
    name: sum(of_model.values()).reshape(-1, samples_per_prompt)
    for name, of_model in verdicts.items()
  }
  shares = win_rate.outcomes(totals["rloo"], totals["sft"], margin=0.01)
  judged = [i for i, r in enumerate(rows) if r["language"] in known]
  summary = win_rate.summarize(
    shares[judged],
    languages=[rows[i]["language"] for i in judged],
    clusters=[rows[i]["source_url"] for i in judged],
    seen=None,
    seed=seed,
    num_resamples=_RESAMPLES,
    confidence=_CONFIDENCE,
  )
  summary["unjudged_languages"] = sorted(
    {r["language"] for r in rows} - set(known)
  )
  return summary


def _best_of_n(rows, parts, verdicts, known, weights, samples_per_prompt):
  """SFT's samples chosen by the reward, in languages that the judge knows."""
  proxy, gold = (
    values.reshape(-1, samples_per_prompt)
    for values in (
      rewards.weighted_sum(parts["sft"], weights),
      sum(verdicts["sft"].values()),
    )
  )
  languages = np.array([r["language"] for r in rows])
  return best_of_n.curve(
    {
      code: (proxy[languages == code], gold[languages == code])
      for code in sorted(set(languages.tolist()) & set(known))
    }
  )


def _examples(rows, responses, processor, samples_per_prompt) -> list[dict]:
  """The first prompt of each language with one response of each model."""
  seen, examples = set(), []
  for i, row in enumerate(rows):
    if row["language"] in seen:
      continue
    seen.add(row["language"])
    texts = {
      name: prompts.decode_response(processor, drawn[i * samples_per_prompt])[0]
      for name, drawn in responses.items()
    }
    examples.append(
      {"language": row["language"], "prompt": row["prompt"], **texts}
    )
  return examples
