"""A small pretrain, for tests that stop it or spread it over processes.

FOLDER OUTPUT MESH: one of the processes that the environment tells of.
"""

import hashlib
import json
import os
import pathlib
import sys

import numpy as np

LANGUAGES = {"eng_Latn": 6000, "tha_Thai": 900, "hin_Deva": 300, "yor_Latn": 40}
LENGTH, BATCH_SIZE, NUM_STEPS = 16, 8, 6
_TEXT = "bread river утро школа ψωμί σχολείο रोटी नदी خبز نهر ขนมปัง แม่น้ำ"


def make_data(folder):
  """A tokenizer and cached tokens, random ones; languages as in LANGUAGES."""
  import sentencepiece

  from mlm.data import shards, token_stream
  from mlm.tokenizers import special

  tokenizer, tokens = folder / "tokenizer", folder / "tokens"
  tokenizer.mkdir()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(_TEXT.split() * 20),
    model_prefix=str(tokenizer / "sentencepiece"),
    vocab_size=309,
    byte_fallback=True,
    pad_id=special.PAD_ID,
    eos_id=special.EOS_ID,
    unk_id=special.UNK_ID,
    bos_id=-1,
    pad_piece=special.PAD_PIECE,
    control_symbols=[special.USER_PIECE, special.ASSISTANT_PIECE],
    minloglevel=2,
  )
  model = (tokenizer / "sentencepiece.model").read_bytes()
  sha256 = hashlib.sha256(model).hexdigest()
  (tokenizer / "card.json").write_text(json.dumps({"model_sha256": sha256}))
  counts, rng = {}, np.random.default_rng(0)
  for code, size in LANGUAGES.items():
    directory = tokens / f"mc4.{code}"
    directory.mkdir(parents=True)
    text = rng.integers(261, 309, size).astype(token_stream.DTYPE)
    text[19::20] = special.EOS_ID
    shards.write([text.tobytes()], str(directory), "train", shard_records=1)
    index = {
      "examples": -(-size // 20),
      "tokens": size,
      "chunk_tokens": size,
      "shards": 1,
      "tokenizer_sha256": sha256,
    }
    (directory / "train.json").write_text(json.dumps(index))
    counts[code] = {
      "train": {
        "documents": index["examples"],
        "tokens": size,
        "bytes": 2 * size,
      }
    }
  (tokenizer / "token_counts.json").write_text(json.dumps(counts))


def shares(*of):
  from mlm.languages import samplers

  return samplers.by_shares(shares=dict(zip(LANGUAGES, of)), max_epochs=None)


def pretrain(
  folder, output, *, phases, mesh_shape, initial=None, adapters=None
):
  from mlm.data import objectives
  from mlm.jobs import cross_entropy
  from mlm.jobs import pretrain as job
  from mlm.models import decoder
  from mlm.training import loss_weights, optimizers, schedules

  os.makedirs(output, exist_ok=True)
  job.pretrain(
    tokens=str(folder / "tokens"),
    tokenizer=str(folder / "tokenizer"),
    initial=initial and str(initial),
    output=str(output),
    model=decoder.DecoderConfig(
      vocab_size=320,
      num_layers=1,
      d_model=16,
      d_ff=32,
      num_heads=2,
      num_kv_heads=2,
      head_dim=8,
      position_encoding="rotary_halves",
      rope_theta=10_000.0,
      rope_scaling=None,
      norm="rms",
      norm_epsilon=1e-5,
      mlp="swiglu",
      parallel_block=False,
      use_biases=False,
      normalize_embedding=False,
      tie_embeddings=True,
      logit_scale=1.0,
      activation_dtype="float32",
      remat="none",
    ),
    adapters=adapters,
    optimizer=optimizers.adamw(
      learning_rate=schedules.warmup_cosine(
        peak=1e-2, warmup_steps=1, num_steps=NUM_STEPS, final_fraction=0.1
      ),
      beta1=0.9,
      beta2=0.95,
      epsilon=1e-8,
      weight_decay=0.1,
      max_grad_norm=1.0,
    ),
    mesh_shape=mesh_shape,
    batch_size=BATCH_SIZE,
    objective=objectives.causal(length=LENGTH),
    num_steps=NUM_STEPS,
    phases=phases,
    make_loss=cross_entropy.cross_entropy(
      z_loss=1e-4,
      label_smoothing=0.0,
      token_weights=loss_weights.per_token,
      language_weights=None,
    ),
    num_microbatches=1,
    seed=3,
    checkpoint_period=2,
    log_period=1,
  )


if __name__ == "__main__":
  from mlm.sharding import processes

  _folder, _output, _mesh = sys.argv[1:]
  processes.start()
  pretrain(
    pathlib.Path(_folder),
    _output,
    phases=[(0, shares(0.4, 0.3, 0.2, 0.1))],
    mesh_shape=json.loads(_mesh),
  )
