"""The graph that passes edit: a facade of a dozen primitives over onnx-graphsurgeon.

Nodes and tensors are graphsurgeon's own objects, so the words of its tutorial hold; the handling of
a whole graph is ours (``qcompiler.surgeon`` says why).  The facade guarantees:

* what it does not understand passes through byte for byte: bodies of ``If``/``Loop``/``Scan``,
  exotic attributes, metadata, the declarations of inputs and outputs;
* a tensor that a body captures, or that is a graph output, never changes its name;
* constants stay on disk until ``values`` asks for one, and new ones go back to disk if the model
  is large.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from qcompiler import protos, surgeon, weights
from qcompiler.surgeon import Node, Shape, Tensor, label
from qcompiler.weights import Array

__all__ = ["LARGE_BYTES", "Graph", "Node", "Shape", "Tensor", "label"]

# Skeletons keep constants up to this size: shape inference reads axes, shapes and scales from them.
_SKELETON_BYTES = 4096
# Beyond this the model is written with external data (protobuf stops at 2 GiB).
LARGE_BYTES = 1_500_000_000


class Graph:
    """One model's main graph with its constants; made by ``Graph.of`` or ``qcompiler.load``."""

    def __init__(self, model: ModelProto, folder: Path | None) -> None:
        self._shell = protos.shell(model)
        self._folder = folder
        self._side_car: weights.SideCar | None = None
        self._counters: dict[str, int] = {}
        self._tensors: dict[str, Tensor] = {}
        self.provenance = ""
        self._import(model.graph)

    @classmethod
    def of(cls, model: ModelProto, folder: Path | None = None) -> Graph:
        """Wrap a model (ownership passes to the graph: do not edit ``model`` afterwards).

        Args:
            model: A structurally valid model without local functions.
            folder: Folder against which external data resolve.
        """
        return cls(model, folder)

    def sibling(self, model: ModelProto) -> Graph:
        """Another model that keeps its constants where this one does, as a graph of its own."""
        other = Graph(model, self._folder)
        other._side_car, other.provenance = self._side_car, self.provenance
        return other

    def adopt(self, model: ModelProto) -> None:
        """Take nodes, constants and declarations from another form of this model.

        Nodes and tensors that were looked at before belong to the graph no more.
        """
        self._tensors = {}
        self._import(model.graph)

    # ------------------------------------------------------------------ import

    def _import(self, source: GraphProto) -> None:
        for initializer in source.initializer:
            self._tensors[initializer.name] = surgeon.constant(initializer)
        for sparse in source.sparse_initializer:
            self._tensors[sparse.values.name] = surgeon.constant(sparse)
        constants = set(self._tensors)
        self._input_protos = [v for v in source.input if v.name not in constants]
        self.inputs: tuple[Tensor, ...] = tuple(self._lookup(v.name) for v in self._input_protos)
        self._output_protos = list(source.output)
        self._value_info = {v.name: v for v in source.value_info}
        self._nodes: list[Node] = [surgeon.node_from(n, self._lookup) for n in source.node]
        self.outputs: tuple[Tensor, ...] = tuple(self._lookup(v.name) for v in self._output_protos)
        self._output_ids = {id(t) for t in self.outputs}
        bodies = (g for n in source.node for a in n.attribute for g in protos.graphs_of(a))
        self._body_names = {name for body in bodies for name in protos.names_inside(body)}
        for proto in (*source.input, *source.output, *source.value_info):
            surgeon.set_type(self._tensors.get(proto.name), proto)

    def _lookup(self, name: str) -> Tensor:
        if not name:
            return surgeon.nothing()
        if name not in self._tensors:
            self._tensors[name] = surgeon.variable(name)
        return self._tensors[name]

    # ------------------------------------------------------------------ looking

    @property
    def nodes(self) -> tuple[Node, ...]:
        """A snapshot of the nodes; it survives edits made while iterating."""
        return tuple(self._nodes)

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((o.version for o in self._shell.opset_import if o.domain in ("", "ai.onnx")), 1)

    @opset.setter
    def opset(self, version: int) -> None:
        for entry in self._shell.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = version
                break
        else:
            self._shell.opset_import.add(domain="", version=version)
        # IR 10 is what opset 21 was released with (onnx docs/Versioning.md).
        least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
        self._shell.ir_version = max(self._shell.ir_version, least)

    @property
    def domains(self) -> dict[str, int]:
        """Operator sets the model imports, domain -> version."""
        return {o.domain: o.version for o in self._shell.opset_import}

    @property
    def metadata(self) -> dict[str, str]:
        """The model's ``metadata_props`` (a copy); change them with ``set_metadata``."""
        return {p.key: p.value for p in self._shell.metadata_props}

    def set_metadata(self, key: str, value: str) -> None:
        """Write one ``metadata_props`` entry of the model."""
        for entry in self._shell.metadata_props:
            if entry.key == key:
                entry.value = value
                return
        self._shell.metadata_props.add(key=key, value=value)

    def tensor(self, name: str) -> Tensor | None:
        """The tensor of this name in the main graph, or None."""
        return self._tensors.get(name)

    def constants(self) -> Iterator[Tensor]:
        """Every constant that a node, a body or an output uses, in order of first use."""
        seen: set[int] = set()
        for tensor in (t for n in self._nodes for t in n.inputs):
            if surgeon.is_constant(tensor) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
        for output in self.outputs:
            if surgeon.is_constant(output) and id(output) not in seen:
                seen.add(id(output))
                yield output

    def producer(self, tensor: Tensor) -> Node | None:
        """The node that computes a tensor; None for inputs and constants."""
        return tensor.inputs[0] if tensor.inputs else None

    def users(self, tensor: Tensor) -> list[tuple[Node, int]]:
        """Every (node, input index) that reads a tensor, in node order; captures are not listed."""
        out: list[tuple[Node, int]] = []
        seen: set[int] = set()
        for node in tensor.outputs:
            if id(node) in seen:
                continue
            seen.add(id(node))
            out += [(node, i) for i, t in enumerate(surgeon.explicit(node)) if t is tensor]
        return out

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor must keep its name: a graph output, or captured by a body."""
        return id(tensor) in self._output_ids or self.is_captured(tensor)

    def is_captured(self, tensor: Tensor) -> bool:
        """Whether a body reads a tensor by its name."""
        return any(t is tensor for n in tensor.outputs for t in surgeon.captured(n))

    def is_output(self, tensor: Tensor) -> bool:
        """Whether a tensor is an output of the graph."""
        return id(tensor) in self._output_ids

    def sole_user(self, tensor: Tensor) -> Node | None:
        """The only reader of a tensor, through one slot; None if there are more or it is pinned."""
        users = self.users(tensor)
        return users[0][0] if len(users) == 1 and not self.is_pinned(tensor) else None

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor is a dense initializer."""
        return surgeon.is_constant(tensor) and isinstance(surgeon.stored(tensor), TensorProto)

    def values(self, tensor: Tensor) -> Array:
        """The values of a constant, read-only, from disk or memory.

        Raises:
            InputError: Its data are missing or damaged.
        """
        proto = cast("TensorProto", surgeon.stored(tensor))
        return weights.read(proto, self._folder_of(proto))

    def constant_bytes(self, tensor: Tensor) -> int:
        """Bytes that a constant takes in the file."""
        proto = surgeon.stored(tensor)
        return weights.stored_bytes(proto) if isinstance(proto, TensorProto) else proto.ByteSize()

    def attribute(self, node: Node, name: str) -> Array:
        """The value of a TENSOR attribute (of ``Constant``, ``ConstantOfShape`` …) as an array."""
        return weights.read(cast("TensorProto", surgeon.stored(node.attrs[name])), self._folder)

    def has_body(self, node: Node) -> bool:
        """Whether a node carries sub-graphs."""
        return bool(self.bodies(node))

    def bodies(self, node: Node) -> list[GraphProto]:
        """The sub-graphs of a node, as protos that belong to the graph (edit them in place)."""
        return surgeon.bodies(node)

    # ------------------------------------------------------------------ editing

    def fresh(self, base: str) -> str:
        """A tensor name nobody uses: ``base``, ``base_1``, ``base_2`` and so on."""
        count = self._counters.get(base, 0)
        name = base if count == 0 else f"{base}_{count}"
        while name in self._tensors or name in self._body_names:
            count += 1
            name = f"{base}_{count}"
        self._counters[base] = count
        return name

    def const(self, base: str, array: Array) -> Tensor:
        """A new constant named after ``base``; on disk if the model is large.

        Args:
            base: Wished name.
            array: Values; ``ml_dtypes`` arrays for low-precision types (packed as ONNX asks).
        """
        name = self.fresh(base)
        self._tensors[name] = self._stored(name, array)
        return self._tensors[name]

    def _stored(self, name: str, array: Array) -> Tensor:
        dense = np.ascontiguousarray(array).reshape(array.shape)
        proto = numpy_helper.from_array(dense, name)
        if self._side_car is not None and len(proto.raw_data) > weights.INLINE_BYTES:
            proto = self._side_car.put(proto, None)
            self._side_car.flush()
        return surgeon.constant(proto)

    def add(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        *,
        output: str,
        name: str = "",
        domain: str = "",
        dtype: np.dtype[Any] | None = None,
        shape: Shape | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Append a node with one output; the next ``sweep`` puts it in its place.

        Args:
            op: Operator.
            inputs: Tensors; None for an omitted optional input.
            output: Wished name of the output tensor.
            name: Name of the node; the output's name without one.
            domain: Operator set; empty for the default one.
            dtype: Element type of the output, if known.
            shape: Shape of the output, if known.
            attrs: Attributes.
        """
        tensor = surgeon.variable(self.fresh(output), dtype, shape)
        self._tensors[tensor.name] = tensor
        self._append(
            surgeon.node(op, name or tensor.name, domain, inputs, [tensor], dict(attrs or {}))
        )
        return tensor

    def add_proto(self, proto: NodeProto) -> None:
        """Append a node given as a proto; its tensors are looked up or made by name."""
        self._append(surgeon.node_from(proto, self._lookup))

    def _append(self, node: Node) -> None:
        if self.provenance:
            surgeon.tag(node, "qcompiler.pass", self.provenance)
        self._nodes.append(node)

    def node_proto(self, node: Node) -> NodeProto:
        """A node as it will be written: attributes, metadata and bodies included."""
        return surgeon.node_to(node)

    def set_input(self, node: Node, index: int, tensor: Tensor | None) -> None:
        """Make one input slot read another tensor (None empties an optional slot)."""
        surgeon.connect_input(node, index, tensor)

    def set_inputs(self, node: Node, tensors: Sequence[Tensor | None]) -> None:
        """Replace all explicit inputs of a node that has no body."""
        surgeon.connect_inputs(node, tensors)

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Let ``new``'s value take the place of ``old`` everywhere.

        The name that survives is ``old``'s whenever ``new`` is computed by a node that can write
        under it; a pinned ``old`` always keeps its name (an ``Identity`` is the last resort).
        """
        if old is new:
            return
        source = self.producer(new)
        if source is not None and not self.is_pinned(new):
            self._detach_output(old)
            for node, index in self.users(new):
                self.set_input(node, index, old)
            surgeon.connect_output(source, new, old)
            self._tensors.pop(new.name, None)
            return
        for node, index in self.users(old):
            self.set_input(node, index, new)
        if self.is_pinned(old):
            self._detach_output(old)
            bridge = self.add("Identity", [new], output=f"{old.name}_identity")
            self.replace(old, bridge)

    def _detach_output(self, tensor: Tensor) -> None:
        producer = self.producer(tensor)
        if producer is None:
            return
        surgeon.connect_output(producer, tensor, None)
        if not any(t.name for t in producer.outputs):
            self.drop(producer)

    def retype(self, tensor: Tensor, dtype: np.dtype[Any]) -> None:
        """Give a computed tensor another element type, also where the model declares it."""
        tensor.dtype = dtype
        declared = self._value_info.get(tensor.name)
        if declared is not None:
            element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            declared.type.tensor_type.elem_type = element

    def redeclare(self, tensor: Tensor, dtype: np.dtype[Any]) -> None:
        """Give an input or output of the graph another element type; its nodes are not touched."""
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        for declared in (*self._input_protos, *self._output_protos):
            if declared.name == tensor.name:
                declared.type.tensor_type.elem_type = element
        if not surgeon.is_constant(tensor):
            self.retype(tensor, dtype)

    def make_constant(self, tensor: Tensor, array: Array) -> None:
        """Turn a computed tensor into a constant of the same name."""
        self._detach_output(tensor)
        constant = self._stored(tensor.name, array)
        self._tensors[tensor.name] = constant
        for node in list(tensor.outputs):
            for index, read in enumerate(node.inputs):
                if read is tensor:
                    self.set_input(node, index, constant)
        if id(tensor) in self._output_ids:
            self.outputs = tuple(constant if t is tensor else t for t in self.outputs)
            self._output_ids = {id(t) for t in self.outputs}

    def drop(self, node: Node) -> None:
        """Remove a node whose outputs nobody reads any more."""
        surgeon.disconnect(node)
        self._nodes = [n for n in self._nodes if n is not node]

    def sweep(self) -> int:
        """Sort the nodes and remove the dead ones; return how many died.

        A new node lands right before its first reader; the order of the others is kept.

        Raises:
            VerifyError: The graph has a cycle.
        """
        before = len(self._nodes)
        alive = surgeon.reachable(self.outputs)
        for node in [n for n in self._nodes if id(n) not in alive]:
            surgeon.disconnect(node)
        self._nodes = surgeon.in_order([n for n in self._nodes if id(n) in alive])
        used = {id(t) for n in self._nodes for t in (*n.inputs, *n.outputs)}
        used |= {id(t) for t in (*self.inputs, *self.outputs)}
        self._tensors = {k: t for k, t in self._tensors.items() if id(t) in used}
        return before - len(self._nodes)

    # ------------------------------------------------------------------ types and export

    def infer(self) -> str:
        """Infer types and shapes of every tensor; the message of onnx's inference if it gave up.

        Weights are not touched: inference runs on a skeleton in which large constants are inputs.
        """
        skeleton = self.proto(skeleton=True)
        try:
            inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
        except Exception as error:  # noqa: BLE001  (C++ inference raises bare RuntimeError and more)
            return str(error)
        for proto in (*inferred.graph.value_info, *inferred.graph.output):
            surgeon.set_type(self._tensors.get(proto.name), proto)
        return ""

    def proto(self, *, skeleton: bool = False) -> ModelProto:
        """The model as ONNX.

        Args:
            skeleton: Leave out the bytes of constants above 4 KiB: they become graph inputs of
                the same type and shape, which is all that checker and shape inference look at.
        """
        model = ModelProto()
        model.CopyFrom(self._shell)
        graph = model.graph
        graph.input.extend(self._input_protos)
        graph.output.extend(self._output_protos)
        names = {t.name for n in self._nodes for t in n.outputs}
        graph.value_info.extend(v for k, v in self._value_info.items() if k in names)
        graph.node.extend(self.node_proto(n) for n in self._nodes)
        for tensor in self.constants():
            stored = surgeon.stored(tensor)
            if not isinstance(stored, TensorProto):
                graph.sparse_initializer.append(stored)
            elif skeleton and self._left_out(tensor, stored):
                graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, stored.data_type, stored.dims)
                )
            else:
                if skeleton and stored.data_location == TensorProto.EXTERNAL:
                    # Whoever looks at a skeleton does not know the folder.
                    stored = numpy_helper.from_array(self.values(tensor), tensor.name)
                graph.initializer.append(stored)
                graph.initializer[-1].name = tensor.name
        return model

    def _left_out(self, tensor: Tensor, proto: TensorProto) -> bool:
        return weights.stored_bytes(proto) > _SKELETON_BYTES and not self.is_output(tensor)

    def initializers(self) -> Iterator[tuple[TensorProto, Path | None]]:
        """Every dense constant as a proto and the folder its external data resolve against."""
        for tensor in self.constants():
            stored = surgeon.stored(tensor)
            if isinstance(stored, TensorProto):
                stored.name = tensor.name
                yield stored, self._folder_of(stored)

    def weight_bytes(self) -> int:
        """Bytes of all constants in use, those of bodies included."""
        bodies = (body for node in self._nodes for body in self.bodies(node))
        inside = (t for body in bodies for t in protos.constants_inside(body))
        own = sum(self.constant_bytes(t) for t in self.constants())
        return own + sum(weights.stored_bytes(t) for t in inside)

    @property
    def is_large(self) -> bool:
        """Whether the model is kept and written with external data."""
        return self._side_car is not None or self.weight_bytes() > LARGE_BYTES

    def spill(self) -> None:
        """Keep constants made from now on in a temporary file instead of memory."""
        if self._side_car is None:
            folder = Path(tempfile.mkdtemp(prefix="qcompiler-"))
            self._side_car = weights.SideCar(folder / "qcompiler-spill.bin")
            weakref.finalize(self, self._side_car.discard)

    def _folder_of(self, proto: TensorProto) -> Path | None:
        location = next((e.value for e in proto.external_data if e.key == "location"), "")
        if self._side_car is not None and location == self._side_car.path.name:
            return self._side_car.path.parent
        return self._folder
