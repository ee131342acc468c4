// Latent layers of a model that was never trained: factors, the plan file that carries them, and what
// their caches are to answer, in double precision from the definitions.
//
// Called by tests only; shares no code with core/latent.
#ifndef KVGEAR_TESTS_SUPPORT_LATENT_MODEL_H_
#define KVGEAR_TESTS_SUPPORT_LATENT_MODEL_H_

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/model/plan.h"
#include "core/model/plan_writer.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"

namespace kvg::test {

enum class Rope { kNone, kHalf, kInterleaved };

struct LatentSpec {
  Shape shape{1, 4, 2, 64};
  uint32_t k_group = 1, v_group = 1;  // heads of a group
  uint32_t k_rank = 32, v_rank = 32;
  Rope rope = Rope::kHalf;
  uint32_t pairs = 0;  // 0 = half of head_dim
  bool bias = false;
  uint64_t seed = 1;
};

// A file in the folder for temporary files that goes when the object goes.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& contents);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

class LatentModel {
 public:
  explicit LatentModel(const LatentSpec& spec);

  PlanWriter Writer(const std::string& recipes = "palu") const;
  std::shared_ptr<const Plan> LoadPlan(const std::string& recipes) const;
  std::unique_ptr<Cache> MakeCache(const std::string& recipes, uint32_t threads = 0) const;

  // z = U^T (x - b) of every group: [tokens, groups, rank]; and U z + b.
  Tensor Down(ops::Side side, const Tensor& x) const;
  Tensor Up(ops::Side side, const Tensor& z) const;
  // Rows of token t turned by the angles of position first + t.
  Tensor Rotated(const Tensor& x, uint64_t first = 0) const;

  const LatentSpec& spec() const { return spec_; }
  const std::vector<float>& factors(ops::Side side) const { return side == ops::kSideK ? k_ : v_; }

 private:
  uint32_t group(ops::Side side) const { return side == ops::kSideK ? spec_.k_group : spec_.v_group; }
  uint32_t rank(ops::Side side) const { return side == ops::kSideK ? spec_.k_rank : spec_.v_rank; }
  std::vector<float> Orthonormal(uint32_t group, uint32_t rank, uint64_t seed) const;
  double Entry(ops::Side side, size_t head, size_t r, size_t d) const {
    return static_cast<double>(
        factors(side)[(head * rank(side) + r) * spec_.shape.head_dim + d]);
  }
  double Bias(ops::Side side, size_t head, size_t d) const {
    const std::vector<float>& bias = side == ops::kSideK ? k_bias_ : v_bias_;
    return bias.empty() ? 0 : static_cast<double>(bias[head * spec_.shape.head_dim + d]);
  }

  const LatentSpec spec_;
  std::vector<float> k_, v_;  // [kv_heads][rank][head_dim]
  std::vector<float> k_bias_, v_bias_;
  std::vector<double> frequencies_;
};

}  // namespace kvg::test

#endif  // KVGEAR_TESTS_SUPPORT_LATENT_MODEL_H_
