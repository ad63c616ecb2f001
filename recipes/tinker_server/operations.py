"""What the endpoints do, in words of ours: open and end sessions, train, save, load, sample. HTTP is `app.py`'s."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from recipes.backends.local.engine import Engine
from recipes.backends.local.sampler import LocalSampler
from recipes.tinker_server.checkpoints import Address, CheckpointStore, Kind, RunFacts, Saved
from recipes.tinker_server.codec import GradientRequest, Payload, RequestRefused, adam_of, field, sampling_of, tokens_of, whole
from recipes.tinker_server.models import Models, TrainingRun
from recipes.tinker_server.promises import Answer, Promises
from recipes.tinker_server.sessions import HeldSamplers, Sampler, Session, Sessions
from recipes.types import AdamParams

log = logging.getLogger(__name__)

MAX_RANK = 512
MAX_SAMPLES = 1024


class Number(NamedTuple):
    """Whose request it is and which, as it was sent. is_gradient: a step behind it must not be taken without it."""

    model_id: Any
    seq_id: Any
    is_gradient: bool = False


class Operations:
    """One per server. Every method is called in the event loop; what computes is handed to the thread of `Models`."""

    def __init__(self, models: Models, store: CheckpointStore) -> None:
        self.models = models
        self.store = store
        self.sessions = Sessions()
        self.held = HeldSamplers()
        self.promises = Promises()

    # ------------------------------------------------------------------ runs

    def create_model(self, values: dict[str, Any]) -> dict[str, Any]:
        session = self.sessions.get(values.get("session_id"))
        served = self.models.check_name(field(values, "base_model", str))
        lora = field(values, "lora_config", dict, {})
        rank = field(lora, "rank", int, 32)
        if not 1 <= rank <= MAX_RANK:
            raise RequestRefused(f"lora_config.rank is from 1 to {MAX_RANK}, not {rank}: this server trains LoRA adapters.")
        for layers in ("train_attn", "train_mlp"):
            if lora.get(layers) is False:
                raise RequestRefused(f"lora_config.{layers}: this server's adapters lie on all linear layers; leave it on.")
        if (kind := field(field(values, "optimizer_config", dict, {}), "type", str, "adamw")) != "adamw":
            raise RequestRefused(f"This server's optimizer is AdamW, not {kind}.")
        number = field(values, "model_seq_id", int)
        seed = field(lora, "seed", int, None)
        facts = _facts(served.name, rank, values)

        def make(run: TrainingRun) -> Engine:
            return self._engine(run, seed=secrets.randbits(31) if seed is None else seed % (1 << 63))

        return self._create(session, number, facts, make, "create_model")

    def load_weights(self, values: dict[str, Any], content: bytes) -> dict[str, Any]:
        """A new run from a checkpoint: it is the run's first request. Clients of Tinker 0.23 (Fireworks' SDK is one) make a
        model first and load into that."""
        address = Address.of(field(values, "path", str))
        saved = self.store.find(address)
        with_optimizer = field(values, "optimizer", bool)
        if address.kind is not Kind.TRAINING and with_optimizer:
            raise RequestRefused(f"{address.uri} holds no optimizer state; an address with /weights/ in it does.")
        session_id = values.get("session_id")
        if session_id is None:
            return self._load_into(values, content, saved, with_optimizer)
        session = self.sessions.get(session_id)
        origin = self.store.facts_of(address.run_id)
        base_model = field(values, "base_model", str, origin.base_model)
        self.models.check_name(base_model)
        folder = self.store.weights(address)

        def make(run: TrainingRun) -> Engine:
            engine = self._engine(run, seed=0)
            if address.kind is Kind.TRAINING:
                engine.load_full_state(str(folder), with_optimizer=with_optimizer)
            else:
                engine.begin_from(folder)
            return engine

        facts = _facts(base_model, origin.lora_rank, values)
        return self._create(session, field(values, "model_seq_id", int), facts, make, "load_weights", path=saved.uri)

    def _load_into(self, values: dict[str, Any], content: bytes, saved: Saved, with_optimizer: bool) -> dict[str, Any]:
        run = self.sessions.run(values.get("model_id"))
        if saved.address.kind is not Kind.TRAINING:
            raise RequestRefused("Weights for sampling are loaded into a new model: send session_id, not model_id.")
        origin = self.store.facts_of(saved.address.run_id)
        if (origin.base_model, origin.lora_rank) != (run.base_model, run.lora_rank):
            raise RequestRefused(
                f"{saved.uri} is of {origin.base_model} with rank {origin.lora_rank}, the model {run.run_id} of {run.base_model}"
                f" with rank {run.lora_rank}: load it into a model like its own."
            )
        folder = self.store.weights(saved.address)

        def compute(engine: Engine) -> Answer:
            engine.load_full_state(str(folder), with_optimizer=with_optimizer)
            return {"type": "load_weights", "path": saved.uri}

        return self._in_turn(run.run_id, field(values, "seq_id", int, None), content, compute)

    def _create(
        self,
        session: Session,
        number: int,
        facts: RunFacts,
        make: Callable[[TrainingRun], Engine],
        kind: str,
        **answer: Any,
    ) -> dict[str, Any]:
        run_id = f"{session.session_id}:train:{number}"
        if known := session.creations.get(("model", number)):
            return {"request_id": known, "model_id": run_id}
        run = TrainingRun(run_id, session.session_id, facts.base_model, facts.lora_rank)
        self.store.begin_run(run_id, facts)
        session.runs[run_id] = run

        def begin() -> Answer:
            run.engine = make(run)
            return {"type": kind, "model_id": run_id, **answer}

        request_id = self.promises.add(session.session_id, self.models.submit(begin))
        session.creations["model", number] = request_id
        return {"request_id": request_id, "model_id": run_id}

    def _engine(self, run: TrainingRun, *, seed: int) -> Engine:
        return self.models.open_engine(
            run.base_model, lora_rank=run.lora_rank, seed=seed, output_dir=self.store.run_folder(run.run_id)
        )

    def info(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.sessions.run(values.get("model_id"))
        name = run.base_model
        return {
            "type": "get_info",
            "model_id": run.run_id,
            "model_name": name,
            "model_data": {"model_name": name, "tokenizer_id": self.models.tokenizer_id(name)},
            "is_lora": True,
            "lora_rank": run.lora_rank,
        }

    # ------------------------------------------------------------------ training

    def gradient(self, request: GradientRequest, content: bytes) -> dict[str, Any]:
        def compute(engine: Engine) -> Answer:
            # A batch that does not fit the loss is refused by the engine, which then refuses the step behind it too.
            call = engine.forward if request.forward_only else engine.forward_backward
            return Payload(call(request.data, request.loss_fn, request.loss_fn_config or None))

        return self._in_turn(request.model_id, request.seq_id, content, compute)

    def optim_step(self, values: dict[str, Any], content: bytes) -> dict[str, Any]:
        adam: AdamParams = adam_of(values)

        def compute(engine: Engine) -> Answer:
            metrics = engine.optim_step(adam).metrics
            return {"type": "optim_step", "metrics": {key.removeprefix("optim/"): value for key, value in metrics.items()}}

        return self._in_turn(values.get("model_id"), field(values, "seq_id", int, None), content, compute)

    def save(self, values: dict[str, Any], content: bytes, kind: Kind) -> dict[str, Any]:
        """Weights under a name. Without one, for sampling, weights that only this session can sample from."""
        run = self.sessions.run(values.get("model_id"))
        if kind is Kind.SAMPLER and values.get("path") is None:
            return self._save_for_session(run, values, content)
        address = Address.from_parts(run.run_id, kind, field(values, "path", str))
        ttl, metadata = field(values, "ttl_seconds", int, None), field(values, "user_metadata", dict, None)
        if values.get("age_encryption_recipients"):
            raise RequestRefused("This server does not encrypt exports: leave age_encryption_recipients out.")
        may_replace = kind is not Kind.TRAINING or field(values, "overwrite", bool, False)

        def compute(engine: Engine) -> Answer:
            if self.store.exists(address) and not may_replace:
                raise RequestRefused(f"There is a checkpoint {address.uri} already. Send overwrite, or give another name.")
            name = address.engine_name
            engine.save_full_state(name) if kind is Kind.TRAINING else engine.save_for_sampler(name)
            self.store.record(address, ttl_seconds=ttl, user_metadata=metadata)
            verb = {"weights": "save_weights", "sampler_weights": "save_weights_for_sampler"}.get(kind, "save_weights_external")
            return {"type": verb, "path": address.uri}

        return self._in_turn(run.run_id, field(values, "seq_id", int, None), content, compute)

    def _save_for_session(self, run: TrainingRun, values: dict[str, Any], content: bytes) -> dict[str, Any]:
        if field(values, "kind", str, "snapshot") != "snapshot":
            raise RequestRefused("This server samples from snapshots; inflight weights it does not have.")
        session = self.sessions.get(run.session_id)
        number = whole(values, "sampling_session_seq_id")
        sampler_id = f"{run.session_id}:sample:{number}"

        def compute(engine: Engine) -> Answer:
            folder = engine.save_for_sampler(self.store.snapshot_name(number))
            sampler = Sampler(sampler_id, run.session_id, run.base_model, None, folder=folder, lora_rank=run.lora_rank)
            sampler.client = self.models.sampler_of(run.base_model, engine)
            self.held.use(sampler)
            session.samplers[sampler_id] = sampler
            if not self.sessions.is_open(session.session_id):  # it ended meanwhile, and with it went what was held then
                self.held.forget(session.session_id)
                self.store.drop_snapshots(run.run_id)
            return {"type": "save_weights_for_sampler", "path": None, "sampling_session_id": sampler_id}

        return self._in_turn(run.run_id, field(values, "seq_id", int, None), content, compute)

    def numbered(self, number: Number, content: bytes, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """`work` takes its turn by itself. What is refused before it could is the outcome of that turn: whoever is behind it
        would wait for its number for ever. Raises what `work` does where nobody waits."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever it is, those behind it wait for this number
            is_refusal = isinstance(error, RequestRefused)
            sentence = str(error) if is_refusal else f"The server failed at this request ({type(error).__name__})."
            if not is_refusal:
                log.exception("a request could not be read")
            run = self.sessions.run_if_open(number.model_id)
            if run is None or not run.awaits(number.seq_id):
                raise

        def compute(engine: Engine) -> Answer:
            if number.is_gradient:
                engine.lose_gradient(sentence)
            raise RequestRefused(sentence)

        return self._in_turn(run.run_id, number.seq_id, content, compute)

    def _in_turn(self, run_id: Any, seq_id: int | None, content: bytes, compute: Callable[[Engine], Answer]) -> dict[str, Any]:
        run = self.sessions.run(run_id)

        def submit() -> Any:
            return self.models.submit(lambda: compute(run.require_engine()))

        return {"request_id": run.take_turn(seq_id, content, self.promises, submit), "model_id": run.run_id}

    # ------------------------------------------------------------------ sampling

    def create_sampler(self, values: dict[str, Any]) -> dict[str, Any]:
        session = self.sessions.get(values.get("session_id"))
        number = field(values, "sampling_session_seq_id", int)
        sampler_id = f"{session.session_id}:sample:{number}"
        if sampler_id not in session.samplers:
            path, saved_at = field(values, "model_path", str, None), None
            if path is not None:
                address = Address.of(path)
                saved_at = self.store.find(address).time
                base_model = self.store.facts_of(address.run_id).base_model
            else:
                base_model = field(values, "base_model", str)
            self.models.check_name(base_model)
            session.samplers[sampler_id] = Sampler(sampler_id, session.session_id, base_model, path, saved_at)
        return {"type": "create_sampling_session", "sampling_session_id": sampler_id}

    def sampler_info(self, sampler_id: str) -> dict[str, Any]:
        sampler = self.sessions.sampler(sampler_id)
        return {"sampler_id": sampler.sampler_id, "base_model": sampler.base_model, "model_path": sampler.model_path}

    def sample(self, values: dict[str, Any], content: bytes) -> dict[str, Any]:
        for name in ("topk_sample_logprobs", "target_prompt_logprobs", "prompt_alt_tokens_k", "record_stability_info"):
            if values.get(name):
                raise RequestRefused(f"This server does not offer {name}; leave it out.")
        sampler = self.sessions.sampler(values.get("sampling_session_id"))
        num_samples = field(values, "num_samples", int, 1)
        if not 1 <= num_samples <= MAX_SAMPLES:
            raise RequestRefused(f"num_samples is from 1 to {MAX_SAMPLES}, not {num_samples}.")
        prompt = tokens_of(field(values, "prompt", dict))
        params = sampling_of(field(values, "sampling_params", dict, {}))
        wants_logprobs = field(values, "prompt_logprobs", bool, False)
        last = field(values, "prompt_logprobs_last_n", int, None)
        topk = field(values, "topk_prompt_logprobs", int, 0)
        seq_id = field(values, "seq_id", int, None)
        fingerprint = hashlib.sha256(content).hexdigest()
        if seq_id is not None and (known := sampler.requests.get(seq_id)) is not None:
            if known[1] != fingerprint:
                raise RequestRefused(f"Request {seq_id} of {sampler.sampler_id} was another one.", status=409)
            return _sample_answer(known[0], num_samples)

        async def work() -> Answer:
            client = sampler.client
            if client is None:
                client = await self.models.submit(lambda: self._open_sampler(sampler))
            self.held.use(sampler)
            result = await client.sample_async(
                prompt=prompt,
                params=params,
                num_samples=num_samples,
                include_prompt_logprobs=wants_logprobs,
                topk_prompt_logprobs=topk,
            )
            return Payload(result if last is None else replace(result, **_only_last(result, last)))

        request_id = self.promises.add(sampler.session_id, work())
        if seq_id is not None:
            sampler.requests[seq_id] = (request_id, fingerprint)
        return _sample_answer(request_id, num_samples)

    def _open_sampler(self, sampler: Sampler) -> LocalSampler:
        """In the thread. Raises RequestRefused for a checkpoint that is not there any more as it was."""
        if (client := sampler.client) is None:
            client = sampler.client = self.models.sampler_of(sampler.base_model, self._sampled_engine(sampler))
        return client

    def _sampled_engine(self, sampler: Sampler) -> Engine | None:
        """With the sampler's weights; None for the base."""
        if sampler.folder is not None:
            engine = self.models.open_engine(sampler.base_model, lora_rank=sampler.lora_rank, seed=0, output_dir=sampler.folder)
            engine.begin_from(sampler.folder)
            return engine
        if sampler.model_path is None:
            return None
        address = Address.of(sampler.model_path)
        if self.store.find(address).time != sampler.saved_at:
            raise RequestRefused(f"{address.uri} was saved anew since this client was made. Make a new one.")
        folder = self.store.weights(address)
        engine = self.models.open_engine(
            sampler.base_model, lora_rank=self.store.facts_of(address.run_id).lora_rank, seed=0, output_dir=folder
        )
        if address.kind is Kind.TRAINING:
            engine.load_full_state(str(folder), with_optimizer=False)
        else:
            engine.begin_from(folder)
        return engine

    # ------------------------------------------------------------------ sessions and what they leave

    def end_session(self, session_id: str) -> list[str]:
        """Gives the ids of its runs, whose snapshots are to be dropped."""
        run_ids = self.sessions.end(session_id)
        self.promises.drop_session(session_id)
        self.held.forget(session_id)
        return run_ids

    def drop_snapshots(self, run_ids: Iterable[str]) -> None:
        """Of an RL run there is one for each step."""
        for run_id in run_ids:
            self.store.drop_snapshots(run_id)

    def sweep(self) -> None:
        """Now and then: end silent sessions, forget old results, remove expired checkpoints."""
        for session_id in self.sessions.silent():
            log.info("session %s was not heard of any more", session_id)
            self.drop_snapshots(self.end_session(session_id))
        self.promises.sweep()
        self.store.sweep({run_id for session in self.sessions.all() for run_id in session.runs})

    def capabilities(self) -> dict[str, Any]:
        return {
            "supported_models": [
                {
                    "model_name": name,
                    "max_context_length": self.models.max_context(name),
                    "trainable": True,
                    "sampleable": True,
                    "tokenizer_id": self.models.tokenizer_id(name),
                }
                for name in self.models.served
            ]
        }

    def run_info(self, run_id: str) -> dict[str, Any]:
        facts = self.store.facts_of(run_id)
        saved = self.store.listed(run_id)
        newest = {
            kind: next((self.checkpoint_info(each) for each in saved if each.address.kind is kind), None)
            for kind in (Kind.TRAINING, Kind.SAMPLER)
        }
        return {
            "training_run_id": run_id,
            "base_model": facts.base_model,
            "model_owner": "local",
            "is_lora": True,
            "lora_rank": facts.lora_rank,
            "last_request_time": max([facts.created_at, *(each.time for each in saved)]),
            "last_checkpoint": newest[Kind.TRAINING],
            "last_sampler_checkpoint": newest[Kind.SAMPLER],
            "user_metadata": facts.user_metadata,
        }

    def checkpoint_info(self, saved: Saved) -> dict[str, Any]:
        address = saved.address
        return {
            "checkpoint_id": f"{address.kind}/{address.name}",
            "checkpoint_type": address.kind.word,
            "time": saved.time,
            "tinker_path": saved.uri,
            "size_bytes": self.store.size_of(address),
            "public": False,
            "expires_at": saved.expires_at,
            "user_metadata": saved.user_metadata,
        }

    def weights_info(self, uri: str) -> dict[str, Any]:
        address = Address.of(uri)
        self.store.find(address)
        facts = self.store.facts_of(address.run_id)
        return {
            "base_model": facts.base_model,
            "is_lora": True,
            "lora_rank": facts.lora_rank,
            "train_attn": True,
            "train_mlp": True,
            "train_unembed": False,
        }


def _facts(base_model: str, lora_rank: int, values: dict[str, Any]) -> RunFacts:
    return RunFacts(base_model, lora_rank, datetime.now(UTC).isoformat(), field(values, "user_metadata", dict, None))


def _sample_answer(request_id: str, num_samples: int) -> dict[str, Any]:
    return {"request_id": request_id, "sample_sequence_ids": [f"{request_id}-{index}" for index in range(num_samples)]}


def _only_last(result: Any, count: int) -> dict[str, Any]:
    """The scores of the last `count` prompt tokens; those before them None."""
    scores = result.prompt_logprobs
    if scores is None or not 1 <= count < len(scores):
        raise RequestRefused("prompt_logprobs_last_n goes with prompt_logprobs, from 1 to the length of the prompt minus 1.")
    hidden = len(scores) - count
    rows = result.topk_prompt_logprobs
    return {
        "prompt_logprobs": [None] * hidden + scores[hidden:],
        "topk_prompt_logprobs": None if rows is None else [None] * hidden + rows[hidden:],
    }
