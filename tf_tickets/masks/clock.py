"""Which step of its round a learned mask is at, counted in the compiled step."""

import keras
from keras import ops


class Clock(keras.layers.Layer):
    """Counts training steps, however often a layer is called within one.

    A forward pass in training mode moves `now` to one after `sealed`; collecting
    the losses, which every training step does once, moves `sealed` up to `now`.
    A layer that is called twice in a step therefore counts once, and evaluation
    does not count at all.

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
        # No steps: not started, so that time stands at the beginning.
        self.steps = self._counter("steps", 0)
        self.epochs = self._counter("epochs", 1)

    def _counter(self, name, value):
        return self.add_weight(
            shape=(),
            # Of TensorFlow's integers only those of 64 bits can be on a GPU.
            dtype="int",
            initializer=keras.initializers.Constant(value),
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    def start(self, steps: int, epochs: int) -> None:
        """Goes back to step 0 of a round of so many steps in so many epochs."""
        self.sealed.assign(0)
        self.now.assign(0)
        self.steps.assign(steps)
        self.epochs.assign(epochs)

    def tick(self) -> None:
        """A forward pass in training mode."""
        self.now.assign(self.sealed + 1)

    def seal(self) -> None:
        """The losses of a step were collected: its forward pass is over."""
        self.sealed.assign(self.now)

    @property
    def ticked(self) -> object:
        """Whether a forward pass in training mode has not been sealed yet."""
        return self.now > self.sealed

    @property
    def step(self) -> object:
        """The step, from 0, of the last forward pass in training mode."""
        return ops.maximum(self.now - 1, 0)

    @property
    def steps_done(self) -> int:
        """How many steps were trained since the start."""
        return int(ops.convert_to_numpy(self.sealed.value))
