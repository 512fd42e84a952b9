"""`hdfast bench`: one learner update, the loops and the ops, measured beside other Dreamers. See docs/benchmarks.md."""
