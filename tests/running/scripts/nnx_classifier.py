"""A convolutional classifier in Flax NNX, with batch norm and dropout, trained by optax.adam on synthetic images."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class CNN(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 8, kernel_size=(3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.linear = nnx.Linear(8 * 4 * 4, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        return self.linear(self.dropout(x.reshape(x.shape[0], -1)))


def loss_fn(model, batch):
    logits = model(batch["image"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    return loss, logits


@nnx.jit
def train_step(model, optimizer, metrics, batch):
    (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])
    optimizer.update(model, grads)
    return loss


def main():
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(4, 8, 8, 1))
    labels = rng.integers(0, 4, size=256)
    images = (prototypes[labels] + 0.8 * rng.normal(size=(256, 8, 8, 1))).astype(np.float32)

    model = CNN(rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))

    model.train()
    for epoch in range(3):
        for start in range(0, 256, 64):
            batch = {"image": jnp.asarray(images[start : start + 64]), "label": jnp.asarray(labels[start : start + 64])}
            loss = train_step(model, optimizer, metrics, batch)
        print(f"epoch {epoch}: accuracy {float(metrics.compute()['accuracy']):.4f}")
        metrics.reset()
    print(f"last loss {float(loss):.4f}")


if __name__ == "__main__":
    main()
