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


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers POST /v1/models/model:predict; the server holds the model."""

    def do_POST(self):
        if self.path != "/v1/models/model:predict":
            self.answer(404, {"error": f"Not found: {self.path}"})
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            predictions = predict(self.server.model, json.loads(body)["instances"])
        except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            self.answer(400, {"error": f"{type(error).__name__}: {error}"})
            return
        self.answer(200, {"predictions": predictions})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
