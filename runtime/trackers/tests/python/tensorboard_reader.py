"""Prints what TensorBoard's own reader finds in a directory, as one JSON object."""

import json
import math
import sys

from tensorboard.backend.event_processing import event_accumulator

reader = event_accumulator.EventAccumulator(sys.argv[1], size_guidance={event_accumulator.SCALARS: 0})
reader.Reload()
tags = reader.Tags()


def number(value):
    """A number, or its name where JSON has none for it."""
    return value if math.isfinite(value) else str(value)


scalars = {tag: [[event.step, event.wall_time, number(event.value)] for event in reader.Scalars(tag)] for tag in tags["scalars"]}
texts = {tag: [event.tensor_proto.string_val[0].decode() for event in reader.Tensors(tag)] for tag in tags["tensors"]}
print(json.dumps({"scalars": scalars, "texts": texts}))
