"""Public sensor data sets: the publisher's files in, a folder that `datasets.load_dataset` reads out.

Knows nothing of har_prune. One module a data set in `readers/`, each with only its own knowledge; cutting windows,
writing and the card are shared. `python -m data_prep --help` lists them.
"""
