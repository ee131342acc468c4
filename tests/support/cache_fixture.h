// Runtimes, caches, tensors and calls in one line each, for tests and benchmarks of kvg::Cache.
//
// Called by tests only. What should never fail throws std::runtime_error with the status, which
// GoogleTest reports as a failed test; what may fail returns the absl::Status.
#ifndef KVGEAR_TESTS_SUPPORT_CACHE_FIXTURE_H_
#define KVGEAR_TESTS_SUPPORT_CACHE_FIXTURE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/cache/cache.h"
#include "tests/support/oracle.h"

namespace kvg::test {

using oracle::Tensor;

// The value, or an exception that carries the sentence.
template <typename T>
T Value(absl::StatusOr<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return *std::move(result);
}
void Must(const absl::Status& status);

// Counts what is asked of it and hands it to the system.
class CountingAllocator {
 public:
  AllocatorTable table();
  uint64_t live_bytes() const { return live_; }
  uint64_t allocations() const { return count_; }
  void FailFrom(uint64_t allocation) { fail_from_ = allocation; }  // counted from the first ever

 private:
  static void* Alloc(void* self, size_t size, size_t alignment);
  static void Release(void* self, void* ptr, size_t size, size_t alignment);
  const AllocatorTable system_ = SystemAllocator();
  std::atomic<uint64_t> live_{0}, count_{0}, fail_from_{UINT64_MAX};
};

std::shared_ptr<Runtime> MakeRuntime(uint32_t threads = 0, uint64_t budget = 0,
                                     CountingAllocator* allocator = nullptr);
Recipe MakeRecipe(const std::string& text);
// All but those that learn a basis: what these seal depends on the queries they have seen. They are
// tested in oracle/basis_test, and where a suite says so.
std::vector<std::string> RecipeNames();

// A runtime, a plan and a cache of their own.
std::unique_ptr<Cache> MakeCache(const Shape& shape, const std::string& recipes,
                                 std::shared_ptr<Runtime> runtime = MakeRuntime());

// The fp16 numbers of a tensor whose values are fp16.
std::vector<uint16_t> ToF16(const Tensor& x);
std::vector<float> ToF32(const Tensor& x);

absl::Status TryAppend(Cache& cache, uint32_t layer, const Tensor& k, const Tensor& v);
void Append(Cache& cache, uint32_t layer, const Tensor& k, const Tensor& v);
// In pieces of these lengths, which must add up to the tensors' tokens.
void AppendParts(Cache& cache, uint32_t layer, const Tensor& k, const Tensor& v,
                 const std::vector<uint64_t>& parts);

uint64_t Length(const Cache& cache, uint32_t layer = 0);
// All tokens of a side, or some, read as fp32.
Tensor Read(const Cache& cache, ops::Side side, uint32_t layer = 0);
Tensor ReadRange(const Cache& cache, ops::Side side, uint32_t layer, uint64_t first,
                 uint64_t tokens);

// q as fp32 (so nothing is rounded on the way), out as fp32.
absl::StatusOr<Tensor> TryAttend(const Cache& cache, uint32_t layer, const Tensor& q,
                                 AttendOptions options = {});
Tensor Attend(const Cache& cache, uint32_t layer, const Tensor& q, AttendOptions options = {});

// One layer outside a cache, for tests that look at its pieces. Layer 0 of a cache that takes the
// same appends holds the same bits.
class SingleLayer {
 public:
  SingleLayer(const Shape& shape, const std::string& recipe,
              std::shared_ptr<Runtime> runtime = MakeRuntime());
  absl::Status TryAppend(const Tensor& k, const Tensor& v);
  void Append(const Tensor& k, const Tensor& v) { Must(TryAppend(k, v)); }
  Tensor Read(ops::Side side) const;
  const SideCache& side(ops::Side side) const { return layer_.side(side); }
  PieceList pieces(ops::Side side) const { return layer_.side(side).Pieces(runtime_->memory()); }
  const SideRecipe& recipe(ops::Side side) const {
    return side == ops::kSideK ? recipe_.k : recipe_.v;
  }
  LayerCache& layer() { return layer_; }
  Runtime& runtime() { return *runtime_; }

 private:
  const std::shared_ptr<Runtime> runtime_;
  const Shape shape_;
  const Recipe recipe_;
  LayerCache layer_;
};

// Everything a cache holds of a layer: both sides, as fp32. Equal content, equal value.
std::vector<double> Content(const Cache& cache, uint32_t layer = 0);

// ------------------------------------------------------------------------------- inputs

// splitmix64: the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  double Uniform();  // [0, 1)
  double Normal();   // mean 0, variance 1, as the sum of uniforms: |x| < 6
 private:
  uint64_t state_;
};

// All values are fp16 values.
Tensor NoiseTensor(uint64_t seed, size_t tokens, size_t heads, size_t dim, double deviation = 1);

// As real keys and values look: an offset per channel (a few large), a slow drift shared by the
// channels of a head, noise, and one entry in `spike_every` far out (0 = none).
Tensor RealisticTensor(uint64_t seed, size_t tokens, size_t heads, size_t dim,
                       size_t spike_every = 97);

// Rounds every value to fp16.
Tensor Rounded(Tensor x);

// Tokens of `a`, then those of `b`.
Tensor Joined(const Tensor& a, const Tensor& b);

// ------------------------------------------------------------------------------ measures

double Distance(const Tensor& a, const Tensor& b);     // Frobenius norm of a - b
double MaxDistance(const Tensor& a, const Tensor& b);  // largest |a - b|
double MaxAbs(const Tensor& x);

// Whether every entry of a token is exactly the same in both.
bool TokenEqual(const Tensor& a, const Tensor& b, size_t token);

}  // namespace kvg::test

#endif  // KVGEAR_TESTS_SUPPORT_CACHE_FIXTURE_H_
