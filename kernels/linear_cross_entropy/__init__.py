"""Linear layer and softmax statistics in one, without the [N, V] logits."""
