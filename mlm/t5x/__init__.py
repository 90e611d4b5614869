"""Our models and mixtures as t5x runs them; see docs/t5x.md."""
