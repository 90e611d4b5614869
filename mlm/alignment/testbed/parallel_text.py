"""Repeat some words of real text: line-aligned texts as a testbed's task.

A prompt is a stretch of a line: a fixed number of pieces, from the beginning of
a word; the last word may be cut. The response wanted is the same text. Prompts
that say the same are at the same part of the same line in every language, so
they do so about as closely as word order allows.

Demonstrations are noisy on purpose: some give the parallel stretch of another
language, some go on in the line instead of repeating, some break off.

Letters: N rows, W pieces of a stretch, P = W + 2, R = W + 1 + slack.
"""

import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlm.alignment.testbed import tasks
from mlm.data import prompts as prompts_lib
from mlm.languages import registry
from mlm.text import chrf
from mlm.tokenizers import fairness, load, special, train

KINDS = ("right", "wrong_language", "continued", "truncated")
_SLACK = 3  # pieces by which a response may be too long and still end
_WORD_START = "\u2581"  # SentencePiece's mark of a space

Identifier = Callable[[str], tuple[str | None, float]]


class Line(NamedTuple):
  """A line in one language.

  Attributes:
    ids: int32 [pieces].
    starts: where a stretch may begin: at a word, with a stretch behind it.
  """

  ids: np.ndarray
  starts: np.ndarray


class Text(NamedTuple):
  """What a task reads.

  Attributes:
    processor: SentencePiece processor, trained on the train split.
    identify: text -> (code or None, probability).
    lines: of each language, in order, all lines.
    lines_of_split: places of the lines that are long enough in all languages,
      by split.
  """

  processor: Any
  identify: Identifier
  lines: list[list[Line]]
  lines_of_split: dict[str, np.ndarray]


def read_text(
  *,
  directory: str,
  documents: str,
  languages: Sequence[str],
  vocab_size: int,
  character_coverage: float,
  num_pieces: int,
  identifier: Callable[[Sequence[str]], tuple[Identifier, tuple[str, ...]]],
) -> Text:
  """Reads and splits the texts, and trains a tokenizer on the train split.

  Whole documents make the splits: of every five, three are for training, one
  for validation, one for testing.

  Args: see `make_task`.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if texts are not aligned, a language has none or is not known to
      the identifier, a split has no line that is long enough in all languages,
      or the text has not so many pieces.
  """
  identify, known = identifier(languages)
  if unknown := [code for code in languages if code not in known]:
    raise ValueError(
      f"the identifier does not know {', '.join(unknown)}; leave them out, or "
      "give another identifier"
    )
  texts = _read(directory, languages)
  splits = _splits(os.path.join(directory, documents), len(texts[0]))
  processor = _tokenizer(
    [line for text in texts for line in itertools.compress(text, splits == 0)],
    vocab_size=vocab_size,
    character_coverage=character_coverage,
  )
  lines = [
    [_line(processor, line, code, num_pieces) for line in text]
    for code, text in zip(languages, texts, strict=True)
  ]
  is_long = np.all([[len(x.starts) > 0 for x in of] for of in lines], axis=0)
  lines_of_split = {
    split: np.flatnonzero((splits == i) & is_long)
    for i, split in enumerate(tasks.SPLITS)
  }
  for split, found in lines_of_split.items():
    if not len(found):
      raise ValueError(
        f"the {split} split has no line of {2 * num_pieces} pieces in all "
        f"{len(languages)} languages; lower num_pieces, or give more text"
      )
  return Text(processor, functools.cache(identify), lines, lines_of_split)


def make_task(
  *,
  directory: str,
  documents: str,
  languages: Sequence[str],
  vocab_size: int,
  character_coverage: float,
  num_pieces: int,
  shares: Mapping[str, float],
  wrong_language: Callable,
  identifier: Callable[[Sequence[str]], tuple[Identifier, tuple[str, ...]]],
) -> tasks.Task:
  """Builds the task; texts are read when it is first used.

  Args:
    directory: of `fairness.read_parallel`.
    documents: name of the file there that has the document of every line.
    languages: codes; the first plays the part of English.
    vocab_size: pieces of the tokenizer, special and byte pieces included.
    character_coverage: of the tokenizer; the rest is written in bytes.
    num_pieces: W.
    shares: of `KINDS` among the demonstrations, summing to 1.
    wrong_language: as for `artificial.make_task`.
    identifier: languages -> (text -> (code or None, probability), codes that it
      knows), such as `mlm.evaluation.judge.second_identifier`.

  Raises:
    ValueError: if the shares do not sum to 1.
  """
  if set(shares) != set(KINDS) or abs(sum(shares.values()) - 1) > 1e-9:
    raise ValueError(
      f"shares {dict(shares)} must name exactly {', '.join(KINDS)} and sum to 1"
    )
  response_length = num_pieces + 1 + _SLACK

  @functools.cache
  def text():
    return read_text(
      directory=directory,
      documents=documents,
      languages=languages,
      vocab_size=vocab_size,
      character_coverage=character_coverage,
      num_pieces=num_pieces,
      identifier=identifier,
    )

  def stretch(language, line, part):
    """Pieces of a line: the stretch at a part of it in [0, 1), and on."""
    ids, starts = text().lines[language][line]
    start = starts[int(part * len(starts))]
    return ids[start : start + num_pieces], ids[start + num_pieces :]

  def prompt_row(language, line, part):
    wanted, _ = stretch(language, line, part)
    return [special.USER_ID, *wanted, special.ASSISTANT_ID]

  def prompts(split, rng, number):
    # Each line as often as the others, and a part of it.
    lines = np.resize(rng.permutation(text().lines_of_split[split]), number)
    asked = list(zip(lines, rng.random(number)))
    return np.array(
      [
        [prompt_row(language, *of) for of in asked]
        for language in range(len(languages))
      ],
      np.int32,
    )

  def demonstrated(rng, kind, language, other, line, part):
    wanted, behind = stretch(language, line, part)
    if kind == "wrong_language":
      wanted, _ = stretch(other, line, part)
    elif kind == "continued":
      wanted = behind[:num_pieces]
    elif kind == "truncated":
      wanted = wanted[: rng.integers(1, num_pieces)]
    return [*wanted, special.EOS_ID]

  def demonstrations(rng, number):
    lines = rng.choice(text().lines_of_split["train"], number)
    parts = rng.random(number)
    ids = rng.integers(0, len(languages), number).astype(np.int32)
    others = wrong_language(rng, ids, len(languages))
    kinds = rng.choice(KINDS, number, p=[shares[kind] for kind in KINDS])
    rows = [prompt_row(*of) for of in zip(ids, lines, parts)]
    responses = prompts_lib.response_rows(
      [demonstrated(rng, *of) for of in zip(kinds, ids, others, lines, parts)],
      response_length=response_length,
    )
    return np.concatenate([np.array(rows, np.int32), responses], axis=1), ids

  def judged_by(judge):
    return lambda prompts, responses: judge(
      prompts,
      responses,
      processor=text().processor,
      identify=text().identify,
    )

  return tasks.Task(
    languages=tuple(languages),
    vocab_size=vocab_size,
    prompt_length=num_pieces + 2,
    response_length=response_length,
    prompts=prompts,
    demonstrations=demonstrations,
    gold=judged_by(gold),
    verify=judged_by(verify),
  )


def _read(directory, languages) -> list[list[str]]:
  """Lines of each language; the shortest label of several is taken."""
  by_label = fairness.read_parallel(directory)
  found: dict[str, list[str]] = {}
  for label in sorted(by_label, key=lambda label: (len(label), label)):
    if language := fairness.language_of(label):
      found.setdefault(language.code, by_label[label])
  if missing := [code for code in languages if code not in found]:
    raise ValueError(
      f"{directory} has no text in {', '.join(missing)}; it has "
      f"{', '.join(sorted(found))}"
    )
  return [found[code] for code in languages]


def _splits(path, num_lines) -> np.ndarray:
  """Place in `tasks.SPLITS` of each line, int [lines]."""
  with open(path, encoding="utf-8") as f:
    names = f.read().splitlines()
  if len(names) != num_lines:
    raise ValueError(
      f"{path} names the documents of {len(names)} lines, the texts have "
      f"{num_lines}"
    )
  place = {name: i for i, name in enumerate(dict.fromkeys(names))}
  of_five = np.array([0, 0, 0, 1, 2])
  return of_five[[place[name] % 5 for name in names]]


def _tokenizer(lines, *, vocab_size, character_coverage):
  model = train.train_on_lines(
    iter(lines),
    vocab_size=vocab_size,
    character_coverage=character_coverage,
    num_threads=1,
    characters=sum(map(len, lines)),
  )
  processor = load.from_bytes(model)
  if (reached := processor.get_piece_size()) != vocab_size:
    raise ValueError(
      f"the text supports {reached} pieces, not {vocab_size}; set VOCAB_SIZE to "
      f"{reached}"
    )
  return processor


def _line(processor, text, code, num_pieces) -> Line:
  ids = np.array(processor.encode(text), np.int32)
  is_whole = np.array([_begins_character(i) for i in ids.tolist()], bool)
  if registry.get(code).word_separator == "space":
    pieces = [processor.id_to_piece(i) for i in ids.tolist()]
    begins = np.array([piece.startswith(_WORD_START) for piece in pieces], bool)
  else:
    begins = is_whole
  starts = np.flatnonzero(begins)
  starts = starts[starts + 2 * num_pieces <= len(ids)]
  return Line(ids, starts[is_whole[starts + num_pieces]])


def _begins_character(token_id: int) -> bool:
  """False for the bytes that go on in a character of UTF-8."""
  return not (
    special.is_byte(token_id)
    and 0x80 <= token_id - special.FIRST_BYTE_ID < 0xC0
  )


def _said(processor, prompts, responses):
  """For each row: text wanted, text said, its pieces, whether it ended."""
  for prompt, response in zip(prompts.tolist(), responses.tolist()):
    wanted = prompt[1:-1]
    yield (
      (processor.decode(wanted), wanted),
      prompts_lib.decode_response(processor, response),
    )


def _fidelity(identify, wanted, text) -> float:
  """Probability of the language of a text if it is that of the one wanted."""
  asked, _ = identify(wanted)
  found, probability = identify(text)
  return probability if found is not None and found == asked else 0.0


def _repeated(ids) -> float:
  """Share of pieces that repeat an earlier one; 0 of none."""
  return 1 - len(set(ids)) / len(ids) if ids else 0.0


def gold(
  prompts: np.ndarray,
  responses: np.ndarray,
  *,
  processor: Any,
  identify: Identifier,
) -> np.ndarray:
  """The hidden score, float32 [N], at most 2.

  chrF of the response's text against the prompt's + fidelity - the length off,
  as a share of the length wanted, at most 1 - the share of pieces that repeat
  an earlier one, as far as it is above the prompt's - 1 if the response does
  not end. Fidelity is the probability that the identifier gives its language,
  if that is the language it names for the prompt: a prompt that it takes for
  another language is judged as one in that.

  Args:
    prompts: int32 [N, P].
    responses: int32 [N, R].
    processor: SentencePiece processor of the task.
    identify: text -> (code or None, probability).
  """
  scores = []
  for (wanted, asked), (text, ids, ended) in _said(
    processor, prompts, responses
  ):
    off = min(1.0, abs(len(text) - len(wanted)) / len(wanted))
    repeated = max(0.0, _repeated(ids) - _repeated(asked))
    alike = chrf.chrf(text, wanted) + _fidelity(identify, wanted, text)
    scores.append(alike - off - repeated - (not ended))
  return np.array(scores, np.float32)


def verify(
  prompts: np.ndarray,
  responses: np.ndarray,
  *,
  processor: Any,
  identify: Identifier,
) -> dict[str, np.ndarray]:
  """What can be checked without an answer, float32 [N] each.

  Fidelity as in `gold`, share of pieces that do not repeat an earlier one, and
  whether the response ends. All 0 for an empty one.
  """
  parts = [
    (
      _fidelity(identify, wanted, text),
      1 - _repeated(ids) if ids else 0.0,
      ended and bool(ids),
    )
    for (wanted, _), (text, ids, ended) in _said(processor, prompts, responses)
  ]
  names = ("right_language", "no_repetition", "ends")
  return dict(zip(names, np.array(parts, np.float32).T))
