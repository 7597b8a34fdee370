// What MindSpore calls: each kernel by its name, for the widest instruction set that both the processor and the build
// have. Compiled for the least that any processor has.
#include <array>
#include <atomic>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <string_view>

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"
#include "threads.h"

namespace ms_bert {
namespace {

struct Choice {
  const char *name;
  const Kernels *kernels;
};

enum Precision { FLOAT32, BFLOAT16, INT8, PRECISIONS };  // of products

using Choices = std::array<Choice, 5>;

bool has_avx512() {
#if defined(__x86_64__) || defined(__i386__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#else
  return false;
#endif
}

enum Tiles { OF_BFLOAT16 = 22, OF_INT8 = 25 };  // bits of cpuid

// Whether the processor has tiles that multiply these, and the system lets this process use them.
bool has_amx([[maybe_unused]] Tiles kind) {
#if defined(__linux__) && defined(__x86_64__) && defined(SYS_arch_prctl)
  unsigned a, b, c, d;
  constexpr unsigned tiles = 1u << 24, saved = 1u << 27;  // of cpuid: there are tiles; there is xgetbv
  if (!has_avx512() || !__get_cpuid(1, &a, &b, &c, &d) || !(c & saved)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & tiles) || !(d >> kind & 1)) return false;
  unsigned states, rest;
  __asm__("xgetbv" : "=a"(states), "=d"(rest) : "c"(0));
  constexpr unsigned of_tiles = 3u << 17;     // that the system keeps when it changes between threads
  constexpr int ask_for = 0x1023, data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return (states & of_tiles) == of_tiles && syscall(SYS_arch_prctl, ask_for, data) == 0;
#else
  return false;
#endif
}

// Those that the processor has, the widest first, and then none. Those by hand are for tests alone.
Choices found(Precision precision) {
  Choices all{};
  Choice *next = all.data();
  if (precision == FLOAT32) {
#if defined(MS_BERT_AVX512)
    if (has_avx512()) *next++ = {"avx512", &avx512::kernels};
#endif
#if defined(MS_BERT_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) *next++ = {"avx2", &avx2::kernels};
#endif
    *next = {"baseline", &baseline::kernels};
  } else if (precision == BFLOAT16) {
#if defined(MS_BERT_AMX_BF16)
    if (__builtin_cpu_supports("avx512bf16") && has_amx(OF_BFLOAT16)) *next++ = {"amx_bf16", &amx_bf16::kernels};
#endif
#if defined(MS_BERT_AVX512_BF16)
    if (has_avx512() && __builtin_cpu_supports("avx512bf16")) *next++ = {"avx512_bf16", &avx512_bf16::kernels};
#endif
    *next++ = {"baseline", &baseline_bf16::kernels};
    *next = {"tiles_by_hand", &tiles_by_hand_bf16::kernels};
  } else {
#if defined(MS_BERT_AMX_INT8)
    if (__builtin_cpu_supports("avx512vnni") && has_amx(OF_INT8)) *next++ = {"amx_int8", &amx_int8::kernels};
#endif
#if defined(MS_BERT_AVX512_VNNI)
    if (has_avx512() && __builtin_cpu_supports("avx512vnni")) *next++ = {"avx512_vnni", &avx512_vnni::kernels};
#endif
    *next++ = {"baseline", &baseline_int8::kernels};
    *next = {"tiles_by_hand", &tiles_by_hand_int8::kernels};
  }
  return all;
}

// The same, found out when they are asked for: only who multiplies by tiles asks the system for them.
const Choice *choices(Precision precision) {
  if (precision == FLOAT32) {
    static const Choices float32 = found(FLOAT32);
    return float32.data();
  }
  if (precision == BFLOAT16) {
    static const Choices bfloat16 = found(BFLOAT16);
    return bfloat16.data();
  }
  static const Choices int8 = found(INT8);
  return int8.data();
}

struct AnEncoder {
  const Kernels *kernels;
  void *encoder;
};

std::atomic<const Choice *> used[PRECISIONS];

const Choice &chosen(Precision precision) {
  const Choice *choice = used[precision].load(std::memory_order_relaxed);
  return choice ? *choice : *choices(precision);
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

// `precision`, here and below: of the products, 0 for float32, 1 for bfloat16 and 2, of encoders, for int8.

// How many threads the kernels use; 0: as many as the process may run on.
void ms_bert_set_threads(int threads) { ms_bert::set_threads(threads); }
int ms_bert_threads() { return ms_bert::threads(); }
const char *ms_bert_sources() { return MS_BERT_SOURCES; }  // their hash, see sources.py

const char *ms_bert_instructions(int precision) {
  return ms_bert::chosen(static_cast<ms_bert::Precision>(precision)).name;
}

// Use these instructions and no wider ones; 0 where the processor or the build has them not.
int ms_bert_use(int precision, const char *name) {
  const auto of = static_cast<ms_bert::Precision>(precision);
  for (const ms_bert::Choice *choice = ms_bert::choices(of); choice->name; choice++)
    if (std::string_view(choice->name) == name) {
      ms_bert::used[of] = choice;
      return 1;
    }
  return 0;
}

double ms_bert_product_seconds(int precision) {
  return ms_bert::chosen(static_cast<ms_bert::Precision>(precision)).kernels->product_seconds();
}

// An encoder for inference, or null where there is no memory; it is used with the instructions that it was made with.
// sizes: layers, heads, width, inner, entries of the three tables, activation, causal.
void *ms_bert_encoder(int precision, const int64_t *sizes, float epsilon, const float *const *arrays) {
  const ms_bert::Kernels *kernels = ms_bert::chosen(static_cast<ms_bert::Precision>(precision)).kernels;
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

#define MS_BERT_ENTRY_OF(precision, prefix, name)                                                              \
  int prefix##name(int count, void **data, int *ranks, int64_t **shapes, const char **types, void *, void *) { \
    if (!ms_bert::known(count, types)) {                                                                       \
      std::fprintf(stderr, "ms_bert: " #name " takes float32 and int32 only.\n");                              \
      return 2;                                                                                                \
    }                                                                                                          \
    try {                                                                                                      \
      ms_bert::chosen(precision).kernels->name({data, ranks, shapes});                                         \
      return 0;                                                                                                \
    } catch (const std::invalid_argument &refused) {                                                           \
      std::fprintf(stderr, "ms_bert: " #name ": %s.\n", refused.what());                                       \
      return 2;                                                                                                \
    } catch (const std::exception &) {                                                                         \
      std::fprintf(stderr, "ms_bert: there is no memory left for " #name ".\n");                               \
      return 1;                                                                                                \
    }                                                                                                          \
  }
#define MS_BERT_ENTRY(name)                          \
  MS_BERT_ENTRY_OF(ms_bert::FLOAT32, ms_bert_, name) \
  MS_BERT_ENTRY_OF(ms_bert::BFLOAT16, ms_bert_bfloat16_, name)
MS_BERT_KERNELS(MS_BERT_ENTRY)
#undef MS_BERT_ENTRY
#undef MS_BERT_ENTRY_OF

}  // extern "C"
