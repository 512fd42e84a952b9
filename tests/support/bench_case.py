"""Sizes at which everything that is measured runs at once, for tests of the benchmarks."""

TINY = {"run.batch_size": 2, "run.batch_length": 3, "behavior.horizon": 2, "env.size": 16, "model.deter": 8,
        "model.units": 8, "model.stoch": 2, "model.classes": 4, "model.cnn_depth": 2, "replay.capacity": 64}
