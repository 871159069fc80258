"""What every family of encoders keeps to; and a family that another package brings."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from encoder_factories import make_model, random_pixels, randomise, save_weights
from tar_factories import write_dataset

from linprobe import Encoder, plugins
from linprobe.errors import LinprobeError
from linprobe_extract.encoders import family
from linprobe_extract.encoders.families import demo, open_clip_names, own
from linprobe_extract.encoders.families import timm as timm_family
from linprobe_extract.encoders.families import transformers as transformers_family
from linprobe_extract.encoders.family import EncoderChoice, Family, families, resolve_model
from linprobe_extract.encoders.loading import load_untrained
from linprobe_extract.encoders.weights import digest_weights

OURS: Mapping[str, Family] = {
    "demo": demo,
    "own": own,
    "timm": timm_family,
    "transformers": transformers_family,
    "open_clip": open_clip_names,
}
HELD_ELSEWHERE = {"own", "transformers"}
"""``test_own_encoder``, as it has no checkpoint, and ``test_transformers``, as it is an extra."""


class Contract:
    """A subclass says which family, and how to make a checkpoint of one of its models."""

    name: str

    def a_model(self, folder: Path) -> tuple[str, Path | None]:
        """Give a name that the family resolves, and the checkpoint of it, in ``folder``."""
        raise NotImplementedError

    @property
    def family(self) -> Family:
        """The family, as it is registered."""
        return families()[self.name]

    def test_it_lists_names_that_it_resolves(self) -> None:
        for name, origin in list(self.family.names().items())[:1]:
            ref = self.family.resolve(name, None)
            assert ref is not None
            assert ref.family == self.name
            assert origin

    def test_it_knows_its_own_names_alone(self) -> None:
        assert self.family.prefix or self.family.resolve("no-such-model", None) is None
        for other, theirs in families().items():
            for name in list(theirs.names())[:2]:
                if other != self.name and name.startswith(self.family.prefix):
                    assert self.family.resolve(name, None) is None

    def test_it_gives_a_frozen_tower_with_taps_and_an_identity(self, tmp_path: Path) -> None:
        name, weights = self.a_model(tmp_path)
        ref = resolve_model(name, weights=weights)
        tower, again = (self.family.load(ref) for _ in range(2))
        side = tower.preprocess.image_size

        with torch.inference_mode():
            features = tower.taps(torch.zeros(2, 3, side, side))
        assert next(iter(features)) == "embedding"
        assert all(f.ndim == 2 and len(f) == 2 for f in features.values())
        assert not any(module.training for module in list(tower.taps.modules())[1:])
        assert {p.dtype for p in tower.taps.parameters()} == {torch.float32}
        assert tower.architecture.partition(":")[2]
        assert tower.weights_sha256 == again.weights_sha256 != digest_weights(torch.nn.Module())
        assert (tower.preprocess.path, tower.preprocess.canary) == ("exact", "")
        json.dumps(tower.config)

    def test_its_untrained_tower_has_the_shapes_of_the_loaded_one(self, tmp_path: Path) -> None:
        name, weights = self.a_model(tmp_path)
        tower = load_untrained(EncoderChoice(name, weights, "cpu"))

        with torch.inference_mode():
            features = tower.taps(tower.pixels)
        spec = Encoder(name, weights=weights, device="cpu").spec
        assert {n: f.shape[1] for n, f in features.items()} == {t.name: t.dim for t in spec.taps}

    def test_its_names_need_no_torch(self) -> None:
        code = (
            "import sys; from linprobe_extract.encoders.family import families\n"
            f"family = families()[{self.name!r}]\n"
            "for name in list(family.names())[:1]: family.resolve(name, None)\n"
            "family.resolve(family.prefix + 'x', None)\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestDemo(Contract):
    name = "demo"

    def a_model(self, folder: Path) -> tuple[str, Path | None]:
        return "demo", None


class TestTimm(Contract):
    name = "timm"

    def a_model(self, folder: Path) -> tuple[str, Path | None]:
        model = timm.create_model("test_efficientnet", num_classes=10)
        randomise(model)
        save_weights(model, folder / "weights.safetensors")
        return "timm:test_efficientnet", folder / "weights.safetensors"


class TestOpenClip(Contract):
    name = "open_clip"

    def a_model(self, folder: Path) -> tuple[str, Path | None]:
        model = make_model(folder, "vit")
        return str(model.config), model.weights


def test_every_family_of_ours_is_held_to_the_contract() -> None:
    assert families() == OURS
    assert {each.name for each in Contract.__subclasses__()} == set(OURS) - HELD_ELSEWHERE


def test_a_checkpoint_for_timm_may_have_timms_names_already(tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0")
    randomise(model)
    save_weights(model, tmp_path / "mine.safetensors")
    encoder = Encoder("demo", weights=tmp_path / "mine.safetensors", device="cpu", precision="fp32")

    side = encoder.image_size
    assert encoder.encode_pixels(random_pixels(1, side))["embedding"].shape == (1, 1280)


FOREIGN = '''
"""A family of one model: the mean colour of an image, projected."""
from linprobe_extract.encoders.family import ModelRef, names_of

prefix = "mine:"
libraries = ("my-encoders",)

def names():
    return {"mine:mean-colour": "my-encoders"}

def resolve(name, weights):
    return ModelRef("mine", name.removeprefix(prefix), names_of(name, name, weights), weights)

def untrained(ref):
    return load(ref).taps, 32

def load(ref):
    import numpy as np
    import torch
    from linprobe_extract.encoders.tower import LoadedTower
    from linprobe_extract.encoders.weights import digest_weights
    from linprobe_store.format.spec import PreprocessSpec

    class MeanColour(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]), requires_grad=False)

        def forward(self, pixels):
            return {"embedding": pixels.mean(dim=(2, 3)) * self.scale + 4}

    def reference(image):
        return np.asarray(image.convert("RGB").resize((32, 32), 3))

    taps = MeanColour().eval()
    zeros, ones = (0.0,) * 3, (1.0,) * 3
    pixels = PreprocessSpec(32, zeros, ones, "bicubic", "squash", 0, 1.0, "exact", "", True)
    digest = digest_weights(taps)
    return LoadedTower(taps, "mine:MeanColour", {}, "none", digest, pixels, reference)
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages: one distribution, ``my-encoders``, with one family."""
    folder = tmp_path / "site"
    about = folder / "my_encoders-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-encoders\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[linprobe.encoders]\nmine = my_encoders\n")
    (folder / "my_encoders.py").write_text(FOREIGN)
    return folder


def run_with(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where the packages of ``site`` are installed too."""
    code = f"import sys; sys.path.append({str(site)!r}); from linprobe.door import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_a_family_of_another_package_is_listed_suggested_and_extracted_with(
    site: Path, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [5], "test": [3]})
    run = ["extract", "--data", str(data), "--store", str(tmp_path / "features"), "--device", "cpu"]

    listed = run_with(site, "models")
    misspelt = run_with(site, *run, "--model", "mine;mean-color")
    done = run_with(site, *run, "--model", "mine:mean-colour")
    again = run_with(site, *run, "--model", "mine:mean-colour")

    assert "mine:mean-colour" in listed.stdout
    assert "did you mean mine:mean-colour" in misspelt.stderr
    assert done.returncode == 0, done.stderr
    assert "train    5 rows" in done.stdout
    (encoder,) = (tmp_path / "features").glob("enc-mine-mean-colour-*")
    assert json.loads((encoder / "encoder.json").read_text())["architecture"] == "mine:MeanColour"
    provenance = json.loads((encoder / "provenance.jsonl").read_text())
    assert provenance["versions"]["my-encoders"] == "1.2"
    assert "nothing to do" in again.stderr


def test_a_family_of_another_package_takes_no_name_of_ours(site: Path) -> None:
    (site / "my_encoders.py").write_text(FOREIGN.replace('"mine:"', '"timm:"', 1))
    code = (
        f"import sys; sys.path.append({str(site)!r})\n"
        "from linprobe_extract.encoders.family import resolve_model\n"
        "print(resolve_model('timm:resnet18').family)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "timm"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        (FOREIGN.replace('"mine:"', '""', 1), "expected a prefix with a colon, found ''"),
        ("", "found None"),
    ],
)
def test_a_family_that_cannot_be_used_is_named_with_its_package(
    site: Path, source: str, message: str
) -> None:
    (site / "my_encoders.py").write_text(source)
    done = run_with(site, "models")

    assert done.returncode == 1
    assert "'mine' of my-encoders cannot be used: " in done.stderr
    assert message in done.stderr
    assert "pip uninstall my-encoders" in done.stderr


def test_a_family_may_not_be_called_as_ours(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint(
        "timm", "linprobe_extract.encoders.families.timm", family.GROUP
    )
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    families.cache_clear()
    with pytest.raises(LinprobeError, match="linprobe has a family of this name"):
        resolve_model("demo")
    families.cache_clear()
