"""A trained model as an ONNX file, for other languages: (batch, T) int64 ids -> (batch, V) float32 logits."""

import json
from pathlib import Path

import numpy as np
import torch

from namemlp.errors import UserError
from namemlp.network import eval_mode
from namemlp.share.model import Model, check_mlp, random_contexts

OPSET, MAX_DIFFERENCE = 17, 1e-3  # of logits, between ONNX Runtime and torch


def export_onnx(model: Model, path: Path) -> None:
    """Write the file, once ONNX Runtime gives the network's logits. Raises: UserError: it does not, or is missing."""
    check_mlp(model)
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise UserError("--to onnx needs the packages onnx and onnxruntime: pip install 'namemlp[onnx]'") from error
    network, V, T = model.network, len(model.vocabulary), model.context_length
    weights = {name: tensor.detach().float().numpy() for name, tensor in network.state_dict().items()}
    weights["shape"] = np.array([-1, T * network.embedding.embedding_dim])
    nodes = [
        helper.make_node("Gather", ["embedding.weight", "ids"], ["embedded"]),  # (batch, T, C)
        helper.make_node("Reshape", ["embedded", "shape"], ["flat"]),  # (batch, T * C)
        helper.make_node("Gemm", ["flat", "hidden.weight", "hidden.bias"], ["sums"], transB=1),  # (batch, H)
        helper.make_node("Tanh", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "output.weight", "output.bias"], ["logits"], transB=1),  # (batch, V)
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", T])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", V])
    arrays = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "namemlp", [ids], [logits], arrays)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    vocabulary = json.dumps(["", *str(model.vocabulary)[1:]])
    helper.set_model_props(proto, {"vocabulary": vocabulary, "context_length": str(T)})
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    contexts = random_contexts(model)
    [theirs] = session.run(None, {"ids": contexts.numpy()})
    with eval_mode(network):
        difference = float((network(contexts) - torch.from_numpy(theirs)).abs().max())
    if not difference <= MAX_DIFFERENCE:
        raise UserError(f"the logits of ONNX Runtime differ by {difference:.3g} from the model's: too much")
    path.write_bytes(proto.SerializeToString())
