"""What the commands pretrain and preview resolve, step by step, without training."""

from dataclasses import dataclass, replace
from typing import Any

from selftaught.data.check_images import Checked
from selftaught.data.open_images import check_data
from selftaught.encoders.folder import open_encoder
from selftaught.options.train import Pretrain, Preview
from selftaught.recipe.config import Config
from selftaught.recipe.resolve import echo, resolve, resolve_views, view_wishes, wishes


@dataclass(frozen=True)
class ResolvedRun:
    """The configuration, the images it is for, and what the user is told."""

    config: Config
    checked: Checked
    echo: str


def resolved_run(device: str = "cpu", **options: Any) -> ResolvedRun:
    """As `pretrain` with these options on this device."""
    chosen = Pretrain(**options)
    asked = wishes(chosen)
    init = asked.first.network.init
    checked = check_data(asked.first.data, replace(chosen, device="cpu").machine())
    found = resolve(asked, checked, device, open_encoder(init).config if init else None)
    text = "\n".join([echo(found.config, checked, asked), *found.notes])
    return ResolvedRun(found.config, checked, text)


def resolved_preview(chosen: Preview, device: str = "cpu") -> ResolvedRun:
    """As `preview` with these options."""
    asked = view_wishes(chosen)
    checked = check_data(asked.first.data, chosen.machine())
    found = resolve_views(asked, checked, device)
    return ResolvedRun(found.config, checked, "\n".join(found.notes))
