"""Names that options accept, listed here because help must not import Keras.

A test compares them with the library's names.
"""

DATASETS = ("digits", "mnist1d", "mnist", "cifar10")
NETWORKS = (
    *("lenet300", "conv2", "conv4", "conv6"),
    *("resnet20", "resnet18", "resnet8", "vgg16"),
)
SCALINGS = ("none", "standard", "unit")
TASKS = ("classification", "regression")
ALLOCATIONS = ("global", "uniform", "erk")
METHODS = (
    *("cs", "iss", "imp", "dlth", "unilth", "unidlth", "threshold"),
    *("kdlts", "snip", "grasp", "synflow"),
)
METHODS_HELP = """\
methods:
  imp        iterative magnitude pruning
  threshold  Han's thresholds
  cs         Continuous Sparsification
  iss        Iterative Stochastic Sparsification
  dlth, unilth, unidlth    growing penalties on the weights to be removed
  kdlts      learned masks with distillation from teachers
  snip, grasp, synflow     pruning at initialization
"""
EXECUTORS = ("serial", "ray", "vmap")
# Environment variables that limit the threads of a process.
THREADS = (
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
)
PRECISIONS = ("float32", "float16", "dynamic", "int8", "int16x8")
# Those that are calibrated on examples.
CALIBRATED = ("int8", "int16x8")
MICRO = "tflite-micro"
# Export format by the suffix of the path; a path without one is a folder.
FORMATS = {
    "": "saved_model",
    ".tflite": "tflite",
    ".keras": "keras",
    ".onnx": "onnx",
    ".cc": MICRO,
}
