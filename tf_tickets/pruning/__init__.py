"""Which weights are pruned, how many, where and when."""
