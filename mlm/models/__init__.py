"""Models as pure functions; flax.linen stays inside this folder."""
