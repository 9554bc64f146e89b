"""Typing mistakes and missing words."""

import string

from numpy.random import RandomState

from har_prune.evaluation.robustness.registry import register_corruption


@register_corruption("character_noise", "text")
def character_noise(text: str, severity: int, random: RandomState) -> str:
    """2 to 25 % of the letters are left out, doubled, swapped with the next, or another one."""
    share = (0.02, 0.05, 0.1, 0.15, 0.25)[severity - 1]
    letters, place = list(text), 0
    while place < len(letters):
        if letters[place].isalpha() and random.random_sample() < share:
            kind = random.randint(4)
            if kind == 0:
                del letters[place]
                continue
            if kind == 1:
                letters.insert(place, letters[place])
                place += 1
            elif kind == 2 and place + 1 < len(letters):
                letters[place : place + 2] = letters[place + 1], letters[place]
                place += 1
            else:
                letters[place] = string.ascii_lowercase[random.randint(26)]
        place += 1
    return "".join(letters)


@register_corruption("dropped_words", "text")
def dropped_words(text: str, severity: int, random: RandomState) -> str:
    """5 to 50 % of the words are missing; one stays."""
    words = text.split()
    if not words:
        return text
    kept = random.random_sample(len(words)) >= (0.05, 0.1, 0.2, 0.35, 0.5)[severity - 1]
    kept[random.randint(len(words))] = True
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)
