"""What there is: GPU types, nodes, topology; placement by buddy allocation and network packing."""
