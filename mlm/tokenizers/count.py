"""Token counts of a corpus: what mixtures and plans are computed from."""

import collections
import itertools
import json
import os
import tempfile
from collections.abc import Mapping

from mlm.text import documents
from mlm.tokenizers import load, train

COUNTS_FILE = "token_counts.json"
SPLITS = ("train", "validation")

# Documents are binned by length in blocks of this many tokens. The number of
# pieces of a document at a sequence length L that is a multiple of the block,
# ceil(n / L), depends on n only through ceil(n / block), so it is exact.
BLOCK_TOKENS = 16

_DOCUMENTS_PER_CALL = 256


def count_tokens(*, corpus: str, tokenizer: str, num_threads: int) -> dict:
  """Encodes a corpus and writes `token_counts.json` in the tokenizer directory.

  Counts that are there already are returned at once: the card ties the
  directory to one corpus.

  Args:
    corpus: the corpus that the tokenizer was trained on.
    tokenizer: tokenizer directory.
    num_threads: does not change the result.

  Returns:
    {code: {split: {"documents", "tokens", "characters", "bytes", "blocks"}}}.
    Tokens include one EOS a document: what a model is trained on. "blocks" is
    the histogram {ceil(tokens / BLOCK_TOKENS) as a string: documents}.

  Raises:
    FileNotFoundError: if the corpus or the tokenizer is unfinished.
    ValueError: if the tokenizer was trained on another corpus.
  """
  counts = documents.read_counts(corpus)
  card = load.read_card(tokenizer)
  if card["settings"]["corpus_counts_sha256"] != train.counts_sha256(counts):
    raise ValueError(
      f"the tokenizer {tokenizer!r} was trained on another corpus than "
      f"{corpus!r}; train one on this corpus, or name the one it came from"
    )
  path = os.path.join(tokenizer, COUNTS_FILE)
  if os.path.exists(path):
    return read_token_counts(tokenizer)
  processor = load.load(tokenizer)
  result = {}
  for code in sorted(counts["languages"]):
    for split in SPLITS:
      if counts["languages"][code].get(split, {}).get("documents"):
        result.setdefault(code, {})[split] = _count(
          documents.read_documents(corpus, code, split), processor, num_threads
        )
  partial, name = tempfile.mkstemp(dir=tokenizer)
  with os.fdopen(partial, "w", encoding="utf-8") as f:
    json.dump(result, f, indent=1, sort_keys=True)
    f.write("\n")
  os.chmod(name, 0o644)  # mkstemp's own mode keeps others out
  os.replace(name, path)
  return result


def read_token_counts(tokenizer: str) -> dict:
  """Reads `token_counts.json`.

  Raises:
    FileNotFoundError: if it is not there yet.
  """
  path = os.path.join(tokenizer, COUNTS_FILE)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f"no {COUNTS_FILE} in {tokenizer!r}; count the tokens of the corpus "
      "first (job train_tokenizer)"
    )
  with open(path, encoding="utf-8") as f:
    return json.load(f)


def tokens_per_example(
  token_counts: Mapping, *, split: str, sequence_length: int
) -> dict[str, float]:
  """Mean tokens of an example when documents are split at a length.

  A document of n tokens, EOS included, gives ceil(n / sequence_length)
  examples.

  Args:
    token_counts: of `count_tokens`.
    split: "train" or "validation"; languages without it are left out.
    sequence_length: tokens, a multiple of BLOCK_TOKENS.

  Returns:
    code -> tokens an example, exact, in (0, sequence_length].

  Raises:
    ValueError: if sequence_length is not a positive multiple of BLOCK_TOKENS.
  """
  if sequence_length < 1 or sequence_length % BLOCK_TOKENS:
    raise ValueError(
      f"sequence_length {sequence_length} must be a positive multiple of "
      f"{BLOCK_TOKENS}, the bin width of token_counts.json"
    )
  blocks_per_example = sequence_length // BLOCK_TOKENS
  result = {}
  for code, splits in token_counts.items():
    if split in splits:
      num_examples = sum(
        num_documents * -(-int(blocks) // blocks_per_example)
        for blocks, num_documents in splits[split]["blocks"].items()
      )
      result[code] = splits[split]["tokens"] / num_examples
  return result


def _count(docs, processor, num_threads) -> dict:
  num_documents = num_tokens = num_characters = num_bytes = 0
  blocks = collections.Counter()
  for batch in iter(
    lambda: list(itertools.islice(docs, _DOCUMENTS_PER_CALL)), []
  ):
    texts = [document.text for document in batch]
    for ids in processor.encode(texts, num_threads=num_threads):
      length = len(ids) + 1  # EOS
      num_tokens += length
      blocks[-(-length // BLOCK_TOKENS)] += 1
    num_documents += len(batch)
    num_characters += sum(map(len, texts))
    num_bytes += sum(len(text.encode()) for text in texts)
  return {
    "documents": num_documents,
    "tokens": num_tokens,
    "characters": num_characters,
    "bytes": num_bytes,
    "blocks": {str(k): blocks[k] for k in sorted(blocks)},
  }
