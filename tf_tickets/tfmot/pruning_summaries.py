"""The callback `PruningSummaries`."""

import os
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments, wrapping
from tf_tickets.structures.nm import NM
from tf_tickets.tfmot.scheduled_mask import ScheduledMask

__all__ = [
    "PruningSummaries",
]


class PruningSummaries(keras.callbacks.TensorBoard):
    """Writes sparsity and threshold of each kernel for TensorBoard.

    They are written at the beginning of each epoch and, unlike in
    tensorflow-model-optimization, at the end of the training, as
    `PATH/sparsity` and `PATH/threshold` into `LOG_DIR/metrics`, over the steps of the
    optimizer. The threshold is the smallest magnitude, or score of a block, that was
    kept; N:M sparsity has none. Requires TensorFlow and TensorBoard, also on JAX.

    Args:
        log_dir: Folder of the logs.
        update_freq: As in `keras.callbacks.TensorBoard`.
        **kwargs: As in `keras.callbacks.TensorBoard`.

    Example:

    >>> summaries = PruningSummaries(str(tmp_path))
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = tt.tfmot.prune_low_magnitude(model)
    tf_tickets: 1 kernel of 32 weights is prunable; 1 variable of 4 weights is not.
    >>> model.compile("sgd", "mse")
    >>> summaries.set_model(model)
    >>> summaries.on_epoch_begin(0)
    >>> (tmp_path / "metrics").is_dir()
    True
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        update_freq: str | int = "epoch",
        **kwargs: Any,
    ) -> None:
        log_dir = str(arguments.check_path(log_dir=log_dir))
        if not arguments.is_whole(update_freq):
            arguments.check_choice(("epoch", "batch"), update_freq=update_freq)
        else:
            arguments.check_counts(update_freq=update_freq)
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)
        self._metrics_writer = self.summary.create_file_writer(f"{log_dir}/metrics")

    def on_epoch_begin(self, epoch, logs=None):
        if logs is not None:
            super().on_epoch_begin(epoch, logs)
        self._write()

    def on_train_end(self, logs=None):
        self._write()
        super().on_train_end(logs)

    def _write(self):
        model = self.model
        step = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
        kernels = wrapping.kernels(model)
        by_mask = {id(m): layer for layer in kernels.layers for m in layer.kernel_masks}
        with self._metrics_writer.as_default():
            for path, kernel in kernels.items():
                mask = kernel.mask_layer
                sparsity = 1.0 - np.mean(mask.value())
                self.summary.scalar(f"{path}/sparsity", sparsity, step=step)
                structure = by_mask[id(mask)].structure
                if isinstance(mask, ScheduledMask) and not isinstance(structure, NM):
                    self.summary.scalar(
                        f"{path}/threshold", mask.present_threshold, step=step
                    )
        self._metrics_writer.flush()
