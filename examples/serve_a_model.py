"""Serve a SavedModel over HTTP, with the path and the JSON of TensorFlow Serving.

    python examples/serve_a_model.py DIRECTORY [PORT]

    curl -d '{"instances": [[[[0.0], ...]]]}' localhost:8501/v1/models/model:predict

Only TensorFlow is needed: a model that `tt.export` has written loads like any other,
and TensorFlow Serving accepts the same folder (as MODEL/1).
"""

import http.server
import json
import sys

import numpy as np
import tensorflow as tf

# The largest request in bytes, and how long to wait for one in seconds.
MAX_BODY = 32 * 2**20
TIMEOUT = 30
BAD_REQUEST = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers POST /v1/models/model:predict; the server holds the model."""

    timeout = TIMEOUT

    def do_POST(self):
        if self.path != "/v1/models/model:predict":
            self.answer(404, {"error": f"Not found: {self.path}"})
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.answer(411, {"error": f"Content-Length must be 0 to {MAX_BODY}"})
        elif len(length) > 20 or int(length) > MAX_BODY:
            self.answer(413, {"error": f"A request may have {MAX_BODY} bytes"})
        else:
            self.answer(*self.predictions(self.rfile.read(int(length))))

    def predictions(self, body):
        """Returns the status and the content of an answer."""
        try:
            instances = json.loads(body, parse_constant=refuse)["instances"]
            return 200, {"predictions": predict(self.server.model, instances)}
        except (*BAD_REQUEST, tf.errors.OpError) as error:
            return 400, {"error": f"{type(error).__name__}: {error}"}

    def answer(self, status, content):
        try:
            body = json.dumps(content, allow_nan=False).encode()
        except ValueError:
            status = 500
            body = b'{"error": "A prediction is NaN or infinite, unknown to JSON"}'
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def refuse(constant):
    """Refuses NaN and Infinity, which Python reads but JSON does not have."""
    raise ValueError(f"{constant} is not a number in JSON")


def predict(model, instances):
    """Returns one prediction for each instance; a single output has no name."""
    serve = model.signatures["serving_default"]
    [(name, spec)] = serve.structured_input_signature[1].items()
    x = tf.constant(np.asarray(instances, spec.dtype.as_numpy_dtype))
    outputs = {key: value.numpy().tolist() for key, value in serve(**{name: x}).items()}
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    return [
        dict(zip(outputs, row, strict=True))
        for row in zip(*outputs.values(), strict=True)
    ]


def server(directory, port):
    serving = http.server.ThreadingHTTPServer(("localhost", port), Handler)
    serving.model = tf.saved_model.load(directory)
    return serving


if __name__ == "__main__":
    with server(
        sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8501
    ) as serving:
        print(f"http://localhost:{serving.server_port}/v1/models/model:predict")
        serving.serve_forever()
