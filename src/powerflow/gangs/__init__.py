"""Run the ranks of jobs: launch, rescale, watch and end them."""
