"""A step counter for masks that runs inside the compiled step."""

import keras
from keras import ops


class Clock(keras.layers.Layer):
    """Counts the training steps of a round.

    A forward pass in training mode sets `now` to `sealed + 1`. Collecting the losses,
    which happens once in every training step, sets `sealed` to `now`. A layer called
    twice in a step is therefore counted once, and evaluation is not counted.

    Example:

    >>> clock = Clock()
    >>> clock.build(())
    >>> clock.start(steps=10, epochs=2)
    >>> clock.tick(), clock.tick(), clock.seal()
    (None, None, None)
    >>> clock.steps_done
    1
    """

    def build(self, shape):
        self.sealed = self._counter("sealed", 0)
        self.now = self._counter("now", 0)
        # 0 steps mean that no round has started.
        self.steps = self._counter("steps", 0)
        self.epochs = self._counter("epochs", 1)

    def _counter(self, name, value):
        return self.add_weight(
            shape=(),
            # On a GPU, TensorFlow places integer variables only if they are 64-bit.
            dtype="int",
            initializer=keras.initializers.Constant(value),
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    def start(self, steps: int, epochs: int) -> None:
        """Resets the counter to step 0 of a new round.

        Args:
            steps: Number of training steps in the round.
            epochs: Number of epochs in the round.
        """
        self.sealed.assign(0)
        self.now.assign(0)
        self.steps.assign(steps)
        self.epochs.assign(epochs)

    def tick(self) -> None:
        """Records a forward pass in training mode."""
        self.now.assign(self.sealed + 1)

    def seal(self) -> None:
        """Ends a step; called when its losses are collected."""
        self.sealed.assign(self.now)

    @property
    def ticked(self) -> object:
        """Whether a forward pass in training mode was recorded but not sealed."""
        return self.now > self.sealed

    @property
    def step(self) -> object:
        """The zero-based step of the last forward pass in training mode."""
        return ops.maximum(self.now - 1, 0)

    @property
    def steps_done(self) -> int:
        """The number of completed training steps since the start of the round."""
        return int(ops.convert_to_numpy(self.sealed.value))
