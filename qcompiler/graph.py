"""The graph that passes edit: a facade of a dozen primitives over onnx-graphsurgeon.

Nodes and tensors are graphsurgeon's own objects, so the words of its tutorial hold; only the
handling of a whole graph is ours, because graphsurgeon, used bare, loses metadata, re-writes a
shared weight into every branch of an ``If``, compares tensors by name and removes list entries by
value.  The facade guarantees:

* what it does not understand passes through byte for byte: bodies of ``If``/``Loop``/``Scan``,
  exotic attributes, metadata, the declarations of inputs and outputs;
* a tensor that a body captures, or that is a graph output, never changes its name;
* constants stay on disk until ``values`` asks for one, and new ones go back to disk if the model
  is large.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.logger import G_LOGGER

from qcompiler import protos, weights
from qcompiler.errors import VerifyError
from qcompiler.weights import Array

G_LOGGER.severity = G_LOGGER.ERROR

Shape = list[int | str | None]
# Skeletons keep constants up to this size: shape inference reads axes, shapes and scales from them.
_SKELETON_BYTES = 4096
# Beyond this the model is written with external data (protobuf stops at 2 GiB).
LARGE_BYTES = 1_500_000_000


class Tensor(Protocol):
    """A graphsurgeon ``Variable`` or ``Constant``.  Compare with ``is``, never ``==``."""

    name: str
    dtype: np.dtype[Any] | None
    shape: Shape | None
    inputs: Sequence[Node]
    outputs: Sequence[Node]


class Node(Protocol):
    """A graphsurgeon ``Node``; change its wiring only through the ``Graph``."""

    op: str
    name: str
    domain: str | None
    attrs: dict[str, Any]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


def label(node: Node) -> str:
    """How messages call a node: its name, or ``node_of_<output>`` (TensorRT's habit) without one."""
    return node.name or f"node_of_{node.outputs[0].name if node.outputs else node.op}"


class Graph:
    """One model's main graph with its constants; made by ``Graph.of`` or ``qcompiler.load``."""

    def __init__(self, model: ModelProto, folder: Path | None) -> None:
        self._shell = protos.shell(model)
        self._folder = folder
        self._side_car: weights.SideCar | None = None
        self._counters: dict[str, int] = {}
        self._tensors: dict[str, Any] = {}
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

    # ------------------------------------------------------------------ import

    def _import(self, source: GraphProto) -> None:
        for initializer in source.initializer:
            self._tensors[initializer.name] = self._lazy(initializer)
        for sparse in source.sparse_initializer:
            values = gs.ir.tensor.SparseValues(sparse)
            self._tensors[sparse.values.name] = gs.Constant(sparse.values.name, values)
        self._sparse = {s.values.name: s for s in source.sparse_initializer}
        constants = set(self._tensors)
        self._input_protos = [v for v in source.input if v.name not in constants]
        self.inputs: tuple[Tensor, ...] = tuple(self._variable(v.name) for v in self._input_protos)
        self._output_protos = list(source.output)
        self._value_info = {v.name: v for v in source.value_info}
        self._nodes: list[Any] = [self._import_node(n) for n in source.node]
        self.outputs: tuple[Tensor, ...] = tuple(
            self._variable(v.name) for v in self._output_protos
        )
        self._output_ids = {id(t) for t in self.outputs}
        bodies = (g for n in source.node for a in n.attribute for g in protos.graphs_of(a))
        self._body_names = {name for body in bodies for name in protos.names_inside(body)}
        for proto in (*source.input, *source.output, *source.value_info):
            self._set_type(proto)

    def _import_node(self, proto: NodeProto) -> Any:
        aside = [a for a in proto.attribute if protos.keep_aside(a)]
        attrs = {
            a.name: gs.Constant("", gs.ir.tensor.LazyValues(a.t))
            if a.type == AttributeProto.TENSOR
            else onnx.helper.get_attribute_value(a)
            for a in proto.attribute
            if not protos.keep_aside(a)
        }
        attrs = {k: _text(v) for k, v in attrs.items()}
        explicit = [self._variable(name) for name in proto.input]
        captured = [self._variable(name) for name in protos.captures(proto)]
        node = gs.Node(
            op=proto.op_type,
            name=proto.name,
            attrs=attrs,
            inputs=[*explicit, *captured],
            outputs=[self._variable(name) for name in proto.output],
            domain=None if proto.domain in ("", "ai.onnx") else proto.domain,
        )
        node.arity = len(explicit)
        node.aside = aside
        extra = NodeProto()
        for field in ("doc_string", "overload"):
            if proto.HasField(field):
                setattr(extra, field, getattr(proto, field))
        extra.metadata_props.extend(proto.metadata_props)
        node.extra = extra
        return node

    def _variable(self, name: str) -> Any:
        if not name:
            return gs.Variable.empty()
        if name not in self._tensors:
            self._tensors[name] = gs.Variable(name)
        return self._tensors[name]

    def _lazy(self, proto: TensorProto) -> Any:
        values = gs.ir.tensor.LazyValues(proto)
        # graphsurgeon leaves types that numpy lacks as ONNX's integer.
        values.dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
        return gs.Constant(proto.name, values)

    def _set_type(self, proto: onnx.ValueInfoProto) -> None:
        tensor = self._tensors.get(proto.name)
        if not isinstance(tensor, gs.Variable) or not proto.type.HasField("tensor_type"):
            return
        declared = proto.type.tensor_type
        if declared.elem_type:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type)
        if declared.HasField("shape"):
            # A negative length is how some exporters write an unknown one.
            tensor.shape = [
                d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None
                for d in declared.shape.dim
            ]

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
        # IR 10 is what opset 21 was released with (onnx docs/Versioning.md); older readers refuse less.
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
        return cast("Tensor | None", self._tensors.get(name))

    def constants(self) -> Iterator[Tensor]:
        """Every constant that a node, a body or an output uses, in order of first use."""
        seen: set[int] = set()
        for tensor in (t for n in self._nodes for t in n.inputs):
            if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield cast("Tensor", tensor)
        for tensor in self.outputs:
            if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor

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
            arity = cast("Any", node).arity
            out += [(node, i) for i, t in enumerate(node.inputs[:arity]) if t is tensor]
        return out

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor must keep its name: a graph output, or captured by a body."""
        if id(tensor) in self._output_ids:
            return True
        return any(
            t is tensor for n in tensor.outputs for t in n.inputs[cast("Any", n).arity :]
        )

    def is_output(self, tensor: Tensor) -> bool:
        """Whether a tensor is an output of the graph."""
        return id(tensor) in self._output_ids

    def sole_user(self, tensor: Tensor) -> Node | None:
        """The only node that reads a tensor, through one slot; None if there are more or it is pinned."""
        users = self.users(tensor)
        return users[0][0] if len(users) == 1 and not self.is_pinned(tensor) else None

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor is a dense initializer."""
        return isinstance(tensor, gs.Constant) and tensor.name not in self._sparse

    def values(self, tensor: Tensor) -> Array:
        """The values of a constant, read-only, from disk or memory.

        Raises:
            InputError: Its data are missing or damaged.
        """
        stored = cast("Any", tensor)._values
        return weights.read(stored.tensor, self._folder_of(stored.tensor))

    def constant_bytes(self, tensor: Tensor) -> int:
        """Bytes that a constant takes in the file."""
        stored = cast("Any", tensor)._values
        proto = stored.tensor
        return weights.stored_bytes(proto) if isinstance(proto, TensorProto) else proto.ByteSize()

    def attribute(self, node: Node, name: str) -> Array:
        """The value of a TENSOR attribute (of ``Constant``, ``ConstantOfShape`` …) as an array."""
        return weights.read(node.attrs[name]._values.tensor, self._folder)

    def has_body(self, node: Node) -> bool:
        """Whether a node carries sub-graphs."""
        return bool(self.bodies(node))

    def bodies(self, node: Node) -> list[GraphProto]:
        """The sub-graphs of a node, as protos that belong to the graph (edit them in place)."""
        return [g for a in cast("Any", node).aside for g in protos.graphs_of(a)]

    # ------------------------------------------------------------------ editing

    def fresh(self, base: str) -> str:
        """A tensor name nobody uses: ``base``, or ``base_1``, ``base_2`` …"""
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
        return cast("Tensor", self._tensors[name])

    def _stored(self, name: str, array: Array) -> Any:
        dense = np.ascontiguousarray(array).reshape(array.shape)
        proto = numpy_helper.from_array(dense, name)
        if self._side_car is not None and len(proto.raw_data) > weights.INLINE_BYTES:
            proto = self._side_car.put(proto, None)
            self._side_car.flush()
        return self._lazy(proto)

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
        tensor = gs.Variable(self.fresh(output), dtype, shape)
        self._tensors[tensor.name] = tensor
        node = gs.Node(
            op=op,
            name=name or tensor.name,
            attrs=dict(attrs or {}),
            inputs=[gs.Variable.empty() if t is None else t for t in inputs],
            outputs=[tensor],
            domain=domain or None,
        )
        node.arity, node.aside, node.extra = len(inputs), [], NodeProto()
        if self.provenance:
            node.extra.metadata_props.add(key="qcompiler.pass", value=self.provenance)
        self._nodes.append(node)
        return cast("Tensor", tensor)

    def add_proto(self, proto: NodeProto) -> None:
        """Append a node given as a proto; its tensors are looked up or made by name."""
        node = self._import_node(proto)
        if self.provenance:
            node.extra.metadata_props.add(key="qcompiler.pass", value=self.provenance)
        self._nodes.append(node)

    def node_proto(self, node: Node) -> NodeProto:
        """A node as it will be written: attributes, metadata and bodies included."""
        raw = cast("Any", node)
        proto = cast("NodeProto", OnnxExporter.export_node(node))
        del proto.input[raw.arity :]
        while proto.input and not proto.input[-1]:
            del proto.input[-1]
        proto.attribute.extend(raw.aside)
        proto.MergeFrom(raw.extra)
        return proto

    def set_input(self, node: Node, index: int, tensor: Tensor | None) -> None:
        """Make one input slot read another tensor (None empties an optional slot)."""
        new = gs.Variable.empty() if tensor is None else tensor
        old = node.inputs[index]
        _remove(old.outputs, node)
        list.__setitem__(cast("Any", node.inputs), index, new)
        list.append(cast("Any", new.outputs), node)

    def set_inputs(self, node: Node, tensors: Sequence[Tensor | None]) -> None:
        """Replace all explicit inputs of a node that has no body."""
        raw = cast("Any", node)
        for tensor in node.inputs:
            _remove(tensor.outputs, node)
        list.clear(raw.inputs)
        for tensor in tensors:
            new = gs.Variable.empty() if tensor is None else tensor
            list.append(raw.inputs, new)
            list.append(cast("Any", new.outputs), node)
        raw.arity = len(tensors)

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
            position = next(i for i, t in enumerate(source.outputs) if t is new)
            list.__setitem__(cast("Any", source.outputs), position, old)
            list.append(cast("Any", old.inputs), source)
            list.clear(cast("Any", new.inputs))
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
        position = next(i for i, t in enumerate(producer.outputs) if t is tensor)
        list.__setitem__(cast("Any", producer.outputs), position, gs.Variable.empty())
        list.clear(cast("Any", tensor.inputs))
        if not any(t.name for t in producer.outputs):
            self.drop(producer)

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
        for tensor in node.inputs:
            _remove(tensor.outputs, node)
        for tensor in node.outputs:
            _remove(tensor.inputs, node)
        list.clear(cast("Any", node.inputs))
        self._nodes = [n for n in self._nodes if n is not node]

    def sweep(self) -> int:
        """Sort the nodes and remove the dead ones; return how many died.

        A new node lands right before its first reader; the order of the others is kept.

        Raises:
            VerifyError: The graph has a cycle.
        """
        before = len(self._nodes)
        alive: set[int] = set()
        stack: list[Any] = [n for t in self.outputs for n in t.inputs]
        while stack:
            node = stack.pop()
            if id(node) not in alive:
                alive.add(id(node))
                stack += [p for t in node.inputs for p in t.inputs]
        for node in [n for n in self._nodes if id(n) not in alive]:
            for tensor in node.inputs:
                _remove(tensor.outputs, node)
            for tensor in node.outputs:
                _remove(tensor.inputs, node)
                self._forget(tensor)
        self._nodes = _in_order([n for n in self._nodes if id(n) in alive])
        used = {id(t) for n in self._nodes for t in (*n.inputs, *n.outputs)}
        used |= {id(t) for t in (*self.inputs, *self.outputs)}
        self._tensors = {k: t for k, t in self._tensors.items() if id(t) in used}
        return before - len(self._nodes)

    def _forget(self, tensor: Any) -> None:
        if not tensor.inputs and not tensor.outputs and not self.is_output(tensor):
            self._tensors.pop(tensor.name, None)

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
            self._set_type(proto)
        return ""

    def proto(self, *, skeleton: bool = False) -> ModelProto:
        """The model as ONNX.

        Args:
            skeleton: Leave out the bytes of constants above 4 KiB: they become graph inputs of
                the same type and shape, which is all that checker and shape inference look at.

        Raises:
            VerifyError: Weights over 2 GiB were asked inline; use ``save``.
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
            stored = cast("Any", tensor)._values.tensor
            if not isinstance(stored, TensorProto):
                graph.sparse_initializer.append(stored)
            elif skeleton and weights.stored_bytes(stored) > _SKELETON_BYTES and not self.is_output(tensor):
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

    def initializers(self) -> Iterator[tuple[TensorProto, Path | None]]:
        """Every dense constant as a proto and the folder its external data resolve against."""
        for tensor in self.constants():
            stored = cast("Any", tensor)._values.tensor
            if isinstance(stored, TensorProto):
                stored.name = tensor.name
                yield stored, self._folder_of(stored)

    def weight_bytes(self) -> int:
        """Bytes of all constants in use."""
        return sum(self.constant_bytes(t) for t in self.constants())

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


def _remove(nodes: Iterable[Any], node: Any) -> None:
    """Remove one entry by identity: graphsurgeon's lists compare by value."""
    raw = cast("list[Any]", nodes)
    for index, entry in enumerate(raw):
        if entry is node:
            list.__delitem__(raw, index)
            return


def _in_order(nodes: list[Any]) -> list[Any]:
    """A depth-first order that keeps the given one where it can; iterative, so depth is no limit."""
    done: set[int] = set()
    open_: set[int] = set()
    out: list[Any] = []
    for root in nodes:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                open_.discard(id(node))
                out.append(node)
                continue
            if id(node) in open_:
                raise VerifyError("the graph has a cycle", where=label(node))
            open_.add(id(node))
            stack.append((node, True))
            waiting = [p for t in node.inputs for p in t.inputs if id(p) not in done]
            stack += [(p, False) for p in reversed(waiting)]
    return out


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (str, gs.Constant)) or not isinstance(value, Sequence):
        return value
    return [v.decode() if isinstance(v, bytes) else v for v in value]
