"""Alignment: preferences, rewards, DPO and RLOO, through the one loop."""
