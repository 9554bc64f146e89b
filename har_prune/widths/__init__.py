"""What can be narrowed inside residual blocks: found, masked, taken out."""
