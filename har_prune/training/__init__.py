"""Training and healing: one Accelerate loop, and distillation."""
