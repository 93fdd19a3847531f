"""A training step of one's own, on TensorFlow and on JAX."""

import keras


class OwnStep(keras.Model):
    """A model whose `train_step` minimizes `loss_of(data)`.

    A subclass defines `loss_of(call, data)`, where `call(inputs)` calls the model.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mean_loss = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.mean_loss]

    def train_step(self, *arguments):
        if keras.config.backend() == "jax":
            return self._jax_step(*arguments)
        return self._tensorflow_step(*arguments)

    def _tensorflow_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.loss_of(lambda inputs: self(inputs, training=True), data)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}

    def _jax_step(self, state, data):
        import jax

        trainable, fixed, optimizer, metrics = state

        def loss_of(trainable, fixed):
            def call(inputs):
                nonlocal fixed
                outputs, fixed = self.stateless_call(
                    trainable, fixed, inputs, training=True
                )
                return outputs

            return self.loss_of(call, data), fixed

        compute = jax.value_and_grad(loss_of, has_aux=True)
        (loss, fixed), gradients = compute(trainable, fixed)
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer, gradients, trainable
        )
        metrics = self.mean_loss.stateless_update_state(metrics, loss)
        logs = {"loss": self.mean_loss.stateless_result(metrics)}
        return logs, (trainable, fixed, optimizer, metrics)
