"""The names of parameters in the official code, for every kind of space; golden files pin those that they have."""

import numpy as np
import pytest
import torch

from hdfast.adapters import official
from kinds import KINDS
from learner_case import draw, make_data, make_learner

ENCODER, DECODER, ACTOR = "agent/wm/enc/", "agent/wm/dec/", "agent/task_behavior/ac/actor/"
EXPECTED = {
    "image": {ENCODER + "cnn/s0res/kernel": (4, 4, 3, 2), DECODER + "cnn/in/bias": (64,),
              DECODER + "cnn/s1res/kernel": (4, 4, 3, 2), ACTOR + "dist_out/out/bias": (4,)},
    "vector": {ENCODER + "mlp/h0/norm/scale": (12,), DECODER + "mlp/dist_vector/out/kernel": (12, 5),
               ACTOR + "dist_out/out/kernel": (12, 3), ACTOR + "dist_out/std/kernel": (12, 3)},
    "named": {ENCODER + "mlp/h0/kernel": (5, 12), ENCODER + "cnn/s0res/kernel": (4, 4, 3, 2),
              DECODER + "mlp/dist_speed/out/bias": (3,), DECODER + "mlp/dist_angle/out/bias": (2,),
              ACTOR + "dist_out/out/bias": (5,)},
    "images": {ENCODER + "cnn/s0res/kernel": (4, 4, 4, 2), DECODER + "cnn/s0res/bias": (4,),
               ENCODER + "mlp/h0/kernel": (4, 12), DECODER + "mlp/dist_arm/out/kernel": (12, 4),
               ACTOR + "dist_out/std/bias": (2,)}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_its_official_name(kind):
    learner = make_learner(*KINDS[kind])
    found = official.export(learner)
    assert EXPECTED[kind].items() <= {name: x.shape for name, x in found.items()}.items()
    assert len(found) == len([*learner.world_model.parameters(), *learner.actor_critic.parameters()])
    other = make_learner(*KINDS[kind], seed=1)
    official.load(other, found)
    for name, x in official.export(other).items():
        np.testing.assert_array_equal(x, found[name], err_msg=name)
    one, two = (each.update(make_data(*KINDS[kind]), draw(0, learner)) for each in (learner, other))
    assert all(torch.equal(x, two[name]) for name, x in one.items())
