"""Networks for a device: an export is kept only when its own runtime gives the answers of the saved model."""
