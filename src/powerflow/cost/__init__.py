"""What a job costs: throughput and power models, fitting, observations, GPU types and priors."""
