"""Float32 that is float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32(wanted: bool) -> Iterator[None]:
    """Float32 is float32 inside: no TF32, which graphics cards from Ampere on take for convolutions.

    Its error of about 1e-3 is larger than the importance of some blocks, and folded batch normalisation would never
    pass for equal.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    former = cudnn.allow_tf32, matmul.allow_tf32
    if wanted:
        cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = former
