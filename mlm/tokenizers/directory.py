"""Making a tokenizer directory: whole or not at all, and once."""

import json
import os

from mlm.tokenizers import load


def finished_card(output: str, settings: dict) -> dict | None:
  """The card of a directory that is finished with these settings.

  Args:
    output: tokenizer directory; need not be there.
    settings: what determines the tokenizer, as JSON gives it back.

  Returns:
    The card, or None if there is no finished tokenizer.

  Raises:
    ValueError: if there is one with other settings, or its model is not the
      card's.
  """
  if not os.path.exists(os.path.join(output, load.CARD_FILE)):
    return None
  card = load.read_card(output)
  found = card["settings"]
  different = {
    name: (found.get(name), settings.get(name))
    for name in sorted({*found, *settings})
    if found.get(name) != settings.get(name)
  }
  if different:
    listed = "; ".join(
      f"{name} is {old!r} there, {new!r} here"
      for name, (old, new) in different.items()
    )
    raise ValueError(
      f"{output!r} holds a tokenizer with other settings: {listed}. Choose "
      "another output, or delete that directory to make it anew"
    )
  load.load(output)
  return card


def write(output: str, model: bytes, card: dict) -> None:
  """Writes the model, then the card: a tokenizer without card is unfinished."""
  os.makedirs(output, exist_ok=True)
  text = json.dumps(card, indent=2, sort_keys=True) + "\n"
  for name, data in [
    (load.MODEL_FILE, model),
    (load.CARD_FILE, text.encode()),
  ]:
    partial = os.path.join(output, f"{name}.partial")
    with open(partial, "wb") as f:
      f.write(data)
    os.replace(partial, os.path.join(output, name))
