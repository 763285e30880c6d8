"""What runs here, and what it costs."""

import torch

from wsss.machine import allowed_cores
from wsss.resources import find_machine


def test_the_machine_is_the_one_at_hand():
    machine = find_machine()
    assert machine.cores == allowed_cores() and machine.name
    assert machine.gpu == torch.cuda.is_available() == (machine.memory > 0)
