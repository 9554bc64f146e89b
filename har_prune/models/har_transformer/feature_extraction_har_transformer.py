"""Feature extractor of the HAR Transformer. Self-contained: this file travels with every saved checkpoint."""

from fractions import Fraction

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor


class HarFeatureExtractor(SequenceFeatureExtractor):
    """Turns recordings in physical units into normalised model inputs.

    Each channel is shifted and scaled by statistics of the training subjects. A window given at another
    rate is resampled; one shorter than the model's is padded with the channel mean and masked; a longer
    recording has to be cut into windows first.

    Args:
        num_channels: Sensor channels.
        sampling_rate_hz: Rate the model was trained at, in Hz.
        window_size: Samples in a window at that rate.
        channel_mean: Mean of each channel in its physical unit; zeros when None.
        channel_std: Standard deviation of each channel in its physical unit, above 0; ones when None.
        channel_names: Names of the channels, in order.
        channel_units: Units of the channels, in order, e.g. "m/s^2" or "rad/s".
    """

    model_input_names = ["input_values", "attention_mask"]  # noqa: RUF012 (transformers' own spelling)

    def __init__(
        self,
        num_channels: int = 6,
        sampling_rate_hz: float = 50.0,
        window_size: int = 128,
        channel_mean: list[float] | None = None,
        channel_std: list[float] | None = None,
        channel_names: list[str] | None = None,
        channel_units: list[str] | None = None,
        **kwargs,
    ):
        for name in ("feature_size", "sampling_rate", "padding_value"):  # derived, but present in saved files
            kwargs.pop(name, None)
        # The base class pads [T, C] along time alone only when it is told that there is more than one feature.
        super().__init__(
            feature_size=max(2, num_channels), sampling_rate=sampling_rate_hz, padding_value=0.0, **kwargs
        )
        self.num_channels = num_channels
        self.sampling_rate_hz = sampling_rate_hz
        self.window_size = window_size  # never `window`: transformers drops that attribute when it saves
        self.channel_mean = list(channel_mean) if channel_mean is not None else [0.0] * num_channels
        self.channel_std = list(channel_std) if channel_std is not None else [1.0] * num_channels
        self.channel_names = channel_names
        self.channel_units = channel_units
        if not len(self.channel_mean) == len(self.channel_std) == num_channels:
            raise ValueError(
                f"channel_mean has {len(self.channel_mean)} and channel_std {len(self.channel_std)} entries; "
                f"num_channels={num_channels}"
            )
        if not (np.isfinite(self.channel_mean).all() and np.isfinite(self.channel_std).all()):
            raise ValueError(f"channel_mean={channel_mean} and channel_std={channel_std}: must be finite")
        if min(self.channel_std, default=1.0) <= 0:
            raise ValueError(f"channel_std={channel_std}: must be above 0; give 1 to leave a channel unscaled")

    def __call__(
        self, recordings, sampling_rate_hz: float | None = None, padding="max_length", return_tensors=None
    ) -> BatchFeature:
        """Resamples, normalises and pads windows.

        Args:
            recordings: One window [T, C], or a batch of them (an array [N, T, C] or a list of [T_i, C]), none
                longer in seconds than the model's.
            sampling_rate_hz: Their rate in Hz; None = the model's own.
            padding: "max_length" (to `window_size`), "longest" or False.
            return_tensors: "pt" or "np"; None gives NumPy arrays.

        Returns:
            `input_values` [N, T, C] in units of the channel's standard deviation and `attention_mask` [N, T].

        Raises:
            ValueError: A recording is not [T, num_channels], is empty, is longer than the window, or holds a
                value that is not finite; or the rate is none.
        """
        rate = self.sampling_rate_hz if sampling_rate_hz is None else sampling_rate_hz
        if not 0 < rate < float("inf"):
            raise ValueError(f"sampling_rate_hz={rate}: must be above 0")
        if getattr(recordings, "ndim", None) == 2 or (len(recordings) and np.ndim(recordings[0]) == 1):
            recordings = [recordings]
        windows = [self._normalised(np.asarray(item, dtype=np.float64), i, rate) for i, item in enumerate(recordings)]
        if rate != self.sampling_rate_hz:
            from scipy.signal import resample_poly  # slow to import, and most data come at the model's rate

            ratio = Fraction(self.sampling_rate_hz / rate).limit_denominator(1000)
            # padtype="line": zero padding would ring at both ends of a signal that carries gravity.
            windows = [resample_poly(w, ratio.numerator, ratio.denominator, padtype="line") for w in windows]
        return self.pad(
            {"input_values": [window.astype(np.float32) for window in windows]},
            padding=padding,
            max_length=self.window_size,
            truncation=True,  # by less than a sample at the given rate: resampling rounds up
            return_attention_mask=True,
            return_tensors=return_tensors,
        )

    def _normalised(self, recording: np.ndarray, index: int, rate: float) -> np.ndarray:
        if recording.ndim != 2 or recording.shape[1] != self.num_channels or not len(recording):
            raise ValueError(
                f"recording {index} has shape {recording.shape}; expected [samples, {self.num_channels}] and a sample"
            )
        size = round(self.window_size * rate / self.sampling_rate_hz, 6)  # of the window, in samples at this rate
        if len(recording) - 1 >= size:
            raise ValueError(
                f"recording {index} has {len(recording)} samples ({len(recording) / rate:g} s at {rate:g} Hz), and "
                f"the model looks at windows of {self.window_size / self.sampling_rate_hz:g} s. Cut it: "
                f"size = {int(size)}; "
                f"windows = recording[: len(recording) // size * size].reshape(-1, size, {self.num_channels})"
            )
        if not np.isfinite(recording).all():
            row, channel = np.argwhere(~np.isfinite(recording))[0]
            raise ValueError(f"recording {index} holds a value that is not finite: sample {row}, channel {channel}")
        return (recording - np.asarray(self.channel_mean)) / np.asarray(self.channel_std)


__all__ = ["HarFeatureExtractor"]
