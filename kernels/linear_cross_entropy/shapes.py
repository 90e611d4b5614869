"""The shapes that models really use: bench.py times them, tests compile them."""

from typing import NamedTuple


class Shape(NamedTuple):
  """Tokens on one device, width, vocabulary on one device, dtype."""

  name: str
  num_tokens: int
  width: int
  vocab_size: int
  dtype: str


# The quickstart: gin/models/decoder_tiny.gin, 16 rows of 256 tokens.
QUICKSTART = Shape("quickstart", 4096, 128, 4096, "float32")

# The width of Llama 3 8B, 70B and of the 200B design with a vocabulary of
# 262,144, whole: what a device sees with tensor = 1.
LLAMA_8B = Shape("llama_8b", 8192, 4096, 262144, "bfloat16")
LLAMA_70B = Shape("llama_70b", 8192, 8192, 262144, "bfloat16")
DENSE_200B = Shape("dense_200b", 8192, 12288, 262144, "bfloat16")
# The same split over tensor = 8.
DENSE_200B_TENSOR_8 = Shape("dense_200b/8", 8192, 12288, 32768, "bfloat16")

SHAPES = (QUICKSTART, LLAMA_8B, LLAMA_70B, DENSE_200B, DENSE_200B_TENSOR_8)
