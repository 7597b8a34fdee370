// Elementwise functions on vectors. NaN gives NaN, and infinities what the limits are.
#pragma once

#include "simd.h"

namespace ms_bert {
namespace MS_BERT_ISA {

// e^x, relative error below 1.5e-7: 2^n e^r with |r| <= ln(2) / 2, e^r by a minimax polynomial.
MS_BERT_INLINE Floats exponential(Floats x) {
  const Floats least = all(-87.33654f), most = all(88.02969f);
  Floats y = select(x < least, least, x);
  y = select(y > most, most, y);
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = y * 1.44269504f + magic;
  const Floats n = shifted - magic;
  const Floats r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * 0.00138146128f + 0.00836871006f;
  p = p * r + 0.041668389f;
  p = p * r + 0.166665211f;
  p = p * r + 0.49999994f;
  p = p * (r * r) + r + 1.0f;
  Ints exponent;
  memcpy(&exponent, &shifted, sizeof exponent);
  p *= bits_as_floats((exponent << 23) + (127 << 23));
  p = select(x < least, Floats{}, p);
  return select(x > most, p * __builtin_inff(), p);
}

struct Normal {  // of the standard normal distribution
  Floats distribution, density;
};

// Phi(x) and phi(x): Phi(-|x|) = erfc(|x| / sqrt(2)) / 2, erfc(z) = e^(-z^2) t R(t) with t = 1 / (1 + 0.4 z), R a
// minimax polynomial for 0 <= z <= 9.5, relative error below 3e-7 with the rounding of its terms.
MS_BERT_INLINE Normal normal(Floats x) {
  const Floats size = select(x < 0.0f, -x, x);
  const Floats gauss = exponential(x * x * -0.5f);
  const Floats t = 1.0f / (1.0f + size * 0.282842712f);
  Floats r = t * -0.0305953324f + 0.203475177f;
  r = r * t + -0.511723101f;
  r = r * t + 0.564756393f;
  r = r * t + -0.298869014f;
  r = r * t + 0.279909283f;
  r = r * t + 0.126945212f;
  r = r * t + 0.215510651f;
  r = r * t + 0.224880069f;
  r = r * t + 0.22571066f;
  const Floats tail = 0.5f * gauss * t * r;
  return {select(x > 0.0f, 1.0f - tail, tail), gauss * 0.398942280f};
}

struct Gelu {  // x Phi(x), Hendrycks and Gimpel (2016)
  static MS_BERT_INLINE Floats value(Floats x) {
    const Floats p = normal(x).distribution;
    return select(p == 0.0f, Floats{}, x * p);  // at minus infinity 0, not NaN
  }
  static MS_BERT_INLINE Floats slope(Floats x) {
    const Normal n = normal(x);
    return n.distribution + select(n.density == 0.0f, Floats{}, x * n.density);
  }
};

struct GeluNew {  // x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), the tanh form of Google's code
  struct Sigmoid {
    Floats value, slope;  // neither from 1 - sigmoid, which loses digits
  };
  static MS_BERT_INLINE Sigmoid sigmoid(Floats x) {
    const Floats t = 1.59576912f * (x + 0.044715f * x * x * x);
    const Floats e = exponential(select(t > 0.0f, -t, t)), inverse = 1.0f / (1.0f + e);
    return {select(t > 0.0f, inverse, e * inverse), e * inverse * inverse};
  }
  static MS_BERT_INLINE Floats value(Floats x) {
    const Floats s = sigmoid(x).value;
    return select(s == 0.0f, Floats{}, x * s);
  }
  static MS_BERT_INLINE Floats slope(Floats x) {
    const Sigmoid s = sigmoid(x);
    const Floats inner = x * (1.59576912f + 0.214064449f * x * x);
    return s.value + select(s.slope == 0.0f, Floats{}, inner * s.slope);
  }
};

struct Relu {
  static MS_BERT_INLINE Floats value(Floats x) { return select(x < 0.0f, Floats{}, x); }
  static MS_BERT_INLINE Floats slope(Floats x) { return select(x > 0.0f, all(1.0f), select(x == x, Floats{}, x)); }
};

struct Identity {
  static MS_BERT_INLINE Floats value(Floats x) { return x; }
  static MS_BERT_INLINE Floats slope(Floats x) { return all(1.0f); }
};

// Dropout's factors for elements of one row: 0 or 1 / (1 - rate), see `stock.dropout`.
struct Dropout {
  int32_t threshold;
  float scale;
  bool on;
  Dropout() : threshold(INT32_MIN), scale(1.0f), on(false) {}
  // From the halves of the threshold, which a float holds where it would round the whole, and the scale.
  explicit Dropout(const float *settings)
      : threshold(static_cast<int32_t>(settings[0]) * 65536 + static_cast<int32_t>(settings[1])), scale(settings[2]),
        on(threshold > INT32_MIN) {}
  MS_BERT_INLINE Floats factors(int32_t row_key, Ints column_keys) const {
    typedef uint32_t Unsigned __attribute__((vector_size(4 * W)));  // wraps, where signed overflow is undefined
    const Unsigned product = static_cast<uint32_t>(row_key) * (Unsigned)column_keys;
    return select((Ints)product >= threshold, all(scale), Floats{});
  }
};

}  // namespace MS_BERT_ISA
}  // namespace ms_bert
