"""Golden figures of the published audio models and front-ends against this package, for ``pentad parity``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pentad.audio.frontends import (
    FrontEnd,
    FrontEndConfig,
    kaldi_filters,
    log_mel,
    preemphasis_mel,
    slaney_filters,
)
from pentad.audio.models import ast as ast_model
from pentad.audio.models import hts_at as hts_at_model
from pentad.audio.models import passt as passt_model
from pentad.audio.models.scores import Scores
from pentad.core import recipe

Rows = list[tuple[str, float, float]]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-6}
TOLERANCE_HTS_AT = {torch.float64: 1e-6, torch.float32: 1e-4}
# Float32 rounding of the front-ends themselves, stated with their figures (3e-6 to 2e-5), and a little room.
TOLERANCE_FRONT_END = {torch.float64: 1e-6, torch.float32: 5e-5}
_FIXED = 1e-6


class _Found(NamedTuple):
    """Outputs by stage, to be compared with what is expected under the same names."""

    output: Tensor
    stages: dict[str, Tensor]
    parameters: int


def ast(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of AST: a network, or pretrained weights moved to another size."""
    if "cases" in spec:
        return _adaptation_rows(spec, dtype, _adapt_ast)
    model = ast_model.import_official(_state(spec), ast_model.config_from_official(spec["hyperparameters"])).to(dtype)
    body, stages = model.network.audio_spectrogram_transformer, dict[str, Tensor]()
    _record_transformer(model.network, stages)
    _record(body.embeddings.patch_embeddings, stages, "patch_embed")
    _record(body.embeddings, stages, "tokens_with_position")
    with torch.no_grad():
        scores = model(_input(spec, dtype))
    return _rows(spec, _Found(scores.clip, {**stages, "features": scores.embedding}, _count(model)), TOLERANCE[dtype])


def passt(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of PaSST: from features or a waveform, with or without patchout."""
    if "cases" in spec:
        return _adaptation_rows(spec, dtype, _adapt_passt)
    model = passt_model.import_official(_state(spec), passt_model.config_from_official(spec["hyperparameters"]))
    model, stages = model.to(dtype), dict[str, Tensor]()
    _record_transformer(model.network, stages)
    _record(model.embeddings.projection, stages, "patch_embed")
    _record(model.embeddings, stages, "tokens_with_position")
    model.embeddings.kept = _kept(spec.get("keep", {}))
    features, extra = _input(spec, dtype), dict[str, Tensor]()
    if features.dim() == 2:
        extra["mel"] = FrontEnd(preemphasis_mel(), dtype)(features).transpose(1, 2)[:, None]
        # The network's tolerance is finer than the front-end's rounding in float32, so each is held to its own.
        features = FrontEnd(preemphasis_mel(), torch.float64)(features.double()).to(dtype)
    else:
        features = features[:, 0].transpose(1, 2)
    with torch.no_grad():
        # The official code cuts what exceeds its positions, after the convolution; here a caller has to.
        scores = model(features[:, : model.longest])
        if features.shape[1] > model.longest:
            extra["patch_embed"] = model.embeddings.projection(features.transpose(1, 2)[:, None])
    found = _Found(scores.clip, {**stages, **extra, "features": scores.embedding}, _count(model))
    rows = _rows(spec, found, TOLERANCE[dtype])
    return [(name, error, TOLERANCE_FRONT_END[dtype] if name == "mel" else limit) for name, error, limit in rows]


def hts_at(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of HTS-AT, from the log-mel or a waveform."""
    if "cases" in spec:
        return _adaptation_rows(spec, dtype, lambda case, state: hts_at_model.adapt(state))
    hyper = spec["hyperparameters"]
    model = hts_at_model.import_official(_state(spec), hts_at_model.config_from_official(hyper)).to(dtype)
    stages = dict[str, Tensor]()
    maps: dict[str, nn.Module] = {"patch_embed": model.patch_embed, "final_norm": model.norm}
    maps.update({f"stage{number}": stage for number, stage in enumerate(model.layers)})
    for name, module in {**maps, "bn0_mel_first": model.bn0, "tscam_logits": model.tscam_conv}.items():
        _record(module, stages, name)
    features = _input(spec, dtype)
    if features.dim() == 2:
        features = FrontEnd(_hts_at_front_end(hyper), dtype)(features)
        stages["log_mel"] = features[:, None]
    else:
        features = features[:, 0]
    with torch.no_grad():
        scores = _with_crops(model, features)
    # The published code has a map's tokens in one row.
    stages.update({name: stages[name].flatten(1, 2) for name in maps})
    stages["latent_output"] = scores.embedding
    if scores.frames is not None:
        hold = model.config.frames // model.config.steps
        stages["framewise_output"] = hts_at_model.hold_frames(scores.frames.sigmoid(), hold)
    clip = scores.clip if hyper.get("loss_type") == "clip_ce" else scores.clip.sigmoid()
    return _rows(spec, _Found(clip, stages, _count(model)), TOLERANCE_HTS_AT[dtype])


def _with_crops(model: hts_at_model.HTSAT, features: Tensor) -> Scores:
    """Scores of features of any length; longer ones by the official rule, the mean over crops of half their length."""
    count = features.shape[1]
    if count <= model.longest:
        return model(features)  # type: ignore[no-any-return]
    crop, hop = (count - 1) // 2, (count - 1) // 4
    parts = [model(features[:, start : start + crop]) for start in range(0, count - crop - 1, hop)]
    # The official code averages what has gone through the sigmoid.
    clip = torch.stack([part.clip.sigmoid() for part in parts]).mean(0).logit()
    frames = torch.stack([part.frames.sigmoid() for part in parts]).mean(0).logit()
    return Scores(clip, frames, torch.stack([part.embedding for part in parts]).mean(0))


def front_end(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of one of the three front-ends."""
    kind, settings = spec["frontend"], spec["settings"]
    wave = _input(spec, dtype)
    if kind == "ast_kaldi_fbank":
        return _kaldi_rows(spec, settings, wave, dtype)
    config = _hts_at_front_end(settings) if kind == "hts_at_logmel" else _passt_front_end(settings)
    front = FrontEnd(config, dtype)
    output = front(wave)
    if kind == "hts_at_logmel":
        stages = {"power_spectrum": front.power(wave)[:, None]}
        fixed = {"logmel_extractor.melW": torch.from_numpy(slaney_filters(config))}
        return _front_end_rows(spec, output[:, None], stages, fixed, dtype)
    stages = {"preemphasised": front.preemphasised(wave), "power_spectrum": front.power(wave).transpose(1, 2)}
    fixed = {
        "mel_filters": kaldi_filters(config)[:-1].T,
        "window": torch.hann_window(config.window, periodic=False),
    }
    return _front_end_rows(spec, output.transpose(1, 2), stages, fixed, dtype)


def _kaldi_rows(spec: Mapping[str, Any], settings: Mapping[str, Any], wave: Tensor, dtype: torch.dtype) -> Rows:
    config = FrontEndConfig(
        "kaldi_fbank",
        int(settings["sample_rate"]),
        int(settings["mel_bins"]),
        int(settings["fft_length"]),
        int(settings["frame_length_samples"]),
        int(settings["frame_shift_samples"]),
        float(settings["low_freq"]),
        float(settings["high_freq"]),
        float(settings["mean"]),
        float(settings["std"]),
    )
    front = FrontEnd(config, dtype)
    frames = nn.functional.pad(front.kaldi_frames(wave), (0, config.n_fft - config.window))
    length = int(settings["target_length_here"])
    output = front.pad(front(wave), length)[0, :length]
    stages = {
        "windowed_frames": frames[0],
        "power_spectrum": front.power(wave)[0],
        "log_mel_unpadded": front.log_mel(wave)[0],
    }
    return _front_end_rows(spec, output, stages, {"mel_filters": kaldi_filters(config)[:-1].T}, dtype)


def _front_end_rows(
    spec: Mapping[str, Any],
    output: Tensor,
    stages: Mapping[str, Tensor],
    fixed: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Rows:
    rows = _rows(spec, _Found(output, dict(stages), 0), TOLERANCE_FRONT_END[dtype])
    for name, tensor in fixed.items():
        if name in spec.get("fixed_tensors", {}):
            probe = spec["fixed_tensors"][name]["probe"]
            rows.append((f"fixed {name}", recipe.compare(tensor.double().numpy(), probe), _FIXED))
    return rows


def _hts_at_front_end(settings: Mapping[str, Any]) -> FrontEndConfig:
    preset = log_mel()
    size = int(settings.get("n_fft", settings.get("window_size", preset.n_fft)))
    return FrontEndConfig(
        "log_mel",
        int(settings.get("sample_rate", preset.sample_rate)),
        int(settings.get("mel_bins", preset.mel_bins)),
        size,
        int(settings.get("win_length", size)),
        int(settings.get("hop", settings.get("hop_size", preset.hop))),
        float(settings.get("fmin", preset.fmin)),
        float(settings.get("fmax", preset.fmax)),
    )


def _passt_front_end(settings: Mapping[str, Any]) -> FrontEndConfig:
    return FrontEndConfig(
        "preemphasis_mel",
        int(settings["sample_rate"]),
        int(settings["mel_bins"]),
        int(settings["n_fft"]),
        int(settings["win_length"]),
        int(settings["hop"]),
        float(settings["fmin"]),
        float(settings["fmax"]),
    )


def _adapt_ast(case: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hyper = {"embed_dim": _width(state), **case["hyperparameters"]}
    old = int(hyper.get("source_tdim", 1024))
    return ast_model.adapt(state, ast_model.config_from_official(hyper), source=case["from"], old_frames=old)


def _adapt_passt(case: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hyper = {"embed_dim": _width(state), "num_heads": 1, **case["hyperparameters"]}
    return passt_model.adapt(state, passt_model.config_from_official(hyper))


def _width(state: Mapping[str, Tensor]) -> int:
    return next(int(tensor.shape[2]) for name, tensor in state.items() if name.endswith("pos_embed"))


def _adaptation_rows(
    spec: Mapping[str, Any],
    dtype: torch.dtype,
    adapt: Callable[[Mapping[str, Any], Mapping[str, Tensor]], dict[str, Tensor]],
) -> Rows:
    rows: Rows = []
    for case in spec["cases"]:
        tensors = recipe.state_dict(case["source_tensors"])
        adapted = adapt(case, {name: torch.from_numpy(value).to(dtype) for name, value in tensors.items()})
        for name, expected in case["expected"].items():
            error = recipe.compare(adapted[name].numpy(), expected)
            rows.append((f"{case['case']} {name}", error, TOLERANCE[dtype]))
    return rows


def _state(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    state = {name: torch.from_numpy(value) for name, value in recipe.state_dict(spec["tensors"]).items()}
    return state | {alias: state[name] for alias, name in (spec.get("aliases") or {}).items()}


def _input(spec: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    given = spec["input"]
    return torch.from_numpy(recipe.array(given["key"], given["shape"], scale=given.get("scale", 1.0))).to(dtype)


def _kept(keep: Mapping[str, Any]) -> passt_model.Kept | None:
    if not keep:
        return None
    found = {name: torch.tensor(keep[name]) for name in ("time", "freq", "tokens") if keep.get(name) is not None}
    return passt_model.Kept(found.get("time"), found.get("freq"), found.get("tokens"))


def _record_transformer(network: Any, stages: dict[str, Tensor]) -> None:
    body = network.audio_spectrogram_transformer
    for number, block in enumerate(body.layers):
        _record(block, stages, f"block{number}")
    _record(body.layernorm, stages, "final_norm")
    _record(network.classifier.layernorm, stages, "head_norm")


def _record(module: nn.Module, stages: dict[str, Tensor], name: str) -> None:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        stages[name] = output if isinstance(output, Tensor) else output[0]

    module.register_forward_hook(hook)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _rows(spec: Mapping[str, Any], found: _Found, tolerance: float) -> Rows:
    expected = spec["expected"]
    rows = []
    for name, figures in expected.get("stages", {}).items():
        rows.append((name, recipe.compare(_shaped(found.stages[name], figures), figures), tolerance))
    if "output" in expected:
        rows.append(("output", recipe.compare(found.output.numpy(), expected["output"]), tolerance))
    if found.parameters and "parameters_used" in spec:
        rows.append(("parameters", float(abs(found.parameters - spec["parameters_used"])), 0.0))
    return rows


def _shaped(tensor: Tensor, figures: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The tensor with singleton axes as the published code has them; any other difference of shape stays one."""
    shape = list(figures["shape"])
    if [size for size in tensor.shape if size != 1] == [size for size in shape if size != 1]:
        tensor = tensor.reshape(shape)
    return tensor.numpy()
