"""Inside a job: the few lines that a training script imports, and how it is told to rescale.

`mailbox` is how the controller and the ranks talk; it needs nothing but the standard library. Everything else here
imports torch.
"""
