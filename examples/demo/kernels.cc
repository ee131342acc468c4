// One body per kernel, written on vectors of N floats, and compiled once per instruction set.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace demo {
namespace {

#define KVG_DEMO_INLINE [[gnu::always_inline]] inline

// Vectors of the compiler's own kind. They never cross a call that is not inlined.
template <size_t N>
struct Wide;
template <>
struct Wide<4> {
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
};
template <>
struct Wide<8> {
  typedef float F __attribute__((vector_size(32)));
  typedef int32_t I __attribute__((vector_size(32)));
};
template <>
struct Wide<16> {
  typedef float F __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
};

template <class V>
KVG_DEMO_INLINE void LoadTo(V& v, const float* p) {
  std::memcpy(&v, p, sizeof(V));
}

template <class V>
KVG_DEMO_INLINE void StoreFrom(const V& v, float* p) {
  std::memcpy(p, &v, sizeof(V));
}

template <size_t N>
KVG_DEMO_INLINE float SumOf(const typename Wide<N>::F& v) {
  float sum = 0;
  for (size_t i = 0; i < N; ++i) sum += v[i];
  return sum;
}

/// v = exp(v), to about 2e-7, for v <= 88; below -87 it stays at exp(-87).
template <size_t N>
KVG_DEMO_INLINE void ExpInPlace(typename Wide<N>::F& v) {
  using F = typename Wide<N>::F;
  using I = typename Wide<N>::I;
  const F low = F{} - 87.0f;
  const F x = v > low ? v : low;
  const F shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the last bits are round(x / ln 2)
  const F n = shifted - 12582912.0f;
  const F r = x - n * 0.693359375f + n * 2.12194440e-4f;
  F p = F{} + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  I bits, exponent;
  std::memcpy(&bits, &p, sizeof(bits));
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  bits += exponent << 23;
  std::memcpy(&v, &bits, sizeof(v));
}

/// R rows times one panel, over `inputs` inputs.
template <size_t N, size_t R>
KVG_DEMO_INLINE void Tile(const float* x, size_t x_stride, const float* panel, size_t inputs,
                          float* y, size_t y_stride, size_t width, bool add) {
  using F = typename Wide<N>::F;
  constexpr size_t kParts = kPanel / N;
  F sum[R][kParts] = {};
  for (size_t i = 0; i < inputs; ++i) {
    F w[kParts];
    for (size_t p = 0; p < kParts; ++p) LoadTo(w[p], panel + i * kPanel + p * N);
    for (size_t r = 0; r < R; ++r) {
      const float xi = x[r * x_stride + i];
      for (size_t p = 0; p < kParts; ++p) sum[r][p] += xi * w[p];
    }
  }
  for (size_t r = 0; r < R; ++r) {
    float* out = y + r * y_stride;
    if (width == kPanel) {
      for (size_t p = 0; p < kParts; ++p) {
        if (add) {
          F old;
          LoadTo(old, out + p * N);
          sum[r][p] += old;
        }
        StoreFrom(sum[r][p], out + p * N);
      }
    } else {
      float all[kPanel];
      for (size_t p = 0; p < kParts; ++p) StoreFrom(sum[r][p], all + p * N);
      for (size_t o = 0; o < width; ++o) out[o] = add ? out[o] + all[o] : all[o];
    }
  }
}

template <size_t N>
KVG_DEMO_INLINE void MultiplyBody(const float* x, size_t x_stride, size_t rows, const PanelView& w,
                                  size_t first_panel, size_t last_panel, float* y, size_t y_stride,
                                  bool add) {
  // On 16-byte vectors six rows of four sums do not fit into the registers.
  constexpr size_t kRows = N == 4 ? 2 : 6;
  constexpr size_t kInputs = 512;  // a slice of a panel that stays in the first-level cache
  for (size_t begin = 0; begin < w.inputs; begin += kInputs) {
    const size_t inputs = std::min(kInputs, w.inputs - begin);
    const bool onto = add || begin > 0;
    for (size_t panel = first_panel; panel < last_panel; ++panel) {
      const float* data = w.data + panel * w.panel_stride + begin * kPanel;
      const size_t width = std::min(kPanel, w.outputs - panel * kPanel);
      const float* xr = x + begin;
      float* yr = y + panel * kPanel;
      size_t r = 0;
      for (; r + kRows <= rows; r += kRows) {
        Tile<N, kRows>(xr + r * x_stride, x_stride, data, inputs, yr + r * y_stride, y_stride,
                       width, onto);
      }
      for (; r + 2 <= rows; r += 2) {
        Tile<N, 2>(xr + r * x_stride, x_stride, data, inputs, yr + r * y_stride, y_stride, width,
                   onto);
      }
      if (r < rows) {
        Tile<N, 1>(xr + r * x_stride, x_stride, data, inputs, yr + r * y_stride, y_stride, width,
                   onto);
      }
    }
  }
}

template <size_t N>
KVG_DEMO_INLINE float SoftmaxRowBody(float* row, size_t count, size_t padded, float scale) {
  using F = typename Wide<N>::F;
  float most = -INFINITY;
  for (size_t i = 0; i < count; ++i) most = row[i] > most ? row[i] : most;
  most *= scale;
  F sums = {};
  size_t i = 0;
  for (; i + N <= count; i += N) {
    F v;
    LoadTo(v, row + i);
    v = v * scale - most;
    ExpInPlace<N>(v);
    sums += v;
    StoreFrom(v, row + i);
  }
  float sum = SumOf<N>(sums);
  for (; i < count; ++i) {
    row[i] = std::exp(row[i] * scale - most);
    sum += row[i];
  }
  for (; i < padded; ++i) row[i] = 0;
  return sum;
}

template <size_t N>
KVG_DEMO_INLINE void GateBody(const float* gate, const float* up, size_t count, float* out) {
  using F = typename Wide<N>::F;
  size_t i = 0;
  for (; i + N <= count; i += N) {
    F g, u;
    LoadTo(g, gate + i);
    LoadTo(u, up + i);
    const F high = F{} + 80.0f;
    F e = -g < high ? -g : high;
    ExpInPlace<N>(e);
    StoreFrom(F(g / (1.0f + e) * u), out + i);
  }
  for (; i < count; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

template <size_t N>
KVG_DEMO_INLINE void RmsNormBody(const float* x, const float* weight, size_t count, float eps,
                                 float* out) {
  using F = typename Wide<N>::F;
  F squares = {};
  size_t i = 0;
  for (; i + N <= count; i += N) {
    F v;
    LoadTo(v, x + i);
    squares += v * v;
  }
  float sum = SumOf<N>(squares);
  for (; i < count; ++i) sum += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(sum / static_cast<float>(count) + eps);
  for (i = 0; i < count; ++i) out[i] = x[i] * factor * weight[i];
}

struct Table {
  const char* name;
  decltype(&Multiply) multiply;
  decltype(&SoftmaxRow) softmax_row;
  decltype(&Gate) gate;
  decltype(&RmsNorm) rms_norm;
};

// A set of kernels in vectors of N floats, compiled with the function attribute ATTRIBUTE.
#define KVG_DEMO_KERNELS(ID, NAME, N, ATTRIBUTE)                                                   \
  ATTRIBUTE void Multiply##ID(const float* x, size_t x_stride, size_t rows, const PanelView& w,    \
                              size_t first_panel, size_t last_panel, float* y, size_t y_stride,    \
                              bool add) {                                                          \
    MultiplyBody<N>(x, x_stride, rows, w, first_panel, last_panel, y, y_stride, add);              \
  }                                                                                                \
  ATTRIBUTE float SoftmaxRow##ID(float* row, size_t count, size_t padded, float scale) {           \
    return SoftmaxRowBody<N>(row, count, padded, scale);                                           \
  }                                                                                                \
  ATTRIBUTE void Gate##ID(const float* gate, const float* up, size_t count, float* out) {          \
    GateBody<N>(gate, up, count, out);                                                             \
  }                                                                                                \
  ATTRIBUTE void RmsNorm##ID(const float* x, const float* weight, size_t count, float eps,         \
                             float* out) {                                                         \
    RmsNormBody<N>(x, weight, count, eps, out);                                                    \
  }                                                                                                \
  constexpr Table kTable##ID = {NAME, &Multiply##ID, &SoftmaxRow##ID, &Gate##ID, &RmsNorm##ID};

KVG_DEMO_KERNELS(Base, "baseline", 4, )
#if defined(__x86_64__)
KVG_DEMO_KERNELS(Avx2, "avx2", 8, __attribute__((target("avx2,fma"))))
KVG_DEMO_KERNELS(Avx512, "avx512", 16, __attribute__((target("avx512f,avx512dq,avx512vl,fma"))))
#endif

const Table& Kernels() {
  static const Table& best = []() -> const Table& {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
      return kTableAvx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kTableAvx2;
#endif
    return kTableBase;
  }();
  return best;
}

}  // namespace

void Multiply(const float* x, size_t x_stride, size_t rows, const PanelView& w, size_t first_panel,
              size_t last_panel, float* y, size_t y_stride, bool add) {
  Kernels().multiply(x, x_stride, rows, w, first_panel, last_panel, y, y_stride, add);
}

float SoftmaxRow(float* row, size_t count, size_t padded, float scale) {
  return Kernels().softmax_row(row, count, padded, scale);
}

void Gate(const float* gate, const float* up, size_t count, float* out) {
  Kernels().gate(gate, up, count, out);
}

void RmsNorm(const float* x, const float* weight, size_t count, float eps, float* out) {
  Kernels().rms_norm(x, weight, count, eps, out);
}

const char* KernelName() { return Kernels().name; }

}  // namespace demo
