"""Power caps: how a decision is made to fit below a limit in watts."""
