// What MindSpore calls: each kernel by its name, for the widest instruction set that both the processor and the build
// have. Compiled for the least that any processor has.
#include <array>
#include <atomic>
#include <cstdio>
#include <new>
#include <string_view>

#include "kernels.h"
#include "threads.h"

namespace ms_bert {
namespace {

struct Choice {
  const char *name;
  const Kernels *kernels;
};

// Those that the processor has, the widest first.
const Choice *choices() {
  static const auto found = [] {
    std::array<Choice, 4> all{};
    int count = 0;
#if defined(MS_BERT_AVX512)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
      all[count++] = {"avx512", &avx512::kernels};
#endif
#if defined(MS_BERT_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all[count++] = {"avx2", &avx2::kernels};
#endif
    all[count++] = {"baseline", &baseline::kernels};
    return all;
  }();
  return found.data();
}

struct AnEncoder {
  const Kernels *kernels;
  void *encoder;
};

std::atomic<const Choice *> used{nullptr};

const Choice &chosen() {
  const Choice *choice = used.load(std::memory_order_relaxed);
  return choice ? *choice : *choices();
}

// Whether all arrays have a type that kernels read; what MindSpore hands them is as the model's user gave it.
bool known(int count, const char **types) {
  for (int i = 0; types && i < count; i++)
    if (std::string_view(types[i]) != "float32" && std::string_view(types[i]) != "int32") return false;
  return true;
}

}  // namespace
}  // namespace ms_bert

extern "C" {

// How many threads the kernels use; 0: as many as the process may run on.
void ms_bert_set_threads(int threads) { ms_bert::set_threads(threads); }
int ms_bert_threads() { return ms_bert::threads(); }
const char *ms_bert_sources() { return MS_BERT_SOURCES; }  // their hash, see sources.py
const char *ms_bert_instructions() { return ms_bert::chosen().name; }

// Use these instructions and no wider ones; 0 where the processor or the build has them not.
int ms_bert_use(const char *name) {
  for (const ms_bert::Choice *choice = ms_bert::choices(); choice->name; choice++)
    if (std::string_view(choice->name) == name) {
      ms_bert::used = choice;
      return 1;
    }
  return 0;
}

// An encoder for inference, or null where there is no memory; it is used with the instructions that it was made with.
// sizes: layers, heads, width, inner, entries of the three tables, activation, causal.
void *ms_bert_encoder(const int64_t *sizes, float epsilon, const float *const *arrays) {
  const ms_bert::Kernels *kernels = ms_bert::chosen().kernels;
  const ms_bert::EncoderShape shape{sizes[0], sizes[1],      sizes[2], sizes[3], {sizes[4], sizes[5], sizes[6]},
                                    sizes[7], sizes[8] != 0, epsilon};
  try {
    return new ms_bert::AnEncoder{kernels, kernels->make_encoder(shape, arrays)};
  } catch (const std::exception &) { return nullptr; }
}

// See `Encoded`; 1 where there is no memory.
int ms_bert_encode(const void *encoder, int64_t sequences, const int64_t *starts, const int32_t *ids,
                   const int32_t *types, const int32_t *positions, float *const *states, int64_t reads,
                   const int64_t *read, float *found) {
  const auto *of = static_cast<const ms_bert::AnEncoder *>(encoder);
  try {
    of->kernels->encode(of->encoder, {sequences, starts, ids, types, positions, states, reads, read, found});
    return 0;
  } catch (const std::exception &) { return 1; }
}

void ms_bert_free_encoder(void *encoder) {
  const auto *of = static_cast<ms_bert::AnEncoder *>(encoder);
  of->kernels->free_encoder(of->encoder);
  delete of;
}

#define MS_BERT_ENTRY(name)                                                                                      \
  int ms_bert_##name(int count, void **data, int *ranks, int64_t **shapes, const char **types, void *, void *) { \
    if (!ms_bert::known(count, types)) {                                                                         \
      std::fprintf(stderr, "ms_bert: " #name " takes float32 and int32 only.\n");                                \
      return 2;                                                                                                  \
    }                                                                                                            \
    try {                                                                                                        \
      ms_bert::chosen().kernels->name({data, ranks, shapes});                                                    \
      return 0;                                                                                                  \
    } catch (const std::exception &) {                                                                           \
      std::fprintf(stderr, "ms_bert: there is no memory left for " #name ".\n");                                 \
      return 1;                                                                                                  \
    }                                                                                                            \
  }
MS_BERT_KERNELS(MS_BERT_ENTRY)
#undef MS_BERT_ENTRY

}  // extern "C"
