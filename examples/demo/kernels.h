// The arithmetic that takes the demo's time: products with packed matrices, softmax, gating, norms.
// Each runs on the caller's thread, in the widest vectors that the processor has. Used by
// model.cc, prefill.cc and decode.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_KERNELS_H_
#define KVGEAR_EXAMPLES_DEMO_KERNELS_H_

#include <cstddef>

namespace demo {

inline constexpr size_t kPanel = 16;  // outputs that lie side by side in a packed matrix

inline size_t PanelCount(size_t outputs) { return (outputs + kPanel - 1) / kPanel; }

/// A matrix [outputs, inputs] in panels of 16 outputs: element (o, i) is at
/// data[o / 16 * panel_stride + i * 16 + o % 16]. What a panel has beyond `outputs` must be finite.
struct PanelView {
  const float* data = nullptr;
  size_t inputs = 0;
  size_t outputs = 0;
  size_t panel_stride = 0;
};

/// y[r, o] = sum over i of x[r, i] w[o, i], for r < rows and the outputs of panels
/// first_panel <= panel < last_panel; with `add` the sum is added to y. The result for a row does
/// not depend on the other rows.
void Multiply(const float* x, size_t x_stride, size_t rows, const PanelView& w, size_t first_panel,
              size_t last_panel, float* y, size_t y_stride, bool add);

/// row[i] = exp(scale * row[i] - m) for i < count, m making the largest 1; 0 for
/// count <= i < padded. Returns the sum. count >= 1.
float SoftmaxRow(float* row, size_t count, size_t padded, float scale);

/// out[i] = silu(gate[i]) * up[i].
void Gate(const float* gate, const float* up, size_t count, float* out);

/// out[i] = x[i] / sqrt(mean of x^2 + eps) * weight[i].
void RmsNorm(const float* x, const float* weight, size_t count, float eps, float* out);

/// The instruction set in use: "avx512", "avx2" or "baseline".
const char* KernelName();

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_KERNELS_H_
