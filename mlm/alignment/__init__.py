"""Alignment: preferences, rewards and RLOO, through the one training loop."""
