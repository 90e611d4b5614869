"""Plans of runs: what they need, as computed and as the compiler says."""
