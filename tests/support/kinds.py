"""The kinds of observation and action spaces that tests go through: one name, then (observations, actions)."""

from hdfast.spaces import Box, Discrete, MultiDiscrete, ObsSpace, Part

IMAGE = ObsSpace.single((16, 16, 3), "uint8")
VECTOR = ObsSpace.single((5,), "float32")
NAMED = ObsSpace((Part("speed", (3,), "float32"), Part("image", (8, 8, 3), "uint8"), Part("angle", (2,), "float32")))
IMAGES = ObsSpace((Part("left", (8, 8, 3), "uint8"), Part("right", (8, 8, 1), "uint8"), Part("arm", (4,), "float32")))
KINDS = {"image": (IMAGE, Discrete(4)), "vector": (VECTOR, Box(3)), "named": (NAMED, MultiDiscrete((3, 2))),
         "images": (IMAGES, Box(2))}
