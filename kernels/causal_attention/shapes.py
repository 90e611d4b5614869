"""The shapes that models really use: tests compile them."""

from typing import NamedTuple


class Shape(NamedTuple):
  """Rows on one device, slots of a row, query and key heads, head width."""

  name: str
  batch: int
  length: int
  num_heads: int
  num_kv_heads: int
  head_width: int


# Heads of one device where Llama 3 8B is whole, and where the 200B design is
# split over tensor = 8.
LLAMA_8B = Shape("llama_8b", 1, 4096, 32, 8, 128)
DENSE_200B_TENSOR_8 = Shape("dense_200b/8", 1, 4096, 12, 1, 128)

SHAPES = (LLAMA_8B, DENSE_200B_TENSOR_8)
