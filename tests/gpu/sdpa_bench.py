"""Times scaled_dot_product_attention of PyTorch at decode, by graph replay over buffers beyond the L2.

    python3 tests/gpu/sdpa_bench.py out.json

The yardstick of tests/gpu/attend_bench.cc: fp16, one query, the fastest back end of each kind.
"""
import json
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = [
    (1, 32, 8, 1024), (1, 32, 8, 8192), (1, 32, 8, 32768), (1, 32, 8, 131072),
    (8, 32, 8, 4096), (8, 32, 8, 32768), (64, 32, 8, 1024), (64, 32, 8, 4096),
    (64, 32, 8, 8192), (1, 32, 32, 32768), (16, 64, 8, 16384),
]
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def graph_time(run, launches, replays=7):
    """Median microseconds of one launch."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            run(i)
    times = []
    for i in range(replays + 2):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(start.elapsed_time(stop) * 1e3 / launches)
    return sorted(times)[len(times) // 2]


def main(out):
    a = torch.empty(1 << 30, dtype=torch.float16, device="cuda").fill_(1)
    b = torch.empty_like(a)
    copy = 2 * a.numel() * 2 / graph_time(lambda i: b.copy_(a), 1) * 1e-3
    del a, b
    rows = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy rate {copy:.0f} GB/s")
    for batch, q_heads, kv_heads, tokens in SHAPES:
        size = 2 * batch * kv_heads * tokens * 128 * 2
        sets = min(64, (512 << 20) // size + 2)
        make = lambda heads, n: torch.randn(batch, heads, n, 128, dtype=torch.float16, device="cuda")
        qs = [make(q_heads, 1) for _ in range(sets)]
        ks = [make(kv_heads, tokens) for _ in range(sets)]
        vs = [make(kv_heads, tokens) for _ in range(sets)]
        row = {"shape": f"{batch},{q_heads},{kv_heads},{tokens},128", "bytes": size}
        for name, backend in BACKENDS.items():
            def run(i):
                torch.nn.functional.scaled_dot_product_attention(
                    qs[i % sets], ks[i % sets], vs[i % sets], enable_gqa=q_heads != kv_heads)
            try:
                with sdpa_kernel(backend):
                    launches = max(sets, int(2000 / max(size / 4e6, 8)) // sets * sets)
                    row[name] = graph_time(run, launches)
            except RuntimeError as error:
                row[name] = None
                print(name, "failed:", str(error).split("\n")[0])
        rows.append(row)
        print(row, flush=True)
        del qs, ks, vs
        torch.cuda.empty_cache()
    with open(out, "w") as f:
        json.dump({"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                   "copy_gbps": copy, "rows": rows}, f)


main(sys.argv[1] if len(sys.argv) > 1 else "sdpa.json")
