"""The network and its gradients as one TensorFlow graph of which OpenVINO, too, can convert every operation.

TensorFlow's own gradients use operations for which OpenVINO's converter has no rule (of depthwise convolutions,
sigmoids, biases and broadcast shapes). Here each is written anew with forward operations alone, and only with respect
to what flows through the network, never to its weights. TensorFlow and OpenVINO run the same graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allpacs.classify.aggregate import LABELS
from allpacs.classify.engine import LayerGradients

#: Layers whose maps explain an answer: the last ones at a sixteenth and a thirty-second of the crop's side. Maps at an
#: eighth are mostly noise.
_OF_LAST = ("block6a_expand_activation", "top_activation")
#: The same where the head sees several levels and the network ends at a sixteenth.
_OF_LEVELS = ("block4e_add", "block5e_add")


def explaining_layers(network: Any) -> tuple[str, ...]:
    """Return the names of the layers whose maps explain a network's answer."""
    names = {layer.name for layer in network.layers}
    return _OF_LAST if set(_OF_LAST) <= names else _OF_LEVELS


def explaining_graph(tf: Any, network: Any, side: int) -> Any:
    """Return a ``tf.function`` from cells and their labels' signs to the layers' activations and gradients.

    It takes ``uint8`` cells (n, side, side, 3) and ``float32`` (n, outputs), see `signs`; it returns the logits
    (n, outputs), the activations of `explaining_layers` in their order, then the gradients, each ``float32``
    (n, height, width, channels). It is traced at its first use.
    """
    rules = _rules(tf)
    layers = [network.get_layer(name).output for name in explaining_layers(network)]
    with_layers = type(network)(network.input, [*layers, network.output])
    outputs = int(network.output.shape[-1])

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[
            tf.TensorSpec([None, side, side, 3], tf.uint8, name="batch"),
            tf.TensorSpec([None, outputs], tf.float32, name="signs"),
        ]
    )
    def explain(batch: Any, signs: Any) -> list[Any]:
        with tf.compat.v1.get_default_graph().gradient_override_map(rules):
            *activations, logits = with_layers(tf.cast(batch, tf.float32), training=False)
        gradients = tf.gradients(logits, activations, grad_ys=tf.cast(signs, logits.dtype))
        return [tf.identity(tf.cast(one, tf.float32)) for one in (logits, *activations, *gradients)]

    return explain


def signs(labels: NDArray[np.int64], outputs: int) -> NDArray[np.float32]:
    """Return ``float32`` (n, outputs): 1 where a cell's label stands, -1 at the other label, 0 at other outputs."""
    of_labels = 2.0 * np.eye(len(LABELS), dtype=np.float32)[labels] - 1.0
    return np.pad(of_labels, ((0, 0), (0, outputs - len(LABELS)))).astype(np.float32)


def paired_layers(answer: Sequence[NDArray[np.float32]]) -> tuple[LayerGradients, ...]:
    """Return what `explaining_graph` answers after the logits layer by layer, in the order of `explaining_layers`."""
    half = len(answer) // 2
    return tuple(LayerGradients(a, g) for a, g in zip(answer[:half], answer[half:], strict=True))


@cache
def _rules(tf: Any) -> dict[str, str]:
    """Register how each operation's gradient is written; return its name by the operation's."""

    def backward_of_convolution(operation: Any, gradient: Any) -> tuple[Any, None]:
        pictures, kernel = operation.inputs
        strides, padding = operation.get_attr("strides"), operation.get_attr("padding").decode()
        back = tf.compat.v1.nn.conv2d_backprop_input(tf.shape(pictures), kernel, gradient, strides, padding)
        return back, None

    def backward_of_depthwise(operation: Any, gradient: Any) -> tuple[Any, None]:
        # A depthwise convolution with the kernel turned round, over the gradient spread out by the stride.
        pictures, kernel = operation.inputs
        stride = operation.get_attr("strides")[1]
        size, channels = int(kernel.shape[0]), int(pictures.shape[3])
        (height, width), (rows, columns) = pictures.shape[1:3], gradient.shape[1:3]
        if stride > 1:
            gaps = [[0, 0], [0, 0], [0, stride - 1], [0, 0], [0, stride - 1], [0, 0]]
            spread = tf.pad(tf.reshape(gradient, [-1, rows, 1, columns, 1, channels]), gaps)
            spread = tf.reshape(spread, [-1, rows * stride, columns * stride, channels])
            rows, columns = (rows - 1) * stride + 1, (columns - 1) * stride + 1
            gradient = spread[:, :rows, :columns]
        before = 0
        if operation.get_attr("padding") == b"SAME":
            before = max(rows - 1 + size - height, 0) // 2
        first = size - 1 - before
        margins = [[0, 0], [first, height + before - rows], [first, width + before - columns], [0, 0]]
        turned = tf.reverse(tf.reverse(kernel, [0]), [1])  # OpenVINO reverses one axis at a time
        return tf.nn.depthwise_conv2d(tf.pad(gradient, margins), turned, [1, 1, 1, 1], "VALID"), None

    def backward_of_mean(operation: Any, gradient: Any) -> tuple[Any, None]:
        pictures = operation.inputs[0]
        _, height, width, channels = pictures.shape
        shared = tf.reshape(gradient, [-1, 1, 1, channels]) / tf.cast(height * width, gradient.dtype)
        return tf.broadcast_to(shared, tf.shape(pictures)), None

    def summed(gradient: Any, like: Any) -> Any:
        """Sum a gradient over the axes along which a factor or summand was repeated."""
        lead = gradient.shape.rank - like.shape.rank
        axes = [*range(lead)]
        axes += [lead + at for at, n in enumerate(like.shape) if n == 1 and gradient.shape[lead + at] != 1]
        if not axes:
            return gradient
        total = tf.reduce_sum(gradient, axes, keepdims=True)
        return tf.squeeze(total, [*range(lead)]) if lead else total

    def backward_of_product(operation: Any, gradient: Any) -> tuple[Any, Any]:
        one, other = operation.inputs
        return summed(gradient * other, one), summed(gradient * one, other)

    def backward_of_sum(operation: Any, gradient: Any) -> tuple[Any, Any]:
        one, other = operation.inputs
        return summed(gradient, one), summed(gradient, other)

    def backward_of_difference(operation: Any, gradient: Any) -> tuple[Any, Any]:
        one, other = operation.inputs
        return summed(gradient, one), summed(-gradient, other)

    def backward_of_root(operation: Any, gradient: Any) -> Any:
        return gradient / (2.0 * operation.outputs[0])

    def backward_of_joining(operation: Any, gradient: Any) -> list[Any]:
        *parts, _ = operation.inputs  # the axis is the last one
        widths = [int(part.shape[-1]) for part in parts]
        return [*tf.split(gradient, widths, axis=-1), None]

    def backward_of_bias(operation: Any, gradient: Any) -> tuple[Any, None]:
        del operation
        return gradient, None

    def backward_of_relu(operation: Any, gradient: Any) -> Any:
        return tf.where(operation.outputs[0] > 0, gradient, tf.zeros_like(gradient))

    def backward_of_relu6(operation: Any, gradient: Any) -> Any:
        answer = operation.outputs[0]
        return tf.where(tf.logical_and(answer > 0, answer < 6), gradient, tf.zeros_like(gradient))

    def backward_of_sigmoid(operation: Any, gradient: Any) -> Any:
        share = operation.outputs[0]
        return gradient * share * (1.0 - share)

    written = {
        "Conv2D": backward_of_convolution,
        "DepthwiseConv2dNative": backward_of_depthwise,
        "Mean": backward_of_mean,
        "Mul": backward_of_product,
        "AddV2": backward_of_sum,
        "Sub": backward_of_difference,
        "Sqrt": backward_of_root,
        "ConcatV2": backward_of_joining,
        "BiasAdd": backward_of_bias,
        "Relu": backward_of_relu,
        "Relu6": backward_of_relu6,
        "Sigmoid": backward_of_sigmoid,
    }
    for name, rule in written.items():
        tf.RegisterGradient(f"Allpacs{name}")(rule)
    return {name: f"Allpacs{name}" for name in written}
