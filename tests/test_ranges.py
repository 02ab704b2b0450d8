"""What a constructor would refuse is refused by the option file's check: one line with the key and file:line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_run import stage_options

from basicsr.train import main
from basicsr.utils.errors import OptionError


@pytest.mark.parametrize(
    ("stage", "section", "change", "message"),
    [
        (1, "network_g", {"img_size": 33}, r"network_g\.img_size: 33 px cannot be halved"),
        (1, "network_g", {"nf": 0}, r"network_g\.nf: found 0, expected at least 1"),
        (1, "network_g", {"codebook_size": 0}, r"network_g\.codebook_size: found 0"),
        (1, "network_d", {"ndf": 0}, r"network_d\.ndf: found 0"),
        (2, "network_g", {"n_head": 0}, r"network_g\.n_head: found 0"),
        (2, "network_g", {"latent_size": 63}, r"network_g\.latent_size: 63, but"),
        (2, "train", {"p_null": 2.0}, r"train\.p_null: found 2\.0, expected 0 to 1"),
        (2, "train", {"p_self": -1.0}, r"train\.p_self: found -1\.0"),
        (2, "train", {"p_null": 0.6, "p_self": 0.6}, r"train\.p_null: found 0\.6 beside p_self 0\.6"),
        (3, "train", {"schedule": [{"w": [1.3, 0.5]}]}, r"train\.schedule\[0\]: found w \[1\.3, 0\.5\]"),
        (3, "train", {"schedule": [{"w": -1}]}, r"train\.schedule\[0\]: found w \[-1"),
        (1, "train", {"code_restart_every": 0}, r"train\.code_restart_every: found 0, expected at least 1"),
    ],
)
def test_a_dry_run_names_the_key_and_the_line(
    tmp_path: Path, stage: int, section: str, change: dict[str, Any], message: str
) -> None:
    plain = stage_options(stage, tmp_path)
    plain[section] |= change
    file = tmp_path / "wrong.yml"
    file.write_text(yaml.safe_dump(plain))
    with pytest.raises(OptionError) as caught:
        main(["-opt", str(file), "--dry-run"])
    assert re.match(message, str(caught.value)), str(caught.value)
    assert re.search(r"wrong\.yml:\d+\)$", str(caught.value))
    assert "\n" not in str(caught.value)
