"""timm's networks: whether timm can build an encoder, its defaults and pretrained weights."""

from pathlib import Path
from typing import Any

from torch import Tensor

from selftaught.encoders.encoder import OWN, EncoderConfig
from selftaught.errors import ConfigError, FileError, UserError, did_you_mean
from selftaught.foundation import files
from selftaught.views.policy import Intensity


def timm_mismatch(config: EncoderConfig) -> str:
    """Why timm cannot build the same network from its name; empty if it can."""
    name = config.architecture
    if config.front == "sobel":
        return "Sobel filters precede it"
    if name == "vgg16":
        return "its vgg16 has no batch norm"
    if name in OWN:
        return f"it has no {name}"
    return "" if config.stem == "standard" else "its ResNets have no small stem"


def pretrained_weights(name: str) -> tuple[EncoderConfig, dict[str, Tensor], Path]:
    """timm's pretrained weights from the local cache; no network access.

    Returns:
        The configuration, the trunk's tensors and their file.

    Raises:
        ConfigError: timm has no such network, or one of ours hides it.
        UserError: The weights are not in the cache; the remedy downloads them.
        FileError: The file is not what timm expects.
    """
    import timm

    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        remedy = did_you_mean(name, known)
        few = len(remedy) < 200  # without a close name it lists more than a thousand
        raise ConfigError(
            f"timm has no network {name!r}", remedy if few else "see timm.list_pretrained()"
        )
    if name.split(".")[0] in OWN:
        raise ConfigError(
            f"selftaught's own network hides timm's {name}", f"use timm:{name.split('.')[0]}_bn"
        )
    cfg: Any = timm.get_pretrained_cfg(name)
    path = _cached_weights(name, cfg)
    size = int(cfg.input_size[-1])
    intensity = Intensity(mean=tuple(cfg.mean), std=tuple(cfg.std))
    config = EncoderConfig(
        name.split(".")[0], image_size=size, stem="standard", intensity=intensity
    )
    return config, _headless_tensors(name, path), path


def default_image_size(name: str) -> int:
    """Image size in pixels of a network that has a fixed one; 224 for others."""
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    return int(cfg.input_size[-1]) if getattr(cfg, "fixed_input_size", False) else 224


def default_intensity(name: str) -> Intensity:
    """Intensity for the weights that timm loads by default into this network."""
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    return Intensity(mean=tuple(cfg.mean), std=tuple(cfg.std)) if cfg else Intensity()


def _cached_weights(name: str, cfg: Any) -> Path:
    """The safetensors file of the weights in the cache."""
    from huggingface_hub import try_to_load_from_cache

    if not cfg.hf_hub_id:
        raise UserError(f"timm has no safetensors weights for {name}", "choose another network")
    found = try_to_load_from_cache(cfg.hf_hub_id, "model.safetensors")
    if not isinstance(found, str):
        raise UserError(
            f"the weights of {name} are not in timm's cache",
            f"run python -c \"import timm; timm.create_model('{name}', pretrained=True)\"",
        )
    return Path(found)


def _headless_tensors(name: str, path: Path) -> dict[str, Tensor]:
    """The tensors as timm reads them (some are renamed or resized), without the classifier."""
    import timm

    files.load_tensors(path)  # refuses damaged files before timm opens them
    overlay = {"file": str(path), "custom_load": False}
    try:
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise FileError(
            f"{path} is not what timm expects ({reason})", "download it again"
        ) from error
    model.reset_classifier(0)
    tensors: dict[str, Tensor] = model.state_dict()
    return tensors
