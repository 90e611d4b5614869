"""Jobs: one file and one keyword-only function each, run by `python -m mlm.run`."""
