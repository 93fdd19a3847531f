"""Builds small `.tflite` files operator by operator, without a converter."""

import numpy as np

from tf_tickets.exporting.tflite import file

SHAPE = (1, 4, 4, 8)
WEIGHTS = {"float32": "float32", "int8": "int8", "int16": "int8"}


class Chain:
    """A chain of operators; each reads the output of the one before.

    Args:
        kind: Dtype of the activations: "float32", "int8" or "int16".
        shape: Shape of the input.
    """

    def __init__(self, kind="int8", shape=SHAPE):
        self.classes = file.schema()
        self.kind = kind
        self.model = self.classes.ModelT(
            version=3,
            operatorCodes=[],
            buffers=[self.classes.BufferT()],
            description=b"built by hand",
            metadata=[],
            metadataBuffer=[],
            signatureDefs=[],
        )
        self.graph = self.classes.SubGraphT(tensors=[], operators=[], name=b"main")
        self.model.subgraphs = [self.graph]
        self.last = self.activation(shape)
        self.graph.inputs = [self.last]

    def activation(self, shape):
        quantization = None
        if self.kind != "float32":
            quantization = self.classes.QuantizationParametersT(
                scale=np.array([0.1], np.float32),
                zeroPoint=np.array([3 if self.kind == "int8" else 0]),
            )
        tensor = self.tensor(f"activation_{len(self.graph.tensors)}", shape, self.kind)
        tensor.quantization = quantization
        return len(self.graph.tensors) - 1

    def tensor(self, name, shape, dtype, buffer=0):
        tensor = self.classes.TensorT(
            name=name.encode(),
            shape=np.array(shape, np.int32),
            type=getattr(self.classes.TensorType, dtype.upper()),
            buffer=buffer,
        )
        self.graph.tensors.append(tensor)
        return tensor

    def buffer(self, data):
        self.model.buffers.append(self.classes.BufferT(data=data))
        return len(self.model.buffers) - 1

    def constant(self, values, axis=None, buffer=None):
        """Adds a constant, quantized by channel along an axis."""
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        tensor = self.tensor(
            f"constant_{len(self.graph.tensors)}",
            values.shape,
            values.dtype.name,
            self.buffer(data) if buffer is None else buffer,
        )
        if values.dtype == np.int8:
            channels = 1 if axis is None else values.shape[axis]
            tensor.quantization = self.classes.QuantizationParametersT(
                scale=np.linspace(0.01, 0.02, channels, dtype=np.float32),
                zeroPoint=np.zeros(channels, np.int64),
                quantizedDimension=axis or 0,
            )
        return len(self.graph.tensors) - 1

    def operator(self, name, inputs, shape, options=None):
        """Adds an operator whose output is the next input."""
        kind = 0
        if options is not None:
            names = vars(self.classes.BuiltinOptions)
            kind = names[type(options).__name__.removesuffix("T")]
        self.last = self.activation(shape)
        self.graph.operators.append(
            self.classes.OperatorT(
                opcodeIndex=self.code(name),
                inputs=np.array(inputs, np.int32),
                outputs=np.array([self.last], np.int32),
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )
        return self

    def code(self, name):
        number = getattr(self.classes.BuiltinOperator, name)
        self.model.operatorCodes.append(
            self.classes.OperatorCodeT(
                builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=1
            )
        )
        return len(self.model.operatorCodes) - 1

    def shape(self):
        return tuple(int(size) for size in self.graph.tensors[self.last].shape)

    # Each kernel is an array, or the index of a constant.

    def dense(self, kernel):
        index, shape = self.kernel(kernel, 0)
        options = self.classes.FullyConnectedOptionsT()
        return self.operator(
            "FULLY_CONNECTED", [self.last, index, -1], (1, shape[0]), options
        )

    def convolution(self, kernel):
        index, shape = self.kernel(kernel, 0)
        options = self.classes.Conv2DOptionsT(strideH=1, strideW=1)
        output = (*self.shape()[:3], shape[0])
        inputs = [self.last, index, self.bias(shape[0])]
        return self.operator("CONV_2D", inputs, output, options)

    def depthwise(self, kernel):
        index, shape = self.kernel(kernel, 3)
        options = self.classes.DepthwiseConv2DOptionsT(
            strideH=1, strideW=1, depthMultiplier=shape[3] // self.shape()[3]
        )
        output = (*self.shape()[:3], shape[3])
        inputs = [self.last, index, self.bias(shape[3])]
        return self.operator("DEPTHWISE_CONV_2D", inputs, output, options)

    def transposed(self, kernel):
        index, shape = self.kernel(kernel, 0)
        options = self.classes.TransposeConvOptionsT(strideH=1, strideW=1)
        output = (*self.shape()[:3], shape[0])
        sizes = self.constant(np.array(output, np.int32))
        return self.operator(
            "TRANSPOSE_CONV", [sizes, index, self.last], output, options
        )

    def bias(self, channels):
        dtype = {"float32": "float32", "int8": "int32", "int16": "int64"}[self.kind]
        index = self.constant(np.arange(channels).astype(dtype))
        if self.kind != "float32":
            self.graph.tensors[
                index
            ].quantization = self.classes.QuantizationParametersT(
                scale=np.linspace(0.001, 0.002, channels, dtype=np.float32),
                zeroPoint=np.zeros(channels, np.int64),
            )
        return index

    def kernel(self, kernel, axis):
        if isinstance(kernel, np.ndarray):
            return self.constant(kernel, axis), kernel.shape
        return kernel, tuple(int(size) for size in self.graph.tensors[kernel].shape)

    def content(self):
        self.graph.outputs = [self.last]
        return file.write(self.model)


def values(shape, zeros, kind="int8", seed=0):
    """Returns weights with an exact fraction of zeros."""
    rng = np.random.default_rng(seed)
    if kind == "float32":
        array = rng.normal(size=shape).astype("float32")
    else:
        array = rng.integers(1, 128, shape).astype("int8") * rng.choice([-1, 1], shape)
    array = array.astype(WEIGHTS[kind])
    array.reshape(-1)[rng.permutation(array.size)[: round(zeros * array.size)]] = 0
    return array


def matrix(rows, columns, zeros, kind="int8"):
    """Returns a file with one fully connected layer."""
    kernel = values((rows, columns), zeros, kind)
    return Chain(kind, (1, columns)).dense(kernel).content()


def mixed(kind="int8", zeros=0.8):
    """Returns a file with one operator of each kind that reads weights."""
    chain = Chain(kind)
    chain.convolution(values((32, 3, 3, 8), zeros, kind))
    chain.depthwise(values((1, 3, 3, 64), zeros, kind, 1))
    chain.transposed(values((16, 3, 3, 64), zeros, kind, 2))
    return chain.convolution(values((12, 1, 1, 16), zeros, kind, 3)).content()


def inputs(kind="int8", shape=SHAPE, count=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, *shape[1:])
    if kind == "float32":
        return rng.normal(size=shape).astype("float32")
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(kind)
