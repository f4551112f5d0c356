#!/usr/bin/env python3
"""The rivals of bench_unet_gpu: one UNet call of SDXL at 1024 x 1024 and SD 1.5 at 512 x 512 in PyTorch.

    python3 bench/unet_torch.py [--model sdxl|sd15|all] [--rows 16,2] [--compile [--compile-limit 220]] [--mode MODE]
                                [--attention default|cudnn]

Needs torch and diffusers, whose UNet2DConditionModel is built from the models' own configurations.
Weights and inputs are random, of the same spread as bench_unet_gpu's, in float16 and channels last, and cuDNN picks its
algorithms by trial. A line of the table is

    who model precision rows median min max calls      (milliseconds a row, by CUDA events)

    eager           PyTorch as it is                    eager+graph     the same calls, replayed from a CUDA graph
    compile         torch.compile, whole graph          compile+graph   that, replayed from a CUDA graph

--compile takes minutes of CPU time for SDXL. So every model and number of rows compiles in a process of its own, all at
the same time; the GPU is first used when all are ready, by one of them at a time. A process that is not ready after
--compile-limit seconds is given up. --mode is torch.compile's; those named max-autotune measure while they compile and
therefore run one after another.
--attention cudnn asks scaled_dot_product_attention for cuDNN's kernels first.
--device cpu --tiny checks this program where there is no GPU: half the layers, a tenth of the width, float32.
"""
import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import time

WARM, CALLS, MOST_CALLS, SECONDS = 3, 25, 250, 1.0  # as bench_unet_gpu
SIDE = {"sdxl": 128, "sd15": 64}
CONTEXT = {"sdxl": 2048, "sd15": 768}

# The models' published configurations, where they differ from diffusers' defaults.
CONFIG = {
    "sdxl": dict(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        attention_head_dim=(5, 10, 20),  # the number of heads, by its old name
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
    "sd15": dict(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=8,
        cross_attention_dim=768,
    ),
}
BRANCH_ENDS = (".proj_out.weight", ".conv2.weight", ".to_out.0.weight", ".ff.net.2.weight")


def note(text):
    print("# " + text, flush=True)


def randomise(unet):
    """bench/random_model.c's spread: every activation stays near unit variance."""
    import torch
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if p.dim() > 1:
                p.normal_(0, (0.3 if name.endswith(BRANCH_ENDS) else 1.0) / (p.numel() / p.shape[0]) ** 0.5)
            elif name.endswith(".bias"):
                p.normal_(0, 0.02)
            else:
                p.normal_(1, 0.1)


def make_unet(name, options):
    """The network in evaluation mode on its device."""
    import torch
    from diffusers import UNet2DConditionModel
    config = dict(CONFIG[name])
    if options.tiny:
        config.update(block_out_channels=tuple(c // 10 for c in config["block_out_channels"]), layers_per_block=1)
        if name == "sdxl":
            config.update(attention_head_dim=(1, 1, 2), transformer_layers_per_block=(1, 1, 2))
        else:
            config.update(attention_head_dim=2)
    torch.manual_seed(0)
    with torch.device(options.device):
        unet = UNet2DConditionModel(**config)
    unet = unet.to(options.dtype).eval().requires_grad_(False)
    randomise(unet)
    return unet.to(memory_format=torch.channels_last)


def make_inputs(name, rows, options):
    import torch
    kind = dict(device=options.device, dtype=options.dtype)
    torch.manual_seed(1)
    side = 16 if options.tiny else SIDE[name]
    inputs = dict(
        sample=torch.randn(rows, 4, side, side, **kind).to(memory_format=torch.channels_last),
        timestep=torch.linspace(999, 2, rows, device=options.device).round().long(),
        encoder_hidden_states=torch.randn(rows, 77, CONTEXT[name], **kind),
        return_dict=False,
    )
    if name == "sdxl":
        sizes = torch.tensor([[1024, 1024, 0, 0, 1024, 1024]], **kind).expand(rows, 6).contiguous()
        inputs["added_cond_kwargs"] = dict(text_embeds=torch.randn(rows, 1280, **kind), time_ids=sizes)
    return inputs


def attention(options):
    """The order in which scaled_dot_product_attention tries its kernels."""
    if options.attention == "default":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel
    return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
                        SDPBackend.MATH], set_priority=True)


# --- timing ---

def synchronise(options):
    import torch
    if options.device == "cuda":
        torch.cuda.synchronize()


def events_of(call, count, options):
    """Milliseconds of each of count calls."""
    import torch
    if options.device != "cuda":
        stamps = [time.perf_counter()]
        for _ in range(count):
            call()
            stamps.append(time.perf_counter())
        return [1e3 * (b - a) for a, b in zip(stamps, stamps[1:])]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in zip(events, events[1:])]


def time_calls(call, options):
    """Warms up; milliseconds of every timed call."""
    for _ in range(WARM):
        call()
    synchronise(options)
    begin, done = time.perf_counter(), 0
    while done < WARM or time.perf_counter() - begin < options.seconds:
        for _ in range(WARM):
            call()
        synchronise(options)
        done += WARM
    wanted = int(options.seconds * done / (time.perf_counter() - begin))
    return events_of(call, min(max(wanted, options.calls), MOST_CALLS), options)


def graph_of(call):
    """A replay of what the call queues. Raises RuntimeError when that cannot be captured."""
    import torch
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(who, name, rows, call, options):
    """The lines of a callable: by itself, then from a CUDA graph. Ends the program when its output is not finite."""
    import torch

    def line(suffix, ms):
        print(f"{who + suffix:13s} {name:5s} {options.precision:5s} {rows:3d} {statistics.median(ms) / rows:8.3f} "
              f"{min(ms) / rows:8.3f} {max(ms) / rows:8.3f} {len(ms):4d}", flush=True)

    out = call()[0].float()
    if not bool(torch.isfinite(out).all()):
        sys.exit(f"{who} {name}, {rows} rows: the output is not finite, its time says nothing")
    note(f"  {who}: output's standard deviation {out.std().item():.3f}")
    line("", time_calls(call, options))
    if options.device == "cuda":
        try:
            line("+graph", time_calls(graph_of(call), options))
        except RuntimeError as error:
            note(f"  {who}: no CUDA graph: {str(error).splitlines()[0]}")


# --- eager and compiled ---

def prepare(options):
    import torch
    from diffusers.utils import logging
    logging.set_verbosity_error()
    torch.backends.cudnn.benchmark = True
    torch.set_grad_enabled(False)
    options.dtype = torch.float16 if options.device == "cuda" else torch.float32
    options.precision = "fp16" if options.device == "cuda" else "fp32"


def run_eager(options):
    import torch
    for name in options.models:
        unet = make_unet(name, options)
        for rows in options.rows:
            inputs = make_inputs(name, rows, options)
            with attention(options):
                measure("eager", name, rows, lambda: unet(**inputs), options)
        del unet, inputs
        if options.device == "cuda":
            torch.cuda.empty_cache()


def compile_and_measure(pipe, name, rows, options):
    """In a process of its own. Tells the parent "ready" when the compiler is done, before its code first runs."""
    import torch
    prepare(options)
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx
    patches = list_mode_options(options.mode) if options.mode != "default" else {}
    spent = {}

    def backend(graph, example_inputs):
        code = compile_fx(graph, example_inputs, config_patches=patches)
        spent["ready"] = time.perf_counter()
        pipe.send("ready")
        pipe.recv()
        spent["go"] = time.perf_counter()
        return code

    unet, inputs = make_unet(name, options), make_inputs(name, rows, options)
    call = torch.compile(unet, backend=backend, fullgraph=True, dynamic=False)
    spent["begin"] = time.perf_counter()
    with attention(options):
        call(**inputs)
        synchronise(options)
        note(f"  compile ({options.mode}): {name}, {rows} rows: {spent['ready'] - spent['begin']:.0f} s to compile, "
             f"{time.perf_counter() - spent['go']:.1f} s for the first call")
        measure("compile", name, rows, lambda: call(**inputs), options)


def await_ready(worker, deadline):
    """Whether the worker has compiled by then; ends it if not."""
    process, pipe, what = worker
    try:
        if pipe.poll(max(0.0, deadline - time.monotonic())):
            return pipe.recv() == "ready"
        note(f"  compile: {what} given up: not ready in time")
    except EOFError:
        note(f"  compile: {what} failed")
    process.terminate()
    process.join()
    return False


def run_compiled(options):
    """True when every one was measured."""
    jobs = [(name, rows) for name in options.models for rows in options.rows]
    together = 1 if options.mode.startswith("max-autotune") else len(jobs)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, (os.cpu_count() or 1) // together)))
    context = multiprocessing.get_context("spawn")
    good = True
    for first in range(0, len(jobs), together):
        workers = []
        for name, rows in jobs[first:first + together]:
            ours, theirs = context.Pipe()
            process = context.Process(target=compile_and_measure, args=(theirs, name, rows, options))
            process.start()
            theirs.close()
            workers.append((process, ours, f"{name}, {rows} rows"))
        deadline = time.monotonic() + options.compile_limit
        ready = [w for w in workers if await_ready(w, deadline)]
        for process, pipe, _ in ready:
            pipe.send("go")
            process.join()
            good = good and process.exitcode == 0
        good = good and len(ready) == len(workers)
    return good


def versions(options):
    import torch
    import diffusers
    text = f"Python {sys.version.split()[0]}, torch {torch.__version__}, diffusers {diffusers.__version__}"
    if options.device == "cuda":
        import triton
        text += (f", triton {triton.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
                 f"{torch.cuda.get_device_name()}")
    note(text)
    note(f"attention: {options.attention}; torch.compile: {options.mode if options.compile else 'not asked for'}")


def main():
    parser = argparse.ArgumentParser(description="One UNet call in PyTorch, eager and compiled.")
    parser.add_argument("--model", choices=["sdxl", "sd15", "all"], default="all")
    parser.add_argument("--rows", default="16,2")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--compile-limit", type=float, default=220.0, metavar="SECONDS")
    parser.add_argument("--mode", default="default", help="torch.compile's: default, max-autotune-no-cudagraphs")
    parser.add_argument("--attention", choices=["default", "cudnn"], default="default")
    parser.add_argument("--no-eager", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.models = ["sdxl", "sd15"] if options.model == "all" else [options.model]
    options.rows = [int(r) for r in options.rows.split(",")]
    options.calls, options.seconds = (2, 0.1) if options.tiny else (CALLS, SECONDS)
    try:
        import torch
        import diffusers  # noqa: F401
    except ImportError as error:
        sys.exit(f"{error}: this program needs torch and diffusers (pip install torch diffusers)")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU")
    prepare(options)
    versions(options)
    if not options.no_eager:
        run_eager(options)
    if options.compile and not run_compiled(options):
        sys.exit("torch.compile: not everything was measured")


if __name__ == "__main__":
    main()
