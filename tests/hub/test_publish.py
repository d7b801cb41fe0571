"""Pushing to the hub's stand-in: what is sent, that it loads again, and what each refusal says."""

import copy
import dataclasses
import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

import omnitok
from helpers import small
from helpers.hub import StandIn
from helpers.video_peers import build_video_peer
from omnitok.app.models import load_models
from omnitok.cli import main
from omnitok.errors import CheckpointError, OmnitokError
from omnitok.generation.loading import make_generator
from omnitok.hub.card import LICENSE, card_metadata, with_metadata
from omnitok.hub.folder import save_generator
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.header import split_card
from omnitok.hub.publish import push_to_hub
from omnitok.models.code_sequence import LanguageModelConfig
from omnitok.models.language_model import LanguageModel
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.version import VERSION

# huggingface_hub uploads in a way that httpx warns of
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

OURS = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture
def tokenizer() -> OmniTokenizer:
    torch.manual_seed(0)
    return OmniTokenizer.from_config(dataclasses.replace(small.TINY, codebook_size=16)).eval()


@pytest.fixture
def folder(tokenizer: OmniTokenizer, tmp_path: Path) -> Path:
    return tokenizer.save_pretrained(tmp_path / "mine")


def language_model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(codebook_size=16, num_classes=2, width=16, depth=1, heads=2)).eval()


def settings_of(tokenizer: OmniTokenizer, name: str) -> GeneratorSettings:
    return GeneratorSettings(name, tokenizer.fingerprint, ("a", "b"), 8, 8, 3)


def sent(hub: StandIn, name: str, branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[name]
    return {path: content for path, content in repository.files(branch).items() if path != ".gitattributes"}


def metadata(card: bytes) -> dict[str, object]:
    return yaml.safe_load(split_card(card.decode())[0])


def test_a_tokenizer_is_pushed_in_one_commit_and_loads(tokenizer: OmniTokenizer, hub: StandIn) -> None:
    done = tokenizer.push_to_hub("someone/mine", private=True)
    files = sent(hub, "someone/mine")
    assert files.keys() == OURS == done.files.keys()
    assert hub.messages == [f"Upload mine with omnitok {VERSION}"]
    assert hub.repositories["someone/mine"].private
    assert (done.repository, done.url) == ("someone/mine", f"{hub.url}/someone/mine")
    assert done.commit == hub.repositories["someone/mine"].branches["main"][-1]
    assert OmniTokenizer.from_pretrained("someone/mine").fingerprint == tokenizer.fingerprint
    assert omnitok.load_tokenizer("someone/mine").fingerprint == tokenizer.fingerprint
    text = files["README.md"].decode()
    assert text.startswith("---\n")
    assert "# mine\n" in text
    assert 'from_pretrained("someone/mine")' in text
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert metadata(files["README.md"]) == {
        "license": project["license"].lower(),
        "library_name": project["name"],
        "pipeline_tag": "image-to-image",
        "tags": ["image-tokenizer", "video-tokenizer", "vq"],
    }


def test_a_generator_takes_its_tokenizer_with_it(tokenizer: OmniTokenizer, hub: StandIn, tmp_path: Path) -> None:
    generator = make_generator(language_model(), tokenizer, settings_of(tokenizer, "/not/here"))
    done = generator.push_to_hub("someone/lm", revision="trial", commit_message="First words")
    assert done.repository == "someone/lm@trial"
    assert hub.messages == ["First words"]
    assert sent(hub, "someone/lm", "trial").keys() == OURS | {f"tokenizer/{name}" for name in OURS}
    assert sent(hub, "someone/lm") == {}
    loaded = omnitok.load_generator("someone/lm@trial")
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert torch.equal(loaded.sample([0], seed=3), generator.sample([0], seed=3))
    assert list(load_models(["someone/lm@trial"]).generators) == ["someone/lm@trial"]  # of the page
    assert metadata(sent(hub, "someone/lm", "trial")["README.md"])["tags"] == [
        "image-generation",
        "video-generation",
        "language-model",
        "class-conditional",
    ]


def test_the_tokenizer_of_a_folder_is_found_where_training_left_it(
    tokenizer: OmniTokenizer, folder: Path, hub: StandIn, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    save_generator(language_model(), settings_of(tokenizer, str(folder)), run / "model")
    (run / "log.jsonl").write_text("{}")
    (run / "model/notes.txt").write_text("not for others")
    push_to_hub(run, "someone/lm")
    assert sent(hub, "someone/lm").keys() == OURS | {f"tokenizer/{name}" for name in OURS}
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(folder)
    assert omnitok.load_generator("someone/lm").tokenizer.fingerprint == tokenizer.fingerprint


def test_a_converted_tokenizer_of_another_project_is_pushed_without_our_licence(hub: StandIn) -> None:
    peer = copy.deepcopy(build_video_peer("tats_4x8x8"))
    peer.family = "tats"
    peer.push_to_hub("someone/tats")
    card = metadata(sent(hub, "someone/tats")["README.md"])
    assert (card["library_name"], "license" in card) == ("omnitok", False)
    assert omnitok.load_tokenizer("someone/tats").fingerprint == peer.fingerprint


def test_a_card_keeps_what_it_says(folder: Path, hub: StandIn) -> None:
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\ntags: [mine]\n---\n# Mine\n\nText.\n")
    push_to_hub(folder, "someone/mine")
    card = sent(hub, "someone/mine")["README.md"]
    assert split_card(card.decode())[1] == "# Mine\n\nText.\n"
    expected = {"license": "cc-by-4.0", "tags": ["mine"], "library_name": "omnitok", "pipeline_tag": "image-to-image"}
    assert metadata(card) == expected
    assert (folder / "README.md").read_text().startswith("---\nlicense: cc-by-4.0\ntags: [mine]\n---\n")
    (folder / "README.md").write_text("Text alone.")
    push_to_hub(folder, "someone/mine")
    card = sent(hub, "someone/mine")["README.md"]
    assert "license" not in metadata(card)  # that is for its author to say
    assert split_card(card.decode())[1] == "Text alone."
    (folder / "README.md").unlink()
    push_to_hub(folder, "someone/mine")
    assert metadata(sent(hub, "someone/mine")["README.md"])["license"] == LICENSE


@pytest.mark.parametrize("block", ("a: [", "- a\n", "text\n"))
def test_damaged_metadata_are_said(block: str) -> None:
    with pytest.raises(ValueError, match="its metadata are no YAML"):
        with_metadata(f"---\n{block}\n---\n", {})


@pytest.mark.parametrize("name", ("omnitok-tiny-vq", "omnitok-tiny-mask", "omnitok-tiny-text"))
def test_cards_of_the_package_lack_only_tags(name: str) -> None:
    folder = Path(omnitok.__file__).parent / "pretrained_models" / name
    fields = json.loads((folder / "config.json").read_text())
    own = metadata((folder / "README.md").read_bytes())
    assert {**own, "tags": None} == {"license": LICENSE, **card_metadata(fields), "tags": None}


# --------------------------------------------------------------------------------------------------------- refusals


def test_nothing_is_sent_of_what_is_no_model(
    tokenizer: OmniTokenizer, folder: Path, hub: StandIn, tmp_path: Path
) -> None:
    checkpoint = Path(__file__).parents[1] / "parity/data/vqvae_lightning.ckpt"
    (tmp_path / "empty").mkdir()
    other = OmniTokenizer.from_config(dataclasses.replace(small.TINY, codebook_size=16)).eval()
    save_generator(language_model(), settings_of(other, str(folder)), tmp_path / "strange")
    save_generator(language_model(), settings_of(other, "runs/gone"), tmp_path / "orphan")
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    refusals = {
        tmp_path / "empty": r"holds no config\.json",
        tmp_path / "none": "no such folder or file",
        checkpoint: "is a released checkpoint; make a folder of it first, by `omnitok convert`",
        damaged: "is damaged or not the file that was saved",
        tmp_path / "strange": "its tokenizer cannot go with it: .*mine has weights",
        tmp_path / "orphan": "its tokenizer cannot go with it: ",
        Path("someone/elses"): "no such model, folder or file",
    }
    for path, said in refusals.items():
        with pytest.raises(CheckpointError, match=said) as caught:
            push_to_hub(path, "someone/mine")
        assert "\n" not in str(caught.value)
    assert not [request for request in hub.requests if request.startswith(("POST", "PUT"))]


def test_each_refusal_of_the_hub_is_one_sentence(
    tokenizer: OmniTokenizer, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, said: str) -> None:
        with pytest.raises(OmnitokError, match=said) as caught:
            tokenizer.push_to_hub(name)
        assert "\n" not in str(caught.value)

    refused("other/mine", "^other/mine: the Hugging Face hub refuses the upload .403: You don't have the rights")
    hub.refusal = (413, "the repository is full")
    refused("someone/mine", r"refuses the upload \(413: the repository is full\)$")
    hub.refusal = None
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    refused("someone/mine", r"refuses the upload \(401: Invalid username or password\.\)$")
    monkeypatch.delenv("HF_TOKEN")
    refused("someone/mine", "pushing needs a token .* `hf auth login` keeps one, or HF_TOKEN gives it$")


def test_no_network_is_one_sentence(tokenizer: OmniTokenizer, no_hub: None) -> None:
    with pytest.raises(OmnitokError, match=r"^someone/mine: the Hugging Face hub cannot be reached") as caught:
        tokenizer.push_to_hub("someone/mine")
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- the verb


def test_the_verb_pushes_and_says_what(folder: Path, hub: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(folder), "someone/mine", "--json", "--message", "One"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["file"]: row["bytes"] for row in rows} == {k: len(v) for k, v in sent(hub, "someone/mine").items()}
    assert {row["repository"] for row in rows} == {"someone/mine"}
    assert hub.messages == ["One"]
    assert main(["models", str(folder)]) == 0


def test_a_dry_run_needs_no_hub(
    folder: Path, no_hub: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(folder), "someone/mine", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in OURS)
    assert "Nothing was sent" in shown
    assert main(["push", str(folder), "someone/mine"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("omnitok: error: someone/mine: pushing needs a token")
    assert main(["push", str(folder.parent), "someone/mine", "--dry-run"]) == 1
    assert "holds no config.json" in capsys.readouterr().err
