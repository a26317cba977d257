"""Whether the pretrained weights that a run needs are at hand, asked when it is planned and not when it has started.

for finding in check_weights([*metric_needs("fid"), teacher_need("dinov3_vitl16")]):
    print(finding.line)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from prx_model.hub import HubSource
from prx_model.weight_homes import (
    CONFIG,
    DIFFUSERS_WEIGHTS,
    TOKENIZER,
    TRANSFORMERS_WEIGHTS,
    CheckpointFile,
    HubModel,
    Packages,
    Problem,
    RefusedError,
    UnreachableError,
)

NETWORK_TIMEOUT_S = 5.0
Home = HubModel | CheckpointFile | Packages


@dataclass(frozen=True, kw_only=True)
class Need:
    """Weights, and what needs them, in words: 'metric fid', 'teacher dinov3_vitl16'."""

    what: str
    home: Home


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Weights that are not on this machine, in one line. is_missing: nor can a run get them by itself."""

    need: Need
    line: str
    is_missing: bool


def metric_needs(metric: str) -> list[Need]:
    """What a metric of METRICS looks through. Raises ValueError on an unknown one."""
    from prx_model.metrics.features import EXTRACTORS
    from prx_model.metrics.table import metric_spec

    return [Need(what=f"metric {metric}", home=home) for home in EXTRACTORS[metric_spec(metric).extractor].homes]


def teacher_needs(teacher: str) -> list[Need]:
    """What a teacher of TEACHERS is made of. Raises ValueError on an unknown one."""
    from prx_model.metrics.features import EXTRACTORS
    from prx_model.teachers.table import teacher_spec

    spec = teacher_spec(teacher)
    what = f"teacher {teacher}"
    if spec.family is not None:
        source = HubSource.parse(spec.source, spec.revision)
        gated = "gated" in spec.licence
        return [Need(what=what, home=HubModel.of(source, CONFIG, TRANSFORMERS_WEIGHTS, gated=gated))]
    shared = next((extractor.homes for extractor in EXTRACTORS.values() if extractor.network == teacher), None)
    homes = shared or (Packages(names=(spec.source.split()[0],), extra="laptop"),)
    return [Need(what=what, home=home) for home in homes]


def autoencoder_needs(source: str, revision: str = "main") -> list[Need]:
    """What an autoencoder is made of, named as load_latent_space takes it."""
    from prx_model.latents import AUTOENCODERS

    home = HubModel.of(HubSource.parse(AUTOENCODERS.get(source, source), revision), CONFIG, DIFFUSERS_WEIGHTS)
    return [Need(what=f"autoencoder {source}", home=home)]


def text_encoder_needs(source: str, revision: str = "main", *, gated: bool | None = None) -> list[Need]:
    """What a text encoder and its tokenizer are made of, named as HubTextEncoder takes them."""
    from prx_model.encoding.hub_text import TOKENIZER_OF

    model = HubSource.parse(source, revision)
    tokenizer = model.beside(TOKENIZER_OF.get(model.subfolder, model.subfolder))
    files = HubModel.of(model, CONFIG, TRANSFORMERS_WEIGHTS).files + HubModel.of(tokenizer, TOKENIZER).files
    return [Need(what=f"text encoder {source}", home=HubModel(source=model, files=files, gated=gated))]


def check_weights(needs: Sequence[Need], *, timeout_s: float = NETWORK_TIMEOUT_S) -> list[Finding]:
    """One finding for each set of weights that is not whole on this machine, in the order of `needs`; none if all are.

    The network is asked only for what is missing, for `timeout_s` in all, and not in huggingface_hub's offline mode.
    Nothing is loaded or downloaded. Several needs of the same weights are one finding.
    """
    users: dict[Home, list[Need]] = {}
    for need in needs:
        users.setdefault(need.home, []).append(need)
    problems = {home: problem for home in users if (problem := home.problem()) is not None}
    answers = _answers([home for home, problem in problems.items() if problem.downloadable], timeout_s)
    return [_finding(users[home], problem, answers.get(home)) for home, problem in problems.items()]


def _answers(homes: Sequence[Home], timeout_s: float) -> dict[Home, str | Exception]:
    """What the network says of each home: a size, or why not. All are asked at once."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return dict.fromkeys(homes, UnreachableError("huggingface_hub is in offline mode"))
    answers: dict[Home, str | Exception] = {}

    def ask(home: Home) -> None:
        try:
            answers[home] = home.ask(timeout_s)
        except (RefusedError, UnreachableError) as error:
            answers[home] = error

    # Daemons: a name server can keep a request for minutes, whatever the client's own time limit.
    threads = [threading.Thread(target=ask, args=(home,), daemon=True) for home in homes]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = UnreachableError(f"no answer within {timeout_s:g} s")
    return {home: answers.get(home, late) for home in homes}


def _finding(needs: list[Need], problem: Problem, answer: str | Exception | None) -> Finding:
    what, home = ", ".join(need.what for need in needs), needs[0].home
    if isinstance(answer, str):
        return Finding(need=needs[0], line=f"{what}: {home} will be downloaded, {answer}", is_missing=False)
    if isinstance(answer, RefusedError):
        return Finding(need=needs[0], line=f"{what}: {problem.what}; {answer}", is_missing=True)
    reason = f", and the network gives no answer ({answer})" if answer else ""
    return Finding(need=needs[0], line=f"{what}: {problem.what}{reason}; {problem.remedy}", is_missing=True)
