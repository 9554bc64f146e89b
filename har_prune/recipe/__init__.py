"""A recipe's run: its schema, its Accelerator, its original network, its steps and its folds."""
