"""Which operators a graph may hold, so that TensorRT's parser takes it.

From NVIDIA's table (onnx-tensorrt `docs/operators.md`, release/10.1-GA, opset 9-20), less those
that parse but cost data-dependent shapes (NonZero, Loop, If, Scan). Necessary, not sufficient: the
parity check over shapes that were not traced is what catches a frozen size.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from ume_core.errors import CheckpointError

ALLOWED = frozenset(
    "Abs Add And Cast Ceil Clip Concat Constant ConstantOfShape Conv Cos CumSum Div Einsum Equal"
    " Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater"
    " GreaterOrEqual Identity LayerNormalization Less LessOrEqual Log MatMul Max Mean Min Mod Mul"
    " Neg Not Or Pow Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"
    " Relu Reshape ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Split Sqrt"
    " Squeeze Sub Sum Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor DequantizeLinear"
    " QuantizeLinear".split()
)

# Which of them compute bfloat16 on ONNX Runtime's CUDA provider (docs/OperatorKernels.md, commit
# 001d12d of 2026, rows of opset 20). Not among them: Clip, Cos, Less, Range, ReduceMean, Sin.
CUDA_BFLOAT16 = frozenset(
    "Add Cast Concat ConstantOfShape Div Erf Expand Gather Gelu Gemm Identity LayerNormalization"
    " MatMul Mul Neg Pow ReduceSum Reshape Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub"
    " Transpose Unsqueeze Where".split()
)


def check_operators(path: Path, graph: str) -> list[str]:
    """The graph's operators.

    Raises:
        CheckpointError: one is not in the table, or stands in another domain than ONNX's own, or
            has bfloat16 inputs that a CUDA device would not take.
    """
    model = onnx.load(str(path), load_external_data=False)
    found = sorted({f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in model.graph.node})
    wrong = [name for name in found if name not in ALLOWED]
    if wrong:
        raise CheckpointError(
            f"the {graph} graph holds {', '.join(wrong)}, which TensorRT does not take",
            fix="report this as a bug, with the checkpoint's config.json",
        )
    uncomputed = sorted(_bfloat16(model) - CUDA_BFLOAT16)
    if uncomputed:
        raise CheckpointError(
            f"the {graph} graph has bfloat16 inputs of {', '.join(uncomputed)}, which ONNX "
            "Runtime's CUDA provider does not take",
            fix="report this as a bug, or export in float32",
        )
    return found


def _bfloat16(model: onnx.ModelProto) -> set[str]:
    """Operators with an input in bfloat16."""
    half = onnx.TensorProto.BFLOAT16
    if all(tensor.data_type != half for tensor in model.graph.initializer):
        return set()
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {n.op_type for n in graph.node if any(types.get(name) == half for name in n.input)}
