"""Layers that name their prunable weights themselves."""

import keras


class PrunableLayer:
    """Base class of custom layers that say which of their weights are pruned.

    The method alone is enough; a layer does not have to be of this class. `tf_tickets`
    asks it in `prune_low_magnitude` and in `tf_tickets.wrap`. Custom layers without it
    are pruned too, by the general rule: trainable floating weights of rank 2 or more
    that are no biases, normalization parameters or embeddings. In
    tensorflow-model-optimization they are refused.

    Example:

    >>> class Scaled(keras.layers.Dense, PrunableLayer):
    ...     def get_prunable_weights(self):
    ...         return [self.kernel, self.bias]
    >>> model = keras.Sequential([keras.Input((3,)), Scaled(2)])
    >>> model = tt.tfmot.prune_low_magnitude(model)
    tf_tickets: 2 kernels of 8 weights are prunable; 0 variables of 0 weights are not.
    """

    def get_prunable_weights(self) -> list[keras.Variable]:
        """Returns the variables of the built layer that are pruned."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `get_prunable_weights`, which returns "
            "the variables to prune, for example [self.kernel]."
        )
