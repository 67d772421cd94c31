"""The networks of the studies, in Keras 3 for any of its backends: RGB 0 to 255 in, logits out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allpacs.classify.network import build_network, set_state, state_of
from allpacs.domain.errors import ConfigFault

#: What `keras.applications` builds EfficientNet with.
_KERAS_SKIP_RATE = 0.2


def build(
    name: str,
    classes: int,
    input_px: int,
    *,
    dense_units: int,
    dropout: float,
    imagenet: bool = False,
    seed: int = 0,
    activation: str = "silu",
    pooling: str = "last",
    size_path: bool = False,
) -> Any:
    """Return a network.

    Parameters
    ----------
    imagenet:
        Start from the weights that Keras downloads, where the network has such.

    Raises
    ------
    ConfigFault
        There is no such network, or its weights cannot be had; the message names the alternatives.
    """
    import keras

    keras.utils.set_random_seed(seed)
    if name not in _NETWORKS:
        raise ConfigFault(f"no network is named {name!r}: write one of {', '.join(_NETWORKS)}")
    if imagenet and name not in _KERAS:
        raise ConfigFault(f"{name} has no ImageNet weights in Keras: set network.weights to none or to a file")
    if activation != "silu" or pooling != "last" or size_path:
        if name != "efficientnetb3" or imagenet:
            raise ConfigFault(
                "network.activation, pooling and size_path are for efficientnetb3 without weights of Keras's own"
            )
        labels = [str(number) for number in range(classes)]
        return build_network(
            labels, input_px=input_px, dense_units=dense_units, dropout=dropout, activation=activation,
            pooling=pooling, size_path=size_path,
        )  # fmt: skip
    try:
        return _NETWORKS[name](classes, input_px, dense_units, dropout, "imagenet" if imagenet else None)
    except (OSError, ValueError) as fault:
        if not imagenet:
            raise
        raise ConfigFault(
            f"the ImageNet weights of {name} cannot be had ({fault}): download them where there is a network and "
            "give their file (--weights FILE), or start from lite2 or pbc (EfficientNetB3 only) or none"
        ) from fault


def set_skip_rate(model: Any, rate: float) -> None:
    """Set the chance that EfficientNet's last block is skipped in training; other networks skip none."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout) and layer.name.startswith("block"):
            layer.rate *= rate / _KERAS_SKIP_RATE


def _efficientnetb3(classes: int, input_px: int, dense_units: int, dropout: float, weights: str | None) -> Any:
    """The network that ships (paper section IV step 3)."""
    import keras

    labels = [str(number) for number in range(classes)]
    network = build_network(labels, input_px=input_px, dense_units=dense_units, dropout=dropout)
    if weights is not None:
        shape = (input_px, input_px, 3)
        started = keras.applications.EfficientNetB3(weights=weights, include_top=False, input_shape=shape)
        set_state(network, state_of(network) | state_of(started))
    return network


def _transferred(application: str, scaling: str) -> Callable[..., Any]:
    """Return a builder of one of Keras's networks under the head of study 2: pooling, dropout, dense."""

    def build_it(classes: int, input_px: int, dense_units: int, dropout: float, weights: str | None) -> Any:
        import keras

        del dense_units
        pictures = keras.Input((input_px, input_px, 3))
        if scaling == "caffe":  # blue first, the means of ImageNet taken away
            scaled = keras.layers.Normalization(axis=-1, mean=[103.939, 116.779, 123.68], variance=[1.0, 1.0, 1.0])(
                pictures[..., ::-1]
            )
        else:
            scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(pictures)
        backbone = getattr(keras.applications, application)(
            weights=weights, include_top=False, input_shape=(input_px, input_px, 3)
        )
        if weights is None:
            # MobileNetV2's averages follow over a thousand steps: a run of some hundred would be judged by what they
            # began with (measured: training accuracy 0.97, validation that of a constant).
            for layer in backbone.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = 0.9
        pooled = keras.layers.GlobalAveragePooling2D(name="avg_pool")(backbone(scaled))
        hidden = keras.layers.Dropout(dropout)(pooled)
        return keras.Model(pictures, keras.layers.Dense(classes, dtype="float32", name="head_logits")(hidden))

    return build_it


def _cad_all(classes: int, input_px: int, dense_units: int, dropout: float, weights: str | None) -> Any:
    """Study 1: convolution, ReLU, pooling, fully connected."""
    return _convolutional(classes, input_px, dense_units, dropout, weights, filters=(32, 64, 128))


def _tusar_cnn(classes: int, input_px: int, dense_units: int, dropout: float, weights: str | None) -> Any:
    """Study 2's own CNN."""
    return _convolutional(classes, input_px, dense_units, dropout, weights, filters=(16, 32, 64, 128))


def _convolutional(
    classes: int, input_px: int, dense_units: int, dropout: float, weights: str | None, *, filters: tuple[int, ...]
) -> Any:
    import keras
    from keras import layers

    del weights
    stack: list[Any] = [keras.Input((input_px, input_px, 3)), layers.Rescaling(1 / 255)]
    for width in filters:
        stack += [layers.Conv2D(width, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dense(dense_units, activation="relu"), layers.Dropout(dropout)]
    return keras.Sequential([*stack, layers.Dense(classes, dtype="float32", name="head_logits")])


def _alexnet(classes: int, input_px: int, dense_units: int, dropout: float, weights: str | None) -> Any:
    """Study 3: AlexNet (Krizhevsky et al. 2012), batch normalisation in place of local response normalisation."""
    import keras
    from keras import layers

    del weights
    stack: list[Any] = [keras.Input((input_px, input_px, 3)), layers.Rescaling(1 / 255)]
    for width, side, strides, pooled in ((96, 11, 4, True), (256, 5, 1, True), (384, 3, 1, False), (384, 3, 1, False),
                                         (256, 3, 1, True)):  # fmt: skip
        stack += [layers.Conv2D(width, side, strides, padding="same", activation="relu"), layers.BatchNormalization()]
        stack += [layers.MaxPooling2D(3, 2, padding="same")] if pooled else []
    stack += [layers.Flatten()]
    for _ in range(2):
        stack += [layers.Dense(dense_units, activation="relu"), layers.Dropout(dropout)]
    return keras.Sequential([*stack, layers.Dense(classes, dtype="float32", name="head_logits")])


_KERAS: dict[str, Callable[..., Any]] = {
    "efficientnetb3": _efficientnetb3,
    "mobilenetv2": _transferred("MobileNetV2", "unit"),
    "resnet50": _transferred("ResNet50", "caffe"),
    "vgg19": _transferred("VGG19", "caffe"),
}
_NETWORKS: dict[str, Callable[..., Any]] = _KERAS | {
    "cad-all": _cad_all,
    "tusar-cnn": _tusar_cnn,
    "alexnet": _alexnet,
}
