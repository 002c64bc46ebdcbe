"""PaSST's training step with and without patchout, and fused against plain attention: time and peak memory.

    python benchmarks/audio.py patchout
    python benchmarks/audio.py attention

Each variant runs in a process of its own, one after the other in turns, so that neither the other's memory nor a busy
machine's mood decides. Time is CPU time of the process, memory the peak above the loaded model.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

ROUNDS = 2


def peak() -> float:
    """Peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(kind: str, variant: str) -> dict[str, float]:
    """Seconds and MiB of one variant, after a warm-up on a short input."""
    import torch

    from pentad.audio.models.ast import AST, ASTConfig
    from pentad.audio.models.passt import PaSST, PaSSTConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind == "patchout":
        time_out, frequency_out = (40, 4) if variant == "40/4" else (0, 0)
        model = PaSST(PaSSTConfig(patchout_time=time_out, patchout_frequency=frequency_out)).train()
        features, batch = torch.randn(2, 998, 128), 2
    else:
        name, attention = variant.split("-")
        model = AST(ASTConfig(), attention) if name == "ast" else PaSST(PaSSTConfig(), attention)
        model.eval()
        features, batch = torch.randn(1, 1024 if name == "ast" else 998, 128), 1
    before, start = peak(), time.process_time()
    if kind == "patchout":
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(features).clip, torch.zeros(batch, 527))
        loss.backward()
    else:
        with torch.inference_mode():
            model(features)
    return {"seconds": time.process_time() - start, "mib": peak() - before}


def compare(kind: str, pairs: list[tuple[str, str]]) -> None:
    """Print both variants of each pair and their ratios."""
    for slow, fast in pairs:
        found: dict[str, list[dict[str, float]]] = {slow: [], fast: []}
        for _ in range(ROUNDS):
            for variant in (slow, fast):
                call = [sys.executable, __file__, "--one", kind, variant]
                done = subprocess.run(call, capture_output=True, text=True, check=True)
                found[variant].append(json.loads(done.stdout.splitlines()[-1]))
        middle = {
            name: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "mib")}
            for name, runs in found.items()
        }
        for name, values in middle.items():
            print(f"{name:<14} {values['seconds']:7.2f} s CPU  {values['mib']:7.0f} MiB above the model")
        seconds = middle[slow]["seconds"] / middle[fast]["seconds"]
        memory = middle[fast]["mib"] / max(middle[slow]["mib"], 1)
        print(f"{fast} against {slow}: {seconds:.2f} times as fast, {memory:.2f} of the memory\n")


def main() -> None:
    """Run one variant, or compare."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
    elif sys.argv[1:] == ["patchout"]:
        compare("patchout", [("none", "40/4")])
    elif sys.argv[1:] == ["attention"]:
        compare("attention", [("ast-eager", "ast-sdpa"), ("passt-eager", "passt-sdpa")])
    else:
        sys.exit("say patchout or attention")


if __name__ == "__main__":
    main()
