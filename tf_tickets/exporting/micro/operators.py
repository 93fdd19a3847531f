"""The operators of TensorFlow Lite Micro."""

from typing import Any

from tf_tickets.exporting.tflite import file, weights

# Builtin operators that the interpreter registered in October 2026.
_REGISTERED = """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL
    BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION
    CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
    DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV
    FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF
    L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT
    LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
    NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX
    REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2
    ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT
    SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH
    TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE
    ZEROS_LIKE
"""
_CUSTOM = """
    CIRCULAR_BUFFER SignalDelay SignalEnergy SignalFftAutoScale SignalFilterBank
    SignalFilterBankLog SignalFilterBankSpectralSubtraction SignalFilterBankSquareRoot
    SignalFramer SignalIrfft SignalOverlapAdd SignalPCAN SignalRfft SignalStacker
    SignalWindow TFLM_DECODE TFLite_Detection_PostProcess ethos-u
"""
# Types that registered operators refuse. Keras layers that lead to them: Embedding
# (SELECT_V2), softplus and mish (EXP), UpSampling2D with bilinear interpolation.
_REFUSED = {
    "EXP": {"INT8", "INT16"},
    "RESIZE_BILINEAR": {"INT16"},
    "SELECT_V2": {"INT32", "INT64"},
}


def unsupported(content: bytes) -> list[str]:
    """Returns the operators of a file that TensorFlow Lite Micro does not have.

    Args:
        content: Content of a `.tflite` file.

    Returns:
        Sorted list of names, with the type of the input where only that is refused.
        An application must register each operator of the file, and some kernels refuse
        further types: only running the file proves that it runs.

    Example:

    >>> unsupported(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    model = file.read(content)
    with file.refusing_damage():
        found = {
            _missing(model, graph, operator)
            for graph in model.subgraphs
            for operator in graph.operators
        }
    return sorted(found - {""})


def _missing(model: Any, graph: Any, operator: Any) -> str:
    name = weights.operator_name(model, operator)
    if name == "CUSTOM":
        code = model.operatorCodes[operator.opcodeIndex].customCode or b""
        name = code.decode()
        return "" if name in _CUSTOM.split() else f"{name!r} (custom)"
    if name not in _REGISTERED.split():
        return name
    kinds = {weights.type_name(graph, index) for index in operator.inputs if index >= 0}
    refused = sorted(kinds & _REFUSED.get(name, set()))
    return f"{name} ({', '.join(refused).lower()})" if refused else ""
