"""Request bodies into our words, results into the wire's, in protobuf and in JSON. The message classes are the SDK's own.

protobuf is what the official SDK sends and asks for since 0.25; JSON is what its forerunners and other clients speak. A body
that cannot be read raises RequestRefused with a sentence, never an error of the parser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tinker.proto import tinker_public_pb2 as pb

from recipes.losses import TARGETS
from recipes.types import AdamParams, Array, Datum, ForwardBackwardResult, SampleResult, SamplingParams, StopReason

PROTOBUF = "application/x-protobuf"
_NO_LOGPROB = -99999.0
_LARGEST = 2**63
_DTYPES: dict[Any, np.dtype[Any]] = {
    pb.DTYPE_FLOAT32: np.dtype(np.float32),
    pb.DTYPE_INT64: np.dtype(np.int64),
    pb.DTYPE_INT32: np.dtype(np.int32),
}


class RequestRefused(Exception):
    """The request cannot be served and will not be when it is sent again. `status` is of HTTP."""

    def __init__(self, sentence: str, *, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


class GradientRequest(NamedTuple):
    model_id: str
    seq_id: int | None
    data: list[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float]
    forward_only: bool


@dataclass(frozen=True, slots=True)
class Payload:
    """A result as it may be asked for: either way of writing it is made when it is sent."""

    result: ForwardBackwardResult | SampleResult

    def as_protobuf(self) -> bytes:
        made = _gradient_message(self.result) if isinstance(self.result, ForwardBackwardResult) else _sample_message(self.result)
        written: bytes = made.SerializeToString()
        return written

    def as_json(self) -> dict[str, Any]:
        return _gradient_json(self.result) if isinstance(self.result, ForwardBackwardResult) else _sample_json(self.result)


# ------------------------------------------------------------------ what comes in


def read_json(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body or b"{}")
        if rb"\ud" in body.lower():  # half a surrogate pair is JSON and no text
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"The body is no JSON: {error}.") from None
    if not isinstance(values, dict):
        raise RequestRefused("The body is no JSON object.")
    return values


def field(values: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """`values[name]`, or the default where it is missing or null. Raises RequestRefused for a missing one or another type."""
    value = values.get(name)
    if value is None:
        if default is ...:
            raise RequestRefused(f"{name} is missing.")
        return default
    is_flag = isinstance(value, bool) and kind is not bool
    if is_flag or not isinstance(value, kind):
        wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise RequestRefused(f"{name} is a {type(value).__name__}; a {wanted} was expected.")
    return value


def number(values: Mapping[str, Any], name: str, default: float) -> float:
    """As `field`, as a float. Raises RequestRefused for a whole number that no float can hold, and for null, which is how clients
    write NaN: taken for the default it would train on in silence."""
    if name in values and values[name] is None:
        raise RequestRefused(f"{name} is null; a number was expected (JSON has no NaN).")
    try:
        return float(field(values, name, (int, float), default))
    except OverflowError:
        raise RequestRefused(f"{name} is too large a number.") from None


def whole(values: Mapping[str, Any], name: str, default: Any = ...) -> Any:
    """As `field`, a whole number that 64 bits can hold."""
    found = field(values, name, int, default)
    if isinstance(found, int) and not -_LARGEST <= found < _LARGEST:
        raise RequestRefused(f"{name} is too large a number.")
    return found


def read_protobuf(body: bytes) -> Any:
    message = pb.ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise RequestRefused(f"The body is no ForwardBackwardRequest: {error}.") from None
    return message


def gradient_from_protobuf(message: Any) -> GradientRequest:
    config = {key: value.number for key, value in message.loss_fn_config_v2.items() if value.WhichOneof("value") == "number"}
    texts = [key for key, value in message.loss_fn_config_v2.items() if value.WhichOneof("value") == "text"]
    if texts:
        raise RequestRefused(f"The loss setting {texts[0]} is a text; the losses of this server take numbers.")
    data = []
    for index, datum in enumerate(message.data):
        tokens: list[Array] = []
        for chunk in datum.model_input:
            if chunk.WhichOneof("chunk") != "encoded_text":
                raise RequestRefused(f"Datum {index}: this server reads token ids only, no images and no sound.")
            tokens.append(_from_buffer(chunk.encoded_text.tokens, np.dtype(np.int32), f"Datum {index}: model_input"))
        inputs = {name: _tensor(tensor, f"Datum {index}: {name}") for name, tensor in datum.loss_fn_inputs.items()}
        data.append(_datum(tokens, inputs))
    return GradientRequest(
        message.model_id,
        message.seq_id or None,
        data,
        message.loss_fn,
        config or dict(message.loss_fn_config),
        bool(message.forward_only),
    )


def gradient_from_json(values: Mapping[str, Any], *, forward_only: bool) -> GradientRequest:
    asked = field(values, "forward_input" if forward_only and "forward_input" in values else "forward_backward_input", dict)
    data = []
    for index, datum in enumerate(field(asked, "data", list)):
        where = f"Datum {index}"
        if not isinstance(datum, dict):
            raise RequestRefused(f"{where} is no object.")
        inputs = field(datum, "loss_fn_inputs", dict)
        data.append(
            _datum(
                [np.asarray(tokens_of(field(datum, "model_input", dict), where), dtype=np.int64)],
                {name: _json_tensor(tensor, f"{where}: {name}") for name, tensor in inputs.items()},
            )
        )
    config = field(asked, "loss_fn_config", dict, {})
    return GradientRequest(
        field(values, "model_id", str),
        field(values, "seq_id", int, None),
        data,
        field(asked, "loss_fn", str),
        config,
        forward_only,
    )


def tokens_of(model_input: Mapping[str, Any], where: str = "prompt") -> list[int]:
    """The ids of a model input in JSON, {"chunks": [{"tokens": […]}]}."""
    ids: list[int] = []
    for chunk in field(model_input, "chunks", list):
        tokens = chunk.get("tokens") if isinstance(chunk, dict) else None
        if not isinstance(tokens, list):
            raise RequestRefused(f"{where}: this server reads token ids only, no images and no sound.")
        if not all(type(token) is int and 0 <= token < _LARGEST for token in tokens):
            raise RequestRefused(f"{where}: a token id is a whole number from 0 on that is in the vocabulary.")
        ids += tokens
    return ids


def adam_of(values: Mapping[str, Any]) -> AdamParams:
    if "optimizer_params" in values or str(field(values, "type", str, "optim_step")) not in ("optim_step", ""):
        raise RequestRefused("This server's optimizer is AdamW: send adam_params.")
    params = field(values, "adam_params", dict)
    known = {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0, "grad_clip_norm": 0.0}
    found = {name: number(params, name, default) for name, default in known.items()}
    for name, value in found.items():
        if not np.isfinite(value) or value < 0 or (name.startswith("beta") and value >= 1):
            raise RequestRefused(f"adam_params.{name} cannot be {value:g}.")
    return AdamParams(**found)


def sampling_of(values: Mapping[str, Any]) -> SamplingParams:
    stop = values.get("stop")
    if stop == []:
        raise RequestRefused("stop: this server always ends a sample at the model's end of turn; leave stop out.")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not (
        all(isinstance(item, str) for item in stops) or all(type(item) is int for item in stops)
    ):
        raise RequestRefused("stop is a text, a list of texts, or a list of token ids.")
    return SamplingParams(
        max_tokens=whole(values, "max_tokens", 1 << 20),
        temperature=number(values, "temperature", 1.0),
        top_p=number(values, "top_p", 1.0),
        top_k=whole(values, "top_k", -1),
        seed=whole(values, "seed", None),
        stop=tuple(stops),
    )


def _datum(tokens: Sequence[Array], inputs: dict[str, Array]) -> Datum:
    """Ids as int64, everything else as float32, as our engine takes them. What is wrong with them it says itself."""
    ids = np.concatenate(tokens).astype(np.int64) if tokens else np.zeros(0, dtype=np.int64)
    return Datum(ids, {name: array if name == TARGETS else array.astype(np.float32) for name, array in inputs.items()})


def _tensor(tensor: Any, where: str) -> Array:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise RequestRefused(f"{where}: tensors are float32 or int64.")
    shape = tuple(int(length) for length in tensor.shape)
    if tensor.HasField("sparse_csr"):
        return _dense(tensor.sparse_csr, dtype, shape, where)
    values = _from_buffer(tensor.dense, dtype, where)
    return _shaped(values, shape or values.shape, where)


def _dense(csr: Any, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    """What a sparse row leaves out is 0: id 0 with weight 0, which trains nothing."""
    values = _from_buffer(csr.values, dtype, where)
    rows = _from_buffer(csr.crow_indices, np.dtype(np.int64), where)
    columns = _from_buffer(csr.col_indices, np.dtype(np.int64), where)
    fits = len(shape) == 2 and min(shape) >= 0 and len(rows) == shape[0] + 1 and rows[0] == 0 and (np.diff(rows) >= 0).all()
    if not (fits and rows[-1] == len(values) == len(columns)) or (
        len(columns) and not (0 <= columns.min() <= columns.max() < shape[1])
    ):
        raise RequestRefused(f"{where}: the sparse tensor's indices do not fit its shape {shape}.")
    filled = np.zeros(shape, dtype=dtype)
    filled[np.repeat(np.arange(shape[0]), np.diff(rows)), columns] = values
    return filled


def _from_buffer(buffer: bytes, dtype: np.dtype[Any], where: str) -> Array:
    if len(buffer) % dtype.itemsize:
        raise RequestRefused(f"{where}: {len(buffer)} bytes are no whole number of {dtype.name} values.")
    return np.frombuffer(buffer, dtype=dtype)


def _json_tensor(tensor: Any, where: str) -> Array:
    values = tensor if isinstance(tensor, dict) else {"data": tensor}
    is_whole = values.get("dtype") == "int64" or where.endswith(TARGETS)
    try:
        found = np.asarray(values.get("data"), dtype=np.int64 if is_whole else np.float32)
    except (ValueError, TypeError, OverflowError):
        raise RequestRefused(f"{where}: a list of numbers was expected.") from None
    shape = values.get("shape") or list(found.shape)
    if not isinstance(shape, list):
        raise RequestRefused(f"{where}: a shape is a list of whole numbers.")
    return _shaped(found, tuple(shape), where)


def _shaped(values: Array, shape: tuple[int, ...], where: str) -> Array:
    try:
        return values.reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise RequestRefused(f"{where}: {values.size} values do not fill the shape {shape}.") from None


# ------------------------------------------------------------------ what goes out


def _gradient_message(result: ForwardBackwardResult) -> Any:
    """One record with a batched tensor per field; ragged second axes are written as further records."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    message.metrics.update(result.metrics)
    for trailing, outputs in _alike(result.loss_fn_outputs):
        record = message.loss_fn_outputs.add()
        record.num_datums = len(outputs)
        batched = record.fields["logprobs"]
        batched.dtype = pb.DTYPE_FLOAT32
        batched.trailing_shape.extend(trailing)
        arrays = [np.ascontiguousarray(output["logprobs"], dtype=np.float32) for output in outputs]
        batched.data = b"".join(array.tobytes() for array in arrays)
        batched.offsets = np.cumsum([0, *(array.nbytes for array in arrays)], dtype=np.int64).tobytes()
    return message


def _alike(outputs: Sequence[Mapping[str, Array]]) -> list[tuple[tuple[int, ...], list[Mapping[str, Array]]]]:
    """Neighbours whose arrays agree in all but the first axis, in order."""
    groups: list[tuple[tuple[int, ...], list[Mapping[str, Array]]]] = []
    for output in outputs:
        trailing = tuple(output["logprobs"].shape[1:])
        if not groups or groups[-1][0] != trailing:
            groups.append((trailing, []))
        groups[-1][1].append(output)
    return groups


def _gradient_json(result: ForwardBackwardResult) -> dict[str, Any]:
    outputs = [
        {"logprobs": {"data": array.reshape(-1).tolist(), "dtype": "float32", "shape": list(array.shape)}}
        for array in (np.asarray(output["logprobs"], dtype=np.float32) for output in result.loss_fn_outputs)
    ]
    return {"loss_fn_output_type": "ArrayRecord", "loss_fn_outputs": outputs, "metrics": dict(result.metrics)}


def _sample_message(result: SampleResult) -> Any:
    message = pb.SampleResponse()
    for sequence in result.sequences:
        written = message.sequences.add()
        stopped = sequence.stop_reason is StopReason.STOP
        written.stop_reason = pb.STOP_REASON_STOP if stopped else pb.STOP_REASON_LENGTH
        written.tokens = np.asarray(sequence.tokens, dtype=np.int32).tobytes()
        written.logprobs = np.asarray(sequence.logprobs, dtype=np.float32).tobytes()
    if result.prompt_logprobs is not None:
        known = [np.nan if value is None else value for value in result.prompt_logprobs]
        message.prompt_logprobs = np.asarray(known, dtype=np.float32).tobytes()
    if result.topk_prompt_logprobs is not None:
        _write_topk(message.topk_prompt_logprobs, result.topk_prompt_logprobs)
    return message


def _write_topk(message: Any, rows: Sequence[Sequence[tuple[int, float]] | None]) -> None:
    width = max((len(row) for row in rows if row), default=0)
    ids = np.zeros((len(rows), width), dtype=np.int32)
    logprobs = np.full((len(rows), width), _NO_LOGPROB, dtype=np.float32)
    for place, row in enumerate(rows):
        for rank, (token, logprob) in enumerate(row or ()):
            ids[place, rank], logprobs[place, rank] = token, logprob
    message.k, message.length = width, len(rows)
    message.token_ids, message.logprobs = ids.tobytes(), logprobs.tobytes()


def spelled(value: Any) -> Any:
    """With "nan", "inf" and "-inf" in place of the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: spelled(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(each) for each in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _sample_json(result: SampleResult) -> dict[str, Any]:
    return {
        "type": "sample",
        "sequences": [
            {"tokens": each.tokens, "logprobs": each.logprobs, "stop_reason": str(each.stop_reason)} for each in result.sequences
        ],
        "prompt_logprobs": result.prompt_logprobs,
        "topk_prompt_logprobs": result.topk_prompt_logprobs,
    }
