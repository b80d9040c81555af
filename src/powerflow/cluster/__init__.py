"""Describe the cluster's nodes, GPU types and racks, and place jobs on them."""
