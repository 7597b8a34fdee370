"""Where does the time of a pre-training step with the fused kernels go, and how far is it from the machine's limit?

Each kernel of the step alone, on arrays of the step's shapes, by turns with the whole step; float32, dropout on. What
the kernels do not account for is the rest: MindSpore's launches and operations that are not fused, Python, and caches
that are colder within a step.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.contenders import FIRST, Work, gemm_peak, made
from ms_bert.kernels import native
from ms_bert.tiles import bounds

WORKS = (
    Work("pretraining", "mini", rows=16, tokens=128, slots=20),
    Work("pretraining", "mini", rows=4, tokens=512, slots=77),
    Work("pretraining", "base", rows=8, tokens=128, slots=20),
)
ROUNDS = 9


def measure(output):
    for work in WORKS:
        yield profile(work)


def profile(work: Work) -> dict:
    once, kernels, peak = made(FIRST, work), list(kernels_of(work)), 0.0
    once()
    whole, alone = [], [[] for _ in kernels]
    for _ in range(ROUNDS):
        once()
        whole.append(_timed(once))
        peak = max(peak, gemm_peak(rounds=2)["ms_bert"])
        for seconds, (_, _, _, run) in zip(alone, kernels):
            run()
            seconds.append(_timed(run))
    rows = []
    for seconds, (name, times, flops, _) in zip(alone, kernels):
        median = statistics.median(seconds)
        row = {"kernel": name, "times": times, "milliseconds": round(1e3 * times * median, 2)}
        if flops:
            row["share_of_gemm_peak"] = round(flops / median / 1e9 / peak, 3)
        rows.append(row)
    total = 1e3 * statistics.median(whole)
    products = work.flops / peak / 1e6
    return {
        "preset": work.preset,
        "rows": work.rows,
        "tokens": work.tokens,
        "step_milliseconds": round(total, 1),
        "products_at_gemm_peak_milliseconds": round(products, 1),
        "gemm_peak_gflops_a_second": peak,
        "kernels": sorted(rows, key=lambda row: -row["milliseconds"]),
        "not_in_kernels_milliseconds": round(total - sum(row["milliseconds"] for row in rows), 1),
    }


def kernels_of(work: Work) -> Iterator[tuple[str, int, float, Callable[[], None]]]:
    """Name, how often a step runs it, FLOPs of its products, and a function that runs it once."""
    from ms_bert.kernels.fused import dropout_settings

    c, rng = work.config, np.random.default_rng(0)
    n, h, i, heads, v = work.rows * work.tokens, c.hidden_size, c.intermediate_size, c.num_attention_heads, c.vocab_size
    layers, scored = c.num_hidden_layers, work.rows * work.slots

    def f(*shape):
        return rng.standard_normal(shape, np.float32) * np.float32(0.05)

    def k(*shape):
        return rng.integers(-(2**31), 2**31, shape, dtype=np.int32) | np.int32(1)

    def kernel(name, times, flops, inputs, *shapes):
        outputs = [np.empty(shape, np.float32) for shape in shapes]
        return name, times, flops, lambda: native.call(name, inputs, outputs)

    def in_layers(name, of):
        """A kernel that follows the attention: of all tokens, and in the last layer of those that are read alone."""
        _, _, flops, run = of(n)
        _, _, fewer, run_last = of(work.rows * (work.slots + 1))

        def run_all():
            for _ in range(layers - 1):
                run()
            run_last()

        return name, 1, (layers - 1) * flops + fewer, run_all

    x, wide, b, bi, settings = f(n, h), f(n, i), f(h), f(i), np.array([*dropout_settings(0.1), 1e-12], np.float32)
    square, up, down = f(h, h), f(i, h), f(h, i)
    drawn, scale = (k(n, 1), k(h)), np.abs(f(n))
    one = [square, b]
    yield kernel("projections", layers, 6 * n * h * h, [x, *one * 3], *[(n, h)] * 3)
    yield kernel("projections_gradient", layers, 12 * n * h * h, [x] * 4 + [square] * 3, (n, h), *[(h, h), (h,)] * 3)
    ids = np.ones((work.rows, work.tokens), np.int32)
    keys = (k(n, 1), k(heads * work.tokens), np.array([*dropout_settings(0.1), heads], np.float32))
    scores = 2 * n * work.tokens * h
    statistics_ = f(work.rows, heads, work.tokens, 2)
    yield kernel("attention", layers, 2 * scores, [x, x, x, ids, *keys], (n, h), statistics_.shape)
    # The five products of the gradient, one of which computes the scores again.
    gradient = [x, x, x, x, ids, statistics_, *keys]
    yield kernel("attention_gradient", layers, 5 * scores, gradient, *[(n, h)] * 3)
    for name, y, w in (("attention output", x, square), ("feed-forward output", wide, down)):

        def forward(m, y=y, w=w):
            inputs = [y[:m], w, b, x[:m], b, b, drawn[0][:m], drawn[1], settings]
            return kernel("linear_dropout_add_norm", 1, 2 * m * w.size, inputs, (m, h), (m, h), (m,))

        def backward(m, y=y, w=w):
            inputs = [x[:m], x[:m], scale[:m], y[:m], w, b, drawn[0][:m], drawn[1], settings]
            shapes = (m, y.shape[1]), w.shape, (h,), (m, h), (h,), (h,)
            return kernel("linear_dropout_add_norm_gradient", 1, 4 * m * w.size, inputs, *shapes)

        yield in_layers(f"linear_dropout_add_norm, {name}", forward)
        yield in_layers(f"linear_dropout_add_norm_gradient, {name}", backward)
    yield in_layers("linear_gelu", lambda m: kernel("linear_gelu", 1, 2 * m * h * i, [x[:m], up, bi], (m, i), (m, i)))
    yield in_layers(
        "linear_gelu_gradient",
        lambda m: kernel(
            "linear_gelu_gradient", 1, 4 * m * h * i, [wide[:m], wide[:m], x[:m], up], (m, h), (i, h), (i,)
        ),
    )

    tables = [f(v, h), f(c.type_vocab_size, h), f(c.max_position_embeddings, h)]
    numbers = [rng.integers(0, len(table), ids.shape).astype(np.int32) for table in tables]
    yield kernel("embed", 1, 0, [*numbers, *tables, b, b, *drawn, settings], (n, h), (n, h), (n,))
    shapes = [*[table.shape for table in tables], (h,), (h,)]
    yield kernel("embed_gradient", 1, 0, [x, x, scale, *numbers, b, *drawn, settings, *tables], *shapes)

    y, few, labels = f(scored, h), (scored, h), rng.integers(0, v, scored).astype(np.int32)
    slopes, product = f(scored, v), 2 * scored * h * v
    yield kernel("linear_cross_entropy", 1, product, [y, tables[0], f(v), labels], (scored,), (scored,), (scored, v))
    head = [np.abs(f(scored)), slopes, y, tables[0]]
    yield kernel("linear_cross_entropy_gradient", 1, 2 * product, head, few, (v, h), (v,))
    yield kernel("layer_norm", 1, 0, [y, b, b, np.array([1e-12], np.float32)], few, few, (scored,))
    yield kernel("layer_norm_gradient", 1, 0, [y, y, np.abs(f(scored)), b], few, (h,), (h,))
    _, *rest = kernel("linear_gelu", 1, 2 * scored * h * h, [y, square, b], few, few)
    yield "linear_gelu, MLM head", *rest
    _, *rest = kernel("linear_gelu_gradient", 1, 4 * scored * h * h, [y, y, y, square], few, (h, h), (h,))
    yield "linear_gelu_gradient, MLM head", *rest

    from ms_bert.model import BertForPreTraining, Numerics

    shapes = [p.shape for p in BertForPreTraining(c, Numerics()).trainable_params()]
    flat, m, v, g = ([np.full(shape, 0.1, np.float32) for shape in shapes] for _ in range(4))
    settings = np.array([0, 0.9, 0.1, 0.999, 0.001, 1e-8, 0, 1], np.float32)
    totals, done = [np.empty(len(bounds(shape)), np.float32) for shape in shapes], np.empty(1, np.float32)

    def norm():
        for one, total in zip(g, totals):
            native.call("sums_of_squares", [one], [total])

    def update():
        for arrays in zip(flat, m, v, g):
            native.call("adam", [*arrays, settings], [done])

    yield "sums_of_squares, all parameters", 1, 0, norm
    yield "adam, all parameters", 1, 0, update


def _timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun
