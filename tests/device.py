"""Where tests compute: on a GPU if there is one. Oracles and evidence stay on the CPU."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
