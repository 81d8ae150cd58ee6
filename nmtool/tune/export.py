"""One head as a file of its own: an ONNX graph from features to logits, or its plain tensors.

The graph holds the scaling, too. It is built with ``onnx.helper`` from the head's tensors: nothing is traced. ``knn``
has no network to export, and the heads of ``turn``, ``fft`` and ``lora`` belong to backbones that they fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.artifact.format import canonical
from nmtool.errors import DataError, UnavailableError
from nmtool.tune.plan import Run
from nmtool.tune.restored import Heads

FORMATS = ("onnx", "torch")
# As old as can be: 15 is the first under which BatchNormalization says that it is not training.
_OPSET, _IR = 15, 8
_EPS = 1e-5  # of BatchNorm, as in ``mlp``


def tensors_of(heads: Heads, run: Run) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a run by their names without ``run_0000.``; raises ``DataError`` where there is no network."""
    from nmtool.artifact.heads import run_name

    if run.neighbours is not None:
        raise DataError(
            f"run {run.index} is of method knn: it is its training rows",
            "a head with weights",
            "nmtool predict asks it; export a run of lp, mlp or nmtune",
        )
    start = f"{run_name(run.index)}."
    return {k.removeprefix(start): v for k, v in heads.tensors.items() if k.startswith(start)}


def facts_of(heads: Heads, run: Run) -> dict[str, Any]:
    """What a reader of the file needs: classes, dimension, encoder, settings, and the artifact's content."""
    return {
        "classes": list(heads.classes),
        "dim": heads.dim,
        "encoder": dict(heads.encoder),
        "run": run.to_json(),
        "heads": heads.artifact.manifest.content,
    }


def torch_bytes(heads: Heads, run: Run) -> bytes:
    """A safetensors file of the head's tensors, in PyTorch's layout; its metadata ``nmtool`` is JSON."""
    from safetensors.numpy import save

    meta = canonical(facts_of(heads, run)).decode()
    return bytes(save(tensors_of(heads, run), metadata={"nmtool": meta}))


def onnx_bytes(heads: Heads, run: Run) -> bytes:
    """An ONNX model: input ``features`` float32 [N, D], outputs ``logits`` and ``probabilities`` float32 [N, C].

    Raises:
        UnavailableError: the package onnx is not there.
        DataError: a head that is no network, or too large for one ONNX file (2 GB).
    """
    try:
        import onnx
    except ImportError:
        raise UnavailableError("the package onnx is not installed", "", "pip install onnx") from None
    graph = _Graph(tensors_of(heads, run))
    logits = _network(graph, run)
    graph.add("Identity", [logits], out="logits")
    graph.add("Softmax", ["logits"], out="probabilities", axis=1)
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    classes = heads.outputs
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"nmtool-{run.method}",
            [helper.make_tensor_value_info("features", floats, ["N", heads.dim])],
            [helper.make_tensor_value_info(name, floats, ["N", classes]) for name in ("logits", "probabilities")],
            initializer=graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="nmtool",
    )
    helper.set_model_props(model, {"nmtool": canonical(facts_of(heads, run)).decode()})
    if model.ByteSize() >= 2**31:
        raise DataError(
            f"run {run.index} takes {model.ByteSize()} bytes", "below 2 GB in one ONNX file", "--format torch"
        )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and constants, as they are added."""

    def __init__(self, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        self.tensors = tensors
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def add(self, operator: str, inputs: list[str], out: str = "", **attributes: Any) -> str:
        """A node; returns its output's name."""
        from onnx import helper

        name = out or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, name: str, value: npt.ArrayLike | None = None) -> str:
        """A tensor of the head, or a number; returns its name."""
        from onnx import numpy_helper

        array = self.tensors[name] if value is None else np.asarray(value, dtype=np.float32)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _network(g: _Graph, run: Run) -> str:
    """Scaling, transformation and classifier; returns the name of the logits."""
    x = _scaled(g, run.probe.scale)
    z = x if run.shape is None else _transformed(g, run, x)
    return g.add("Gemm", [z, g.constant("classifier.weight"), g.constant("classifier.bias")], transB=1)


def _scaled(g: _Graph, kind: str) -> str:
    if kind == "l2":
        norm = g.add("ReduceL2", ["features"], axes=[1], keepdims=1)
        # rows of zeros stay zero
        zero = g.add("Equal", [norm, g.constant("zero", 0.0)])
        return g.add("Div", ["features", g.add("Where", [zero, g.constant("one", 1.0), norm])])
    if kind == "standardize":
        centred = g.add("Sub", ["features", g.constant("scale.mean")])
        return g.add("Div", [centred, g.constant("scale.std")])
    return "features"


def _transformed(g: _Graph, run: Run, x: str) -> str:
    shape = run.shape
    assert shape is not None
    h = x
    for i in range(shape.layers):
        h = g.add("Gemm", [h, g.constant(f"mlp.{i}.weight"), g.constant(f"mlp.{i}.bias")], transB=1)
        if i == shape.layers - 1:
            break
        if shape.batch_norm:
            names = [g.constant(f"norm.{i}.{part}") for part in ("scale", "bias", "mean", "var")]
            h = g.add("BatchNormalization", [h, *names], epsilon=_EPS)
        h = _activated(g, shape.activation, h)
    if not shape.residual:
        return h
    return g.add("Add", [g.add("Mul", [g.constant("residual.scale"), h]), x])


def _activated(g: _Graph, activation: str, h: str) -> str:
    """ONNX's Gelu is newer than the rest (opset 20): it is h / 2 * (1 + erf(h / sqrt 2))."""
    if activation == "gelu":
        names = {c.name for c in g.initializers}
        root, one, half = (
            name if name in names else g.constant(name, value)
            for name, value in (("root_half", 0.5**0.5), ("one", 1.0), ("half", 0.5))
        )
        share = g.add("Add", [g.add("Erf", [g.add("Mul", [h, root])]), one])
        return g.add("Mul", [g.add("Mul", [h, half]), share])
    return h if activation == "none" else g.add({"relu": "Relu", "tanh": "Tanh"}[activation], [h])
