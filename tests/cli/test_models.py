import json

import pytest

from omnitok import list_models
from omnitok.cli import main


def test_table_and_json_list_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["name", *list_models()]

    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list_models()
    released = next(row for row in rows if row["name"] == "omnitokenizer-imagenet-ucf")
    assert released["bits_per_token"] == 13  # 8192 codes
    assert released["bits_per_pixel"] == pytest.approx(13 / 64, abs=1e-6)
    assert released["source"].startswith("https://huggingface.co/")
    vae = next(row for row in rows if row["name"] == "omnitokenizer-imagenet-ucf-vae")
    assert (vae["bottleneck"], vae["bits_per_token"]) == ("VAE", 8 * 16)
