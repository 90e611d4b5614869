"""Pallas kernels for TPU: the logits live in on-chip memory, tile by tile.

Three kernels: the statistics, the gradient of hidden, the gradient of kernel.
Both gradients compute their tile of logits again and keep what they add up, in
float32, on the chip. With b bytes an element of hidden and kernel, and blocks
of C tokens:

| kernel  | FLOPs  | bytes from HBM, mostly | grid            |
|---------|--------|------------------------|-----------------|
| forward | 2 N D V | b D V N / C           | tokens, V, D    |
| dhidden | 4 N D V | b D V N / C           | tokens, V       |
| dkernel | 4 N D V | b N D V / C (C of V)  | V, tokens       |

On-chip bytes: `vmem_bytes`. Intensity is about C (2 C backward) FLOPs a byte in
bfloat16; blocks are as large as fits because a TPU balances at 170 to 560.

Letters: N tokens, D width, V vocabulary, C tokens of a block, W vocabulary
entries of a block.
"""

import dataclasses

_LANES = 128  # last dimension of a tile
_SUBLANES = 16  # rows of a bfloat16 tile; float32 needs 8
_SLICE = 1024  # of D: bounds the float32 result of one backward product
_VMEM_SHARE = 0.9  # the rest is for what the compiler itself puts there


@dataclasses.dataclass(frozen=True)
class Blocks:
  """Sizes of the tiles; tokens multiples of 16, the others of 128.

  Attributes:
    forward_tokens: C of the forward kernel.
    forward_vocab: W of the forward kernel.
    forward_width: slice of D in the forward kernel; divides D.
    dhidden_tokens: C of the gradient of hidden, which holds [C, D] float32.
    dhidden_vocab: W of the gradient of hidden.
    dkernel_tokens: C of the gradient of kernel.
    dkernel_vocab: W of the gradient of kernel, which holds [D, W] float32.
  """

  forward_tokens: int
  forward_vocab: int
  forward_width: int
  dhidden_tokens: int
  dhidden_vocab: int
  dkernel_tokens: int
  dkernel_vocab: int


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _divisor(width: int, limit: int) -> int:
  """The largest multiple of 128 that divides width, up to limit."""
  return max(
    size
    for size in range(_LANES, min(width, limit) + 1, _LANES)
    if width % size == 0
  )


def vmem_bytes(blocks: Blocks, width: int, itemsize: int) -> dict[str, int]:
  """On-chip bytes that each kernel needs.

  Streamed blocks count twice (the next one is fetched during the work on this
  one), columns of per-token numbers fill whole rows of 128 lanes.

  Args:
    blocks: tile sizes.
    width: D.
    itemsize: bytes of an element of hidden and kernel.

  Returns:
    {"forward", "dhidden", "dkernel"} -> bytes.
  """
  row = 4 * _LANES
  slice_ = _divisor(width, _SLICE)

  def backward(held, streamed):
    return (
      held * width * (4 + 3 * itemsize)  # sum, input once, output twice
      + streamed * width * 2 * itemsize
      + held * streamed * 3 * 4
      + held * slice_ * 2 * 4
    )

  C, W = blocks.forward_tokens, blocks.forward_vocab
  X, Y = blocks.dhidden_tokens, blocks.dkernel_tokens
  return {
    "forward": (C + W) * blocks.forward_width * 2 * itemsize
    + C * W * 3 * 4
    + C * row * 6,
    "dhidden": backward(X, blocks.dhidden_vocab) + X * row * 4,
    "dkernel": backward(blocks.dkernel_vocab, Y) + Y * row * 4,
  }


def choose_blocks(*, width: int, itemsize: int, vmem_limit: int) -> Blocks:
  """The largest tiles that fit.

  Args:
    width: D, a multiple of 128.
    itemsize: bytes of an element of hidden and kernel.
    vmem_limit: on-chip bytes that a kernel may use.

  Raises:
    ValueError: if D is not a multiple of 128, or not even the smallest tiles
      fit.
  """
  if width % _LANES:
    raise ValueError(
      f"width {width} is not a multiple of {_LANES}, which the TPU's tiles "
      "are; change d_model, or choose backend 'chunked'"
    )
  forward_width = _divisor(width, 512)
  largest = {"forward": 1024 * 2048}
  chosen = {}
  for kernel in ("forward", "dhidden", "dkernel"):
    # What is held decides the traffic; what is streamed only hides latency.
    for held, streamed in (
      (1024, 2048 if kernel in largest else 512),
      (1024, 256),
      (512, 512),
      (512, 256),
      (512, 128),
      (256, 256),
      (256, 128),
      (128, 128),
    ):
      tokens, vocab = (
        (streamed, held) if kernel == "dkernel" else (held, streamed)
      )
      sizes = {f"{kernel}_tokens": tokens, f"{kernel}_vocab": vocab}
      blocks = Blocks(
        **{**dict.fromkeys(_BLOCK_NAMES, _LANES), **sizes}
        | {"forward_width": forward_width}
      )
      if vmem_bytes(blocks, width, itemsize)[kernel] <= vmem_limit:
        chosen |= sizes
        break
    else:
      raise ValueError(
        f"width {width} with {itemsize}-byte elements does not fit the "
        f"{vmem_limit:,} bytes of on-chip memory in kernel {kernel}; choose "
        "backend 'chunked'"
      )
  return Blocks(forward_width=forward_width, **chosen)
