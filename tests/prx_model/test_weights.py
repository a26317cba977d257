"""Weights at plan time: what is whole is not mentioned, what is not is one line, and no network is waited for."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prx_model.hub import HubSource
from prx_model.metrics.features import INCEPTION_ADDRESS
from prx_model.metrics.table import METRICS
from prx_model.teachers.table import TEACHERS
from prx_model.weight_homes import CONFIG, TRANSFORMERS_WEIGHTS, CheckpointFile, HubModel, Packages
from prx_model.weights import (
    Need,
    autoencoder_needs,
    check_weights,
    metric_needs,
    teacher_needs,
    text_encoder_needs,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OWN = HubSource(place="owner/name", revision="main")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub; conftest has made us offline."""
    import huggingface_hub.constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def put(cache: Path, place: str, *names: str, content: str = "") -> None:
    """Lay files into the cache as a download does."""
    home = cache / f"models--{place.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(COMMIT)
    for name in names:
        path = home / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def need(home: HubModel | CheckpointFile | Packages) -> Need:
    return Need(what="a test", home=home)


def lines(*needs: Need, timeout_s: float = 5.0) -> list[str]:
    findings = check_weights(needs, timeout_s=timeout_s)
    assert all("\n" not in finding.line for finding in findings)
    return [finding.line for finding in findings]


def test_an_empty_cache_is_told_with_files_place_and_command(cache: Path) -> None:
    (line,) = lines(*teacher_needs("dinov3_vitl16"))
    source = TEACHERS["dinov3_vitl16"].source
    assert line.startswith(f"teacher dinov3_vitl16: {source} (revision main) is not in {cache}: config.json, model.")
    assert f"`hf download {source}`" in line
    assert f"accept its licence at https://huggingface.co/{source}" in line
    assert "offline mode" in line
    assert "HF_HOME" in line
    assert check_weights(teacher_needs("dinov3_vitl16"))[0].is_missing


def test_what_is_in_the_cache_is_not_mentioned(cache: Path) -> None:
    put(cache, TEACHERS["dinov3_vitl16"].source, "config.json", "model.safetensors")
    put(cache, "openai/clip-vit-large-patch14-336", "config.json", "pytorch_model.bin")
    assert lines(*teacher_needs("dinov3_vitl16"), *metric_needs("cmmd")) == []


def test_another_revision_is_another_model(cache: Path) -> None:
    put(cache, "owner/name", "config.json", "model.safetensors")
    other = HubModel.of(HubSource(place="owner/name", revision="v2"), CONFIG, TRANSFORMERS_WEIGHTS)
    (line,) = lines(need(other))
    assert "`hf download owner/name --revision v2`" in line


def test_every_part_of_split_weights_is_looked_for(cache: Path) -> None:
    home = HubModel.of(OWN, CONFIG, TRANSFORMERS_WEIGHTS)
    put(cache, "owner/name", "config.json", "model-1-of-2.safetensors")
    index = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}})
    put(cache, "owner/name", "model.safetensors.index.json", content=index)
    (line,) = lines(need(home))
    assert f"is not in {cache}: model-2-of-2.safetensors, and" in line
    put(cache, "owner/name", "model-2-of-2.safetensors")
    assert lines(need(home)) == []
    put(cache, "owner/name", "model.safetensors.index.json", content="<html>")
    (line,) = lines(need(home))
    assert "model.safetensors.index.json (unreadable)" in line


def test_parts_of_a_pipeline_are_fetched_alone(cache: Path) -> None:
    (line,) = lines(*autoencoder_needs("flux"))
    assert "vae/config.json, vae/diffusion_pytorch_model.safetensors" in line
    assert "`hf download black-forest-labs/FLUX.1-schnell --include 'vae/*'`" in line
    put(cache, "black-forest-labs/FLUX.1-schnell", "vae/config.json", "vae/diffusion_pytorch_model.safetensors")
    assert lines(*autoencoder_needs("flux")) == []
    (line,) = lines(*text_encoder_needs("owner/pipeline:text_encoder"))
    assert "text_encoder/config.json, text_encoder/model.safetensors, tokenizer/tokenizer.json" in line
    assert "--include 'text_encoder/*' --include 'tokenizer/*'" in line


def test_a_saved_model_in_a_folder_is_whole_and_a_torn_one_is_not(tmp_path: Path, cache: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    tiny = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    CLIPVisionModelWithProjection(tiny).save_pretrained(tmp_path / "model")
    home = HubModel.of(HubSource.parse(str(tmp_path / "model")), CONFIG, TRANSFORMERS_WEIGHTS)
    assert lines(need(home)) == []
    (tmp_path / "model" / "model.safetensors").unlink()
    (line,) = lines(need(home))
    assert line == (
        f"a test: {tmp_path / 'model'} lacks model.safetensors; name a folder that `save_pretrained` has written"
    )


def test_weights_that_several_need_are_one_line(cache: Path) -> None:
    (line,) = lines(*metric_needs("dino_mmd"), *metric_needs("dino_mmd_unbiased"), *teacher_needs("dinov2_vitl14_reg"))
    assert line.startswith("metric dino_mmd, metric dino_mmd_unbiased, teacher dinov2_vitl14_reg: facebook/")


def test_every_metric_and_teacher_says_what_it_needs() -> None:
    assert all(metric_needs(metric) for metric in METRICS)
    assert all(teacher_needs(teacher) for teacher in TEACHERS)
    with pytest.raises(ValueError, match="did you mean 'cmmd'"):
        metric_needs("cmdm")
    laptop = [*metric_needs("mmd_opennsfw"), *teacher_needs("efficientnet_lite0"), *teacher_needs("dinov2s_saliency")]
    assert lines(*laptop) == []  # installed, as these tests need them too


def test_packages_that_are_not_installed_are_named_with_their_extra() -> None:
    (line,) = lines(need(Packages(names=("torch", "no-such-distribution"), extra="laptop")))
    assert line == "a test: package is not installed: no-such-distribution; pip install 'prx-sweeps[laptop]'"


def test_inception_missing_damaged_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.hub

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (inception,) = [need for need in metric_needs("fid") if isinstance(need.home, CheckpointFile)]
    path = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    (line,) = lines(inception)
    assert line.startswith(f"metric fid: no file {path}, and the network gives no answer")
    assert line.endswith(f"download {INCEPTION_ADDRESS} and put it there")
    path.parent.mkdir()
    path.write_bytes(b"half of it")
    (finding,) = check_weights([inception])
    begins = hashlib.sha256(b"half of it").hexdigest()[:8]
    assert f"{path} is damaged: its sha256 begins with {begins}, its name says 6726825d; delete it" in finding.line
    assert finding.is_missing
    address = f"http://127.0.0.1/weights-{begins}.pth"
    (tmp_path / "checkpoints" / f"weights-{begins}.pth").write_bytes(b"half of it")
    assert lines(need(CheckpointFile(address=address))) == []


# -- with a network: a server of our own answers as the hub does


DONE = threading.Event()


class Hub(BaseHTTPRequestHandler):
    """The hub's answers about owner/name; owner/gated is gated, owner/slow says nothing, all else is unknown."""

    def do_GET(self) -> None:
        place = "/".join(self.path.split("/")[3:5])
        if "/auth-check" in self.path:
            self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif place == "owner/slow":
            DONE.wait(60)
        elif place in ("owner/name", "owner/gated"):
            files = {"config.json": 700, "model.safetensors.index.json": 300, "model-1-of-1.safetensors": 2_500_000_000}
            siblings = [{"rfilename": name, "size": size} for name, size in (*files.items(), ("README.md", 10**10))]
            self._answer(200, {"id": place, "siblings": siblings, "gated": "manual" if "gated" in place else False})
        else:
            self._answer(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.send_response(200 if "there" in self.path else 404)
        self.send_header("Content-Length", "95000000")
        self.end_headers()

    def _answer(self, code: int, body: dict, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import huggingface_hub.constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    DONE.clear()
    yield address
    DONE.set()
    server.shutdown()
    server.server_close()


def model(place: str) -> Need:
    return need(HubModel.of(HubSource(place=place, revision="main"), CONFIG, TRANSFORMERS_WEIGHTS))


def test_what_the_network_has_will_be_downloaded_and_is_not_missing(network: str) -> None:
    (finding,) = check_weights([model("owner/name")])
    assert finding.line == "a test: owner/name (revision main) will be downloaded, 2.5 GB"
    assert not finding.is_missing
    (finding,) = check_weights([need(CheckpointFile(address=f"{network}/there/weights-{COMMIT[:8]}.pth"))])
    assert finding.line == f"a test: weights-{COMMIT[:8]}.pth will be downloaded, 95 MB"


def test_what_the_network_refuses_is_missing_and_why_is_told(network: str) -> None:
    gated, unknown, gone = check_weights(
        [model("owner/gated"), model("owner/unknown"), need(CheckpointFile(address=f"{network}/gone-01234567.pth"))]
    )
    assert gated.is_missing
    assert gated.line.endswith(f"it is gated: accept its licence at {network}/owner/gated, then `hf auth login`")
    assert unknown.is_missing
    assert "the hub has no such repository" in unknown.line
    assert gone.is_missing
    assert gone.line.endswith("answers 404 Not Found")


def test_a_network_that_does_not_answer_is_not_waited_for(network: str) -> None:
    first, second = lines(model("owner/slow"), model("owner/name"), timeout_s=3.0)
    assert "`hf download owner/slow`" in first
    assert "the network gives no answer (" in first
    assert "will be downloaded" in second


def test_a_closed_port_is_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        (finding,) = check_weights([model("owner/name")])
    assert finding.is_missing
    assert "the network gives no answer (" in finding.line
