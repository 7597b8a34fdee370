"""How long does a pre-training step take on the CPU, in each framework, and how near is it to the machine's peak?

Float32, dropout 0.1, AdamW, clipping, rows without padding; contenders take turns. transformers scores every token, the
others the masked ones only.
"""

from benchmarks.contenders import MAKERS, Work, compare, gemm_peak

WORKS = (
    Work("train", "tiny", rows=16, tokens=128, slots=20),
    Work("train", "mini", rows=16, tokens=128, slots=20),
    Work("train", "small", rows=16, tokens=128, slots=20),
    Work("train", "base", rows=8, tokens=128, slots=20),
    Work("train", "mini", rows=4, tokens=512, slots=76),
    Work("train", "base", rows=2, tokens=512, slots=76),
)
ROUNDS = 11


def measure(output):
    results = []
    for work in WORKS:
        print(f"{work.preset}, {work.rows} x {work.tokens} tokens", flush=True)
        peak = gemm_peak()
        found = compare(list(MAKERS), work, ROUNDS)
        best = max(peak.values())
        for one in found.values():
            one["share_of_gemm_peak"] = round(one["gflops_a_second"] / best, 3)
        results.append(
            {
                "preset": work.preset,
                "rows": work.rows,
                "tokens": work.tokens,
                "masked_a_row": work.slots,
                "gflops_a_step": round(work.flops / 1e9, 2),
                "gemm_peak_gflops_a_second": peak,
                "contenders": found,
            }
        )
    return results
