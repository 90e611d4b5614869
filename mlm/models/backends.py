"""Which kernels a model runs; chosen where it is built."""

from typing import NamedTuple

from kernels.causal_attention import api as causal_attention
from kernels.grouped_matmul import api as grouped_matmul
from kernels.paged_attention import api as paged_attention
from kernels.relative_attention import api as relative_attention


class Backends(NamedTuple):
  """Backends by the names that the kernels' `api` has for them.

  Attributes:
    causal_attention: of a decoder with rotary positions, where there is no
      cache. None for `layers.attend`: plain XLA, all logits in memory.
    relative_attention: of an encoder–decoder's self-attentions, where there is
      no cache; None likewise.
    grouped_matmul: of mixtures of experts that drop no token.
    paged_attention: of a decoder's cache in pages.
  """

  causal_attention: str | None
  relative_attention: str | None
  grouped_matmul: str
  paged_attention: str


# On any platform; what makes params, which are the same whatever runs.
PLAIN = Backends(None, None, "ragged", "reference")
# To compile ahead of time for TPUs, on whatever machine.
TPU = Backends("splash_tpu", "pallas_tpu", "megablox_tpu", "ragged_tpu")


def default(activation_dtype: str) -> Backends:
  """Those of the platform of this process; plain attention on CPUs.

  There `layers.attend` is faster than the kernels' own plain backends.
  """
  causal = causal_attention.default_backend(activation_dtype)
  relative = relative_attention.default_backend()
  return Backends(
    None if causal == "reference" else causal,
    None if relative == "chunked" else relative,
    grouped_matmul.default_backend(),
    paged_attention.default_backend(),
  )
