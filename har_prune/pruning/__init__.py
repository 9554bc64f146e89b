"""The greedy loop: score, choose, remove, heal, evaluate; its history and its resume."""
